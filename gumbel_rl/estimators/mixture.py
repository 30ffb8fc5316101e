"""A convex mixture of two estimators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators.base import Estimator, Objective


class Mixture(Estimator):
    """`weight` times one estimator plus `1 - weight` times another: a trade of bias against variance.

    Both work on the same noise. The bias is the weighted mean of theirs: the mixture is unbiased if both are. The
    default is between `zgr`, which is less biased, and `straight-through`, which varies less: a family whose trade of
    the one against the other was found better than that of `gumbel-rao` over its temperatures (Shekhovtsov 2023).

    Attributes:
        temperature: That of the members that have one, if any has. To assign it is to assign it to both.

    Args:
        first: Id of an estimator.
        second: Id of an estimator.
        weight: Share of the first, between 0 and 1.
        samples: `S`, number of independent samples of both. A member whose own options ask for fewer is given the first
            of the noise.
        first_kwargs: Options of the first, for example `{"temperature": 0.5}`.
        second_kwargs: Options of the second.

    Raises:
        ValueError: The weight is not between 0 and 1, an id is unknown, or a member refuses its options.
        TypeError: A member does not have the option.
    """

    unbiased = False
    evaluations = None
    needs_gradient = True

    def __init__(
        self,
        first: str = "zgr",
        second: str = "straight-through",
        weight: float = 0.5,
        samples: int = 1,
        first_kwargs: dict[str, Any] | None = None,
        second_kwargs: dict[str, Any] | None = None,
    ) -> None:
        from gumbel_rl.estimators import make_estimator  # the registry, of which this is part

        super().__init__(samples)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be between 0 and 1, got {weight}")
        self.weight = weight
        one = make_estimator(first, **({"samples": samples} | (first_kwargs or {})))
        two = make_estimator(second, **({"samples": samples} | (second_kwargs or {})))
        self.members = one, two
        self.samples = max(one.samples, two.samples)
        self.unbiased = one.unbiased and two.unbiased
        if one.evaluations is not None and two.evaluations is not None and one.samples == two.samples:
            self.evaluations = one.evaluations + two.evaluations
        self.needs_gradient = one.needs_gradient or two.needs_gradient
        self.leaves_vertices = one.leaves_vertices or two.leaves_vertices
        self.needs_objective = one.needs_objective or two.needs_objective
        self.has_temperature = one.has_temperature or two.has_temperature
        self.learns = one.learns or two.learns

    @property
    def temperature(self) -> float:
        for member in self.members:
            if member.has_temperature:
                return member.temperature
        raise AttributeError("neither estimator of this mixture has a temperature")

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        for member in self.members:
            if member.has_temperature:
                member.temperature = temperature

    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        noise = self._noise(dist, noise)
        one, two = (member(dist, f, self._part(member, noise)) for member in self.members)
        return self.weight * one + (1.0 - self.weight) * two

    def adapt(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> None:
        noise = self._noise(dist, noise)
        for member in self.members:
            member.adapt(dist, f, self._part(member, noise))

    def _part(self, member: Estimator, noise: Tensor) -> Tensor:
        """The member's noise, of all that there is."""
        return noise if member.samples == self.samples else noise[: member.samples]
