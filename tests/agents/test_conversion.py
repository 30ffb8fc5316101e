"""Values from YAML and the command line, as the types they are for."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from agents.conversion import Count, Natural, Positive, Range, ScheduleSpec, Share, convert


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        ("100_000", int, 100_000),
        ("1e5", int, 100_000),
        (2.0, int, 2),
        (10**17 + 1, int, 10**17 + 1),  # beyond what a float can hold
        ("1e-3", float, 0.001),
        (1, float, 1.0),
        (True, bool, True),
        ("a", str, "a"),
        (None, int | None, None),
        ("7", int | None, 7),
        ([64, "32"], list[int], [64, 32]),
        ({"pi": [64]}, list[int] | dict[str, list[int]] | None, {"pi": [64]}),
        ("1e-3", ScheduleSpec, 0.001),
        ("linear:1:0", ScheduleSpec, "linear:1:0"),
        ({"kind": "cosine"}, ScheduleSpec, {"kind": "cosine"}),
        (0, Natural, 0),
        (1, Share, 1.0),
        ("mean", Literal["value", "mean"], "mean"),
    ],
)
def test_converts(value, hint, expected):
    converted = convert(value, hint)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (2.5, int, "must be a whole number, got 2.5"),
        ("many", int | None, "must be a whole number, got 'many'"),
        (True, int, "must be a whole number, got True"),
        ("nan", Positive, "must be a number, got 'nan'"),
        (1, bool, "must be true or false, got 1"),
        (5, str, "must be text, got 5"),
        (0, Count, "must be at least 1, got 0"),
        (0.0, Positive, "must be above 0, got 0.0"),
        (1.5, Share, "must be between 0 and 1, got 1.5"),
        (0, Annotated[float, Range(0, 1, above=True)], "must be above 0 and at most 1, got 0"),
        ([1.5], list[int], "must be a whole number, got 1.5"),
        ("x", dict[str, int], "must be a mapping, got 'x'"),
        ([1], ScheduleSpec, "must be a number or a schedule such as exponential:1.0:0.3, got [1]"),
        ("mena", Literal["value", "mean"], "must be one of value, mean, got 'mena' (did you mean 'mean'?)"),
    ],
)
def test_refuses(value, hint, message):
    with pytest.raises(ValueError, match=r"^must be") as caught:
        convert(value, hint)
    assert str(caught.value) == message
