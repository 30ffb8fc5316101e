"""Values from YAML and the command line, checked against the type hints of the dataclass they are for."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from agents.errors import did_you_mean

NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for use in `Annotated`; `above` excludes the lower one."""

    low: float
    high: float = float("inf")
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high != float("inf"):
            low, high = f"{self.low:,.10g}", f"{self.high:,.10g}"
            return f"above {low} and at most {high}" if self.above else f"between {low} and {high}"
        return f"above {self.low:,.10g}" if self.above else f"at least {self.low:,.10g}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 10**9)]
"""NumPy's generators take 32 bits, and seeds count on from it."""
Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
ScheduleSpec = float | str | dict[str, Any]
"""A number, a string such as `exponential:1.0:0.3`, or a mapping with a `kind`; see `gumbel_rl.make_schedule`."""


def convert(value: Any, hint: Any) -> Any:
    """`value` as the type that `hint` describes.

    Numbers may be written as text: YAML 1.1, which PyYAML reads, takes `1e-3` for text.

    Raises:
        ValueError: The value is not of that type or out of range. The message is the end of a sentence: "must be ...".
    """
    if get_origin(hint) is Annotated:
        base, *bounds = get_args(hint)
        converted = convert(value, base)
        for bound in bounds:
            if isinstance(bound, Range) and converted not in bound:
                raise ValueError(f"must be {bound}, got {value!r}")
        return converted
    if get_origin(hint) in (Union, types.UnionType):
        return _any_of(value, get_args(hint))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {value!r}{did_you_mean(str(value), choices)}")
        return value
    return _plain(value, hint)


def _any_of(value: Any, hints: tuple[Any, ...]) -> Any:
    problems = []
    for hint in hints:
        try:
            return convert(value, hint)
        except ValueError as error:
            # Null matches nothing but null: the other alternatives say more.
            if hint is not type(None):
                problems.append(str(error))
    if len(problems) == 1:
        raise ValueError(problems[0])
    if set(hints) == set(get_args(ScheduleSpec)):
        raise ValueError(f"must be a number or a schedule such as exponential:1.0:0.3, got {value!r}")
    kinds = " or ".join(NAMES[_kind(hint)] for hint in hints)
    raise ValueError(f"must be {kinds}, got {value!r}")


def _kind(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint) or hint


def _plain(value: Any, hint: Any) -> Any:
    kind = _kind(hint)
    problem = ValueError(f"must be {NAMES[kind]}, got {value!r}")
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise problem
        try:
            number = float(value)
        except ValueError:
            raise problem from None
        if not math.isfinite(number):
            raise problem
        if kind is float:
            return number
        if not number.is_integer():
            raise problem
        return int(value) if isinstance(value, int) else int(number)
    if kind is dict:
        if not isinstance(value, Mapping):
            raise problem
        _, content = get_args(hint)
        return {str(key): convert(entry, content) if content is not Any else entry for key, entry in value.items()}
    if kind is list:
        if not isinstance(value, (list, tuple)):
            raise problem
        return [convert(entry, get_args(hint)[0]) for entry in value]
    if not isinstance(value, kind):
        raise problem
    return value
