"""Schedules: their values by hand, their spelling, and what is refused."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gumbel_rl import make_schedule, make_temperature
from gumbel_rl.schedules import SCHEDULES, Constant, Cosine, Exponential, Linear, Piecewise, Schedule

# Schedule, and its values after 0, 25, 50, 75, 100 of 100 steps, worked out by hand.
BY_HAND: list[tuple[Schedule, list[float]]] = [
    (Constant(0.7), [0.7] * 5),
    (Linear(1.0, 0.2), [1.0, 0.8, 0.6, 0.4, 0.2]),
    (Linear(0.0, 4.0), [0.0, 1.0, 2.0, 3.0, 4.0]),
    (Exponential(16.0, 1.0), [16.0, 8.0, 4.0, 2.0, 1.0]),
    (Cosine(1.0, 0.0), [1.0, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 0.0]),
    (Piecewise({50: 2.0, 0: 1.0, 75: 0.0}), [1.0, 1.5, 2.0, 0.0, 0.0]),
    (Piecewise({25: 3.0}), [3.0] * 5),
    (Linear(1.0, 0.2, floor=0.5), [1.0, 0.8, 0.6, 0.5, 0.5]),
    (Exponential(16.0, 1.0, floor=3.0), [16.0, 8.0, 4.0, 3.0, 3.0]),
    (Piecewise({0: 1.0, 50: 0.0, 100: 1.0}, floor=0.25), [1.0, 0.5, 0.25, 0.5, 1.0]),
    (Constant(0.1, floor=0.3), [0.3] * 5),
]


@pytest.mark.parametrize(("schedule", "values"), BY_HAND, ids=str)
def test_values_by_hand(schedule: Schedule, values: list[float]) -> None:
    spanning = schedule.over(100)
    assert [spanning(step) for step in (0, 25, 50, 75, 100)] == pytest.approx(values, abs=1e-12)
    # Resuming overshoots, and some callers start below 0: the ends hold.
    assert spanning(-10) == pytest.approx(values[0])
    assert spanning(10**9) == pytest.approx(values[-1])


@pytest.mark.parametrize(("schedule", "values"), BY_HAND, ids=str)
def test_lowest_is_the_lowest_value(schedule: Schedule, values: list[float]) -> None:
    spanning = schedule.over(100)
    assert spanning.lowest == pytest.approx(min(spanning(step) for step in range(101)), abs=1e-12)
    assert schedule.lowest == spanning.lowest


@pytest.mark.parametrize("kind", ["linear", "exponential", "cosine"])
def test_ramps_really_anneal_and_hit_both_ends(kind: str) -> None:
    schedule = make_schedule(f"{kind}:1.0:0.3:2000")
    values = [schedule(step) for step in range(0, 2001, 100)]
    assert values[0] == 1.0
    assert values[-1] == 0.3
    assert all(earlier > later for earlier, later in pairwise(values))


def test_a_length_of_its_own_wins_over_the_run() -> None:
    assert Linear(1.0, 0.0, 10).over(1000)(5) == 0.5
    assert Linear(1.0, 0.0).over(1000).over(10)(500) == 0.5
    assert Piecewise({10: 1.0}).over(5) == Piecewise({10: 1.0})


def test_a_schedule_without_length_says_so() -> None:
    with pytest.raises(ValueError, match=r"over\(total_steps\)"):
        Linear(1.0, 0.5)(3)


# Spelling.

SPELLINGS: list[tuple[Any, Schedule]] = [
    (0.7, Constant(0.7)),
    (1, Constant(1.0)),
    (np.float32(0.5), Constant(0.5)),
    ("0.7", Constant(0.7)),
    ("0.7:floor=0.1", Constant(0.7, floor=0.1)),
    ("constant:2", Constant(2.0)),
    ("linear:1:0.5", Linear(1.0, 0.5)),
    (" linear : 1 : 0.5 : 2e4 ", Linear(1.0, 0.5, 20000.0)),
    ("linear:1:0.5:steps=20000:floor=0.6", Linear(1.0, 0.5, 20000.0, floor=0.6)),
    ("linear:end=0.5:start=1", Linear(1.0, 0.5)),
    ("exponential:1.0:0.3", Exponential(1.0, 0.3)),
    ("cosine:1:0.3:500", Cosine(1.0, 0.3, 500.0)),
    ("piecewise:5000=0.5,0=1", Piecewise({0: 1.0, 5000: 0.5})),
    ("piecewise:0=1,100=0.1:floor=0.2", Piecewise({0: 1.0, 100: 0.1}, floor=0.2)),
    ({"kind": "constant", "value": 0.7}, Constant(0.7)),
    ({"kind": "cosine", "start": 1, "end": "0.3", "steps": 20000}, Cosine(1.0, 0.3, 20000.0)),
    ({"kind": "linear", "start": 1, "end": 0.5, "steps": None, "floor": None}, Linear(1.0, 0.5)),
    ({"kind": "piecewise", "points": {"0": 1, 10: "0.5"}, "floor": 0.1}, Piecewise({0: 1.0, 10: 0.5}, floor=0.1)),
    (Linear(1.0, 0.5), Linear(1.0, 0.5)),
]


@pytest.mark.parametrize(("spec", "schedule"), SPELLINGS, ids=[str(spec) for spec, _ in SPELLINGS])
def test_spelling(spec: Any, schedule: Schedule) -> None:
    assert make_schedule(spec) == schedule
    assert make_temperature(spec) == schedule


def test_every_kind_has_a_spelling() -> None:
    assert {type(schedule) for _, schedule in SPELLINGS} == set(SCHEDULES.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lineer:1:0.5", "did you mean 'linear'"),
        ("exp:1:0.5", "did you mean 'exponential'|no kind 'exp'"),
        ("cosin", "did you mean 'cosine'"),
        ("", "no kind ''"),
        ("linear", "lacks start and end"),
        ("linear:1", "lacks end"),
        ("constant", "lacks value"),
        ("piecewise", "lacks points"),
        ("linear:1:fast", "'fast'"),
        ("linear:1:0.5:100:200", "'200' is one value too many"),
        ("linear:1:0.5:step=3", "no option 'step', only .*steps"),
        ("linear:1:0.5:0", "positive number, got 0"),
        ("linear:1:0.5:-5", "positive number, got -5"),
        ("linear:1:0.5:inf", "positive number, got inf"),
        ("linear:1:nan", "finite"),
        ("inf", "finite"),
        ("constant:0.5:floor=nan", "finite"),
        ("exponential:1:0", "positive ends"),
        ("exponential:-1:-2", "positive ends"),
        ("piecewise:1", "could not convert"),
        ("piecewise:0=a", "could not convert"),
        ("piecewise:-5=1", "steps of 0 or more"),
        ({}, "lacks a kind"),
        ({"start": 1.0}, "lacks a kind"),
        ({"kind": "linaer", "start": 1.0}, "did you mean 'linear'"),
        ({"kind": "linear", "begin": 1.0, "end": 0.5}, "no option 'begin', only .*start"),
        ({"kind": "linear", "start": [1], "end": 0.5}, "not understood"),
        ({"kind": "piecewise", "points": {}}, "needs points"),
        ({"kind": "piecewise", "points": [[0, 1.0]]}, "map steps to values"),
        ({"kind": "piecewise", "points": {0: 1.0}, "steps": 100}, "no option 'steps'"),
    ],
    ids=str,
)
def test_what_is_refused_and_why(spec: str | Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_schedule(spec)
    assert repr(spec) in str(error.value)  # what was given
    assert "linear|exponential|cosine:START:END" in str(error.value)  # what would be right
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", [None, True, [1.0], object()])
def test_other_types_are_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match="a number, a string or a mapping"):
        make_schedule(spec)


@pytest.mark.parametrize(
    ("spec", "reached"),
    [(0, "0"), ("-0.5", "-0.5"), ("linear:1:0", "0"), ("cosine:-1:1", "-1"), ("piecewise:0=1,9=0", "0")],
)
def test_a_temperature_stays_above_zero(spec: float | str, reached: str) -> None:
    with pytest.raises(ValueError, match=f"must stay above 0, but .* reaches {reached}$"):
        make_temperature(spec)
    if isinstance(spec, str) and ":" in spec:  # a floor saves it
        assert make_temperature(f"{spec}:floor=0.1").lowest == 0.1


@pytest.mark.parametrize(("schedule", "values"), BY_HAND, ids=str)
def test_schedules_survive_pickling(schedule: Schedule, values: list[float]) -> None:
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule
    assert twin.over(100)(50) == pytest.approx(values[2])


def test_schedules_cannot_be_changed_behind_ones_back() -> None:
    with pytest.raises(AttributeError):
        Linear(1.0, 0.5).end = 2.0  # type: ignore[misc]
