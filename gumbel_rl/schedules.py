"""Schedules over environment steps, used for the temperature and the learning rate.

A schedule is an object: `schedule(step)` is its value at an absolute environment step, clamped to its floor. A schedule
whose length was left open spans the whole run: `over(total_steps)` gives it that length.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

Self = TypeVar("Self", bound="Schedule")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Base class: a value that depends on the environment step.

    Attributes:
        steps: Environment steps until the last value is reached; `None` spans the whole run.
        floor: The value never falls below it.
    """

    steps: float | None = None
    floor: float = -math.inf

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and math.isnan(value):
                raise ValueError(f"schedule {field.name} must be a number, got {value}")
        if self.steps is not None and not self.steps > 0:
            raise ValueError(f"schedule steps must be positive, got {self.steps}")

    def __call__(self, step: float) -> float:
        """Value at environment step `step`."""
        if self.steps is None:
            raise ValueError(f"{self} has no length yet: give it steps, or call over(total_steps)")
        return max(self.floor, self.at(min(max(step / self.steps, 0.0), 1.0)))

    def at(self, fraction: float) -> float:
        """Value at a fraction in `[0, 1]` of the length, before the floor."""
        raise NotImplementedError  # every schedule of this module overrides it

    def over(self: Self, total_steps: float) -> Self:
        """This schedule, spanning `total_steps` if its length was left open."""
        return self if self.steps is not None else replace(self, steps=total_steps)

    @property
    def lowest(self) -> float:
        """The smallest value the schedule ever takes."""
        return max(self.floor, min(self.at(0.0), self.at(1.0)))


@dataclass(frozen=True)
class Constant(Schedule):
    """`value` throughout."""

    value: float

    def at(self, fraction: float) -> float:
        return self.value

    def __call__(self, step: float) -> float:
        return max(self.floor, self.value)


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` in a straight line."""

    start: float
    end: float

    def at(self, fraction: float) -> float:
        return self.start + fraction * (self.end - self.start)


@dataclass(frozen=True)
class Exponential(Schedule):
    """From `start` to `end` by a constant factor a step: `start * (end / start) ** fraction`."""

    start: float
    end: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start > 0 and self.end > 0):
            raise ValueError(f"an exponential schedule needs positive ends, got {self.start} and {self.end}")

    def at(self, fraction: float) -> float:
        return self.start * (self.end / self.start) ** fraction


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `start` to `end` along half a cosine: slow, fast, slow."""

    start: float
    end: float

    def at(self, fraction: float) -> float:
        return self.end + 0.5 * (self.start - self.end) * (1.0 + math.cos(math.pi * fraction))


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Straight lines between points `{environment step: value}`, constant before the first and after the last."""

    points: Mapping[float, float]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a piecewise schedule needs at least one point")
        ordered = {float(step): float(self.points[step]) for step in sorted(self.points, key=float)}
        if min(ordered) < 0:
            raise ValueError(f"the steps of a piecewise schedule must not be negative, got {min(ordered)}")
        object.__setattr__(self, "points", ordered)
        # Its steps are absolute; fractions refer to the last point.
        object.__setattr__(self, "steps", max(max(ordered), 1.0))
        super().__post_init__()

    def at(self, fraction: float) -> float:
        assert self.steps is not None
        step = fraction * self.steps
        before = [(at, value) for at, value in self.points.items() if at <= step]
        after = [(at, value) for at, value in self.points.items() if at > step]
        if not before or not after:
            return before[-1][1] if before else after[0][1]
        (x0, y0), (x1, y1) = before[-1], after[0]
        return y0 + (y1 - y0) * (step - x0) / (x1 - x0)

    @property
    def lowest(self) -> float:
        return max(self.floor, min(self.points.values()))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "exponential": Exponential,
    "cosine": Cosine,
    "piecewise": Piecewise,
}
"""Every kind of schedule by the name used in strings and mappings."""

_SYNTAX = (
    "a number, 'constant:V', 'linear|exponential|cosine:START:END[:STEPS]' or 'piecewise:STEP=V,STEP=V', "
    "each optionally followed by ':floor=V'"
)

ScheduleLike = Schedule | float | str | Mapping[str, Any]
"""What `make_schedule` understands."""


def make_schedule(spec: ScheduleLike) -> Schedule:
    """Make a schedule from a number, a string, a mapping or a schedule.

    Args:
        spec: For example `0.7`, `"exponential:1.0:0.3"`, `"linear:1:0.5:20000:floor=0.6"`, `"piecewise:0=1,5000=0.5"` or
            `{"kind": "cosine", "start": 1.0, "end": 0.3, "steps": 20000}`. Without steps it spans the whole run.

    Raises:
        ValueError: The specification is not understood.
        TypeError: It is of another type.
    """
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, bool):
        raise TypeError(f"a schedule is a number, a string or a mapping, got {spec!r}")
    if isinstance(spec, (int, float)):
        return Constant(float(spec))
    if isinstance(spec, str):
        return _from_string(spec)
    if isinstance(spec, Mapping):
        options = dict(spec)
        kind = options.pop("kind", None)
        if kind is None:
            raise ValueError(f"a schedule mapping needs a 'kind', one of {', '.join(SCHEDULES)}; got {dict(spec)}")
        return _build(str(kind), options, dict(spec))
    raise TypeError(f"a schedule is a number, a string or a mapping, got {type(spec).__name__}")


def _from_string(text: str) -> Schedule:
    kind, *parts = (part.strip() for part in text.split(":"))
    try:
        if not parts:
            return Constant(float(kind))
    except ValueError:
        raise ValueError(f"schedule {text!r} is not understood{_nearest(kind)}; write {_SYNTAX}") from None
    options: dict[str, Any] = {}
    positional: list[Any] = []
    try:
        for part in parts:
            if kind == "piecewise" and "=" in part and not part.startswith("floor="):
                pairs = (pair.split("=") for pair in part.split(","))
                positional.append({float(step): float(value) for step, value in pairs})
            elif "=" in part:
                name, value = part.split("=")
                options[name] = float(value)
            else:
                positional.append(float(part))
    except ValueError:
        raise ValueError(f"schedule {text!r} is not understood; write {_SYNTAX}") from None
    names = ["value"] if kind == "constant" else ["points"] if kind == "piecewise" else ["start", "end", "steps"]
    if len(positional) > len(names):
        raise ValueError(f"schedule {text!r} has too many values; write {_SYNTAX}")
    return _build(kind, {**dict(zip(names, positional, strict=False)), **options}, text)


def _build(kind: str, options: dict[str, Any], spec: object) -> Schedule:
    if kind not in SCHEDULES:
        raise ValueError(f"schedule {spec!r} is not understood{_nearest(kind)}; write {_SYNTAX}")
    allowed = [field.name for field in fields(SCHEDULES[kind])]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"schedule {spec!r} has an unknown option {unknown[0]!r}; {kind} takes {', '.join(allowed)}")
    try:
        return SCHEDULES[kind](**{k: v if k == "points" or v is None else float(v) for k, v in options.items()})
    except TypeError as error:
        missing = [n for n in allowed if n not in options and n not in ("steps", "floor")]
        reason = f"lacks {', '.join(missing)}" if missing else str(error)
        raise ValueError(f"schedule {spec!r} {reason}; write {_SYNTAX}") from None


def _nearest(kind: str) -> str:
    near = difflib.get_close_matches(kind, SCHEDULES, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def make_temperature(spec: ScheduleLike) -> Schedule:
    """Make a schedule whose values are all positive, as a temperature's must be.

    Raises:
        ValueError: The specification is not understood, or reaches 0 or below.
        TypeError: It is of another type.
    """
    schedule = make_schedule(spec)
    if not (0 < schedule.lowest < math.inf):
        raise ValueError(f"a temperature must stay above 0, but {spec!r} reaches {schedule.lowest:g}")
    return schedule
