"""Straight-through and Gumbel-softmax estimators: biased, pathwise, of low variance."""

from __future__ import annotations

from torch import Tensor

from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators.base import PathwiseEstimator, TemperatureEstimator
from gumbel_rl.gumbel import straight_through


class StraightThrough(PathwiseEstimator):
    """Exact sample forward, gradient of the probabilities backward (Bengio et al. 2013).

    Its expectation is the exact gradient if `f` is linear in the action, and then its variance is zero too.
    """

    unbiased = False

    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        return straight_through(dist.sample(noise=dist.noise() if noise is None else noise), dist.probs)


class GumbelSoftmax(TemperatureEstimator):
    """Relaxed sample `softmax((log p + g) / temperature)`, forward and backward.

    The value is biased as well as the gradient: `f` is evaluated inside the simplex. Jang et al. 2017; Maddison et al.
    2017.
    """

    unbiased = False
    leaves_vertices = True

    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        return dist.rsample(temperature=self.temperature, noise=noise)


class StraightThroughGumbelSoftmax(TemperatureEstimator):
    """Exact sample forward, gradient of the relaxed sample with the same noise backward.

    The temperature changes the gradient alone: the sample is `argmax(log p + g)` at every temperature. Jang et al.
    2017, section 2.2.
    """

    unbiased = False

    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        return dist.rsample(temperature=self.temperature, hard=True, noise=noise)
