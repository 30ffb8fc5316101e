"""Schedules over environment steps, used for the temperature and the learning rate.

A schedule is an object: `schedule(step)` is its value at an absolute environment step, clamped to its floor. A schedule
whose length was left open spans the whole run: `over(total_steps)` gives it that length.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Real
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Schedule(ABC):
    """Base class: a value that depends on the environment step.

    Attributes:
        floor: The value never falls below it.
    """

    floor: float = field(default=-math.inf, kw_only=True)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.corners)) or not self.floor < math.inf:
            raise ValueError(f"the values of a schedule must be finite numbers, got {self}")

    @property
    @abstractmethod
    def corners(self) -> Sequence[float]:
        """The values between which the schedule moves, before the floor."""

    @abstractmethod
    def at(self, step: float) -> float:
        """Value at environment step `step`, before the floor."""

    def __call__(self, step: float) -> float:
        """Value at environment step `step`."""
        return max(self.floor, self.at(step))

    def over(self, total_steps: float) -> Schedule:
        """This schedule, spanning `total_steps` if its length was left open."""
        return self

    @property
    def lowest(self) -> float:
        """The smallest value the schedule ever takes."""
        return max(self.floor, min(self.corners))


@dataclass(frozen=True)
class Constant(Schedule):
    """`value` throughout."""

    value: float

    @property
    def corners(self) -> Sequence[float]:
        return [self.value]

    def at(self, step: float) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp(Schedule):
    """Base class of what goes from `start` to `end`, and stays there.

    Attributes:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Environment steps until `end` is reached; `None` spans the whole run.
    """

    start: float
    end: float
    steps: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and not 0 < self.steps < math.inf:
            raise ValueError(f"the steps of a schedule must be a positive number, got {self.steps}")

    @property
    def corners(self) -> Sequence[float]:
        return [self.start, self.end]

    def at(self, step: float) -> float:
        if self.steps is None:
            raise ValueError(f"{self} has no length yet: give it steps, or call over(total_steps)")
        return self.between(min(max(step / self.steps, 0.0), 1.0))

    @abstractmethod
    def between(self, fraction: float) -> float:
        """Value after a fraction in `[0, 1]` of the way."""

    def over(self, total_steps: float) -> Schedule:
        return self if self.steps is not None else replace(self, steps=total_steps)


@dataclass(frozen=True)
class Linear(Ramp):
    """From `start` to `end` in a straight line."""

    def between(self, fraction: float) -> float:
        return (1.0 - fraction) * self.start + fraction * self.end


@dataclass(frozen=True)
class Exponential(Ramp):
    """From `start` to `end` by a constant factor a step: `start * (end / start) ** fraction`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not min(self.corners) > 0:
            raise ValueError(f"an exponential schedule needs positive ends, got {self.start} and {self.end}")

    def between(self, fraction: float) -> float:
        return float(self.start ** (1.0 - fraction) * self.end**fraction)


@dataclass(frozen=True)
class Cosine(Ramp):
    """From `start` to `end` along half a cosine: slow, fast, slow."""

    def between(self, fraction: float) -> float:
        weight = 0.5 * (1.0 + math.cos(math.pi * fraction))
        return weight * self.start + (1.0 - weight) * self.end


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Straight lines between points `{environment step: value}`, constant before the first and after the last."""

    points: Mapping[float, float]

    def __post_init__(self) -> None:
        if not isinstance(self.points, Mapping):
            raise TypeError(f"the points of a piecewise schedule must map steps to values, got {self.points!r}")
        ordered = {float(step): float(value) for step, value in self.points.items()}
        if not ordered or not all(0 <= step < math.inf for step in ordered):
            raise ValueError(f"a piecewise schedule needs points at steps of 0 or more, got {self.points}")
        object.__setattr__(self, "points", dict(sorted(ordered.items())))
        super().__post_init__()

    @property
    def corners(self) -> Sequence[float]:
        return list(self.points.values())

    def at(self, step: float) -> float:
        return float(np.interp(step, list(self.points), self.corners))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "exponential": Exponential,
    "cosine": Cosine,
    "piecewise": Piecewise,
}
"""Every kind of schedule by the name used in strings and mappings."""

_SYNTAX = (
    "a number, 'constant:V', 'linear|exponential|cosine:START:END[:STEPS]', 'piecewise:STEP=V,STEP=V' or, for a "
    "temperature alone, 'adaptive-bias|adaptive-zero-share:TARGET[:START]', each optionally followed by ':floor=V'"
)

ScheduleLike = Schedule | float | str | Mapping[str, Any]
"""What `make_schedule` understands."""


def make_schedule(spec: ScheduleLike) -> Schedule:
    """Make a schedule from a number, a string, a mapping or a schedule.

    Args:
        spec: For example `0.7`, `"exponential:1.0:0.3"`, `"linear:1:0.5:20000:floor=0.6"`, `"piecewise:0=1,5000=0.5"`
            or `{"kind": "cosine", "start": 1.0, "end": 0.3, "steps": 20000}`. Without steps it spans the whole run.

    Raises:
        ValueError: The specification is not understood, or is of an adaptive temperature.
        TypeError: It is of another type.
    """
    from gumbel_rl.adaptive import Adaptive

    schedule = _make(spec)
    if isinstance(schedule, Adaptive):
        raise ValueError(f"{spec!r} moves a temperature to hold what is measured of it: nothing but a temperature can")
    return schedule


def _make(spec: ScheduleLike) -> Schedule:
    """A schedule or an adaptive temperature."""
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, bool) or not isinstance(spec, (Real, str, Mapping)):
        raise TypeError(f"a schedule is a number, a string or a mapping, got {spec!r}")
    try:
        if isinstance(spec, Real):
            return Constant(float(spec))
        return _build(_parse(spec) if isinstance(spec, str) else spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule {spec!r} is not understood: {error}; write {_SYNTAX}") from None


def _kind(name: Any) -> type[Schedule]:
    from gumbel_rl.adaptive import ADAPTIVE  # made of what this module holds

    kinds = {**SCHEDULES, **ADAPTIVE}
    if name in kinds:
        return kinds[name]
    if name is None:
        raise ValueError(f"it lacks a kind, one of {', '.join(kinds)}")
    near = difflib.get_close_matches(str(name), kinds, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"there is no kind {name!r}{hint}")


def _parse(text: str) -> dict[str, Any]:
    """A string to the mapping that means the same, its numbers still strings."""
    kind, *parts = (part.strip() for part in text.split(":"))
    with suppress(ValueError):  # a number alone
        kind, parts = "constant", [str(float(kind)), *parts]
    options: dict[str, Any] = {"kind": kind}
    positional = [option.name for option in fields(_kind(kind)) if option.name != "floor"]
    for part in parts:
        name, equals, value = part.partition("=")
        if kind == "piecewise" and name != "floor":
            options["points"] = dict(point.partition("=")[::2] for point in part.split(","))
        elif equals:
            options[name] = value
        elif positional:
            options[positional.pop(0)] = part
        else:
            raise ValueError(f"{part!r} is one value too many")
    return options


def _build(spec: Mapping[str, Any]) -> Schedule:
    options = {name: value for name, value in spec.items() if value is not None}
    kind = options.pop("kind", None)
    schedule = _kind(kind)
    allowed = {option.name: option for option in fields(schedule)}
    for name in options:
        if name not in allowed:
            raise ValueError(f"{kind} has no option {name!r}, only {', '.join(allowed)}")
    missing = [name for name, option in allowed.items() if option.default is MISSING and name not in options]
    if missing:
        raise ValueError(f"it lacks {' and '.join(missing)}")
    return schedule(**{name: value if name == "points" else float(value) for name, value in options.items()})


def make_temperature(spec: ScheduleLike) -> Schedule:
    """Make a schedule whose values are all positive, as a temperature's must be, or an adaptive temperature.

    Args:
        spec: As for `make_schedule`, or for example `"adaptive-bias:0.2"` or `"adaptive-zero-share:0.05:0.5:gain=0.1"`,
            whose numbers are those of `gumbel_rl.adaptive.Adaptive`.

    Raises:
        ValueError: The specification is not understood, or reaches 0 or below.
        TypeError: It is of another type.
    """
    schedule = _make(spec)
    if not schedule.lowest > 0:
        raise ValueError(f"a temperature must stay above 0, but {spec!r} reaches {schedule.lowest:g}")
    return schedule


def make_target_entropy(spec: ScheduleLike) -> Schedule:
    """Make a schedule of a target entropy as a share of the maximum, whose values lie between 0 and 1.

    Raises:
        ValueError: The specification is not understood, or leaves these limits.
        TypeError: It is of another type.
    """
    schedule = make_schedule(spec)
    if schedule.lowest < 0 or max(schedule.lowest, *schedule.corners) > 1:
        raise ValueError(f"a target entropy is a share of the maximum, between 0 and 1, got {spec!r}")
    return schedule
