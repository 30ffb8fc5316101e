"""Temperatures that are not a function of time: each holds a measured property of the gradient at a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gumbel_rl.schedules import Schedule


@dataclass(frozen=True)
class Adaptive(Schedule):
    """Base class: a temperature that moves at every measurement of a signal, between a floor and a ceiling.

    With the signal `m` and its target `m*`, a measurement multiplies the temperature by

        exp(± gain * clip((m* - m) / m*, -1, 1)),

    plus if the signal rises with the temperature and minus if it falls. The clip bounds what one bad measurement does,
    to a factor of `exp(gain)`. Near the target, where the signal is about proportional to `temperature ** slope`, the
    distance in log-temperature shrinks by `1 - gain * |slope|` a measurement: it converges where `gain * |slope| < 2`.

    Whoever measures calls `adapted` and keeps the temperature: the object itself never changes. As a schedule, before
    anything is measured, it is `start`.

    Attributes:
        target: `m*`, the value of the signal to hold; positive.
        start: Temperature until the first measurement.
        ceiling: The temperature never rises above it.
        gain: Largest change of the log-temperature at one measurement; above 0 and at most 1.
        floor: The temperature never falls below it.

    Raises:
        ValueError: A number is out of its range.
    """

    target: float
    start: float = 1.0
    ceiling: float = 5.0
    gain: float = 0.2

    signal: ClassVar[str]
    """The attribute of `gumbel_rl.diagnostics.GradientDiagnostics` that is held."""
    rises: ClassVar[bool]
    """Whether the signal rises with the temperature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.target < 1:
            raise ValueError(f"the target must be above 0 and below 1, got {self.target:g}")
        if not 0 < self.gain <= 1:
            raise ValueError(f"the gain must be above 0 and at most 1, got {self.gain:g}")
        if not 0 < self.floor <= self.start <= self.ceiling:
            raise ValueError(
                "floor, start and ceiling must be positive and in this order, got "
                f"{self.floor:g}, {self.start:g}, {self.ceiling:g}"
            )

    @property
    def corners(self) -> Sequence[float]:
        return [self.floor, self.start, self.ceiling, self.target, self.gain]

    @property
    def lowest(self) -> float:
        return self.floor

    def at(self, step: float) -> float:
        return self.start

    def clamped(self, temperature: float) -> float:
        """The temperature, between floor and ceiling."""
        return min(max(temperature, self.floor), self.ceiling)

    def adapted(self, temperature: float, measured: float) -> float:
        """The temperature after a measurement.

        Args:
            temperature: The temperature that was in force when the signal was measured.
            measured: `m`; a NaN, as of a critic that has diverged, changes nothing.
        """
        if math.isnan(measured):
            return self.clamped(temperature)
        error = min(max((self.target - measured) / self.target, -1.0), 1.0)
        return self.clamped(temperature * math.exp(self.gain * (error if self.rises else -error)))


@dataclass(frozen=True)
class AdaptiveBias(Adaptive):
    """Holds the bias, relative to the norm of the exact gradient (`grad/bias`), which rises with the temperature.

    The highest temperature, and so the least variance, at which the gradient is as wrong as you allow. It needs the
    exact gradient of the critic.
    """

    floor: float = field(default=0.1, kw_only=True)
    signal: ClassVar[str] = "bias"
    rises: ClassVar[bool] = True


@dataclass(frozen=True)
class AdaptiveZeroShare(Adaptive):
    """Holds the share of gradients that are exactly zero (`train/zero_grad_frac`), which falls with the temperature.

    The lowest temperature at which not more gradients than you allow are dead. It needs no exact gradient.
    """

    floor: float = field(default=0.01, kw_only=True)
    signal: ClassVar[str] = "zero_grad_frac"
    rises: ClassVar[bool] = False


ADAPTIVE: dict[str, type[Adaptive]] = {"adaptive-bias": AdaptiveBias, "adaptive-zero-share": AdaptiveZeroShare}
"""The kinds of adaptive temperature by the name used in strings and mappings."""
