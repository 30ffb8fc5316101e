"""Straight-through and Gumbel-softmax estimators: biased, pathwise, of low variance."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from gumbel_rl.distributions import MASKED, FactoredCategorical
from gumbel_rl.estimators.base import PathwiseEstimator, TemperatureEstimator
from gumbel_rl.gumbel import straight_through


class SurrogateEstimator(PathwiseEstimator):
    """Exact sample forward, gradient of a surrogate backward.

    Subclasses say which, as a function of the log-probabilities and the sample, one factor like another.
    """

    unbiased = False

    @abstractmethod
    def surrogate(self, log_p: Tensor, one_hot: Tensor) -> Tensor:
        """The tensor whose gradient stands in for the sample's. Its value does not matter, so long as it is finite.

        Args:
            log_p: Log-probabilities in blocks, `[*batch, D, K]`; a large negative number for what is masked or padding.
            one_hot: Samples in blocks, `[*samples, *batch, D, K]`.

        Returns:
            `[*samples, *batch, D, K]`, or what broadcasts to it.
        """

    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        sample = dist.sample(noise=noise)
        log_p = dist.factors.pad(dist.log_probs, MASKED)
        surrogate = self.surrogate(log_p, dist.factors.pad(sample.to(log_p.dtype), 0.0))
        return straight_through(sample, dist.factors.flatten(surrogate).to(sample.dtype))


class StraightThrough(SurrogateEstimator):
    """Exact sample forward, gradient of the probabilities backward (Bengio et al. 2013).

    Its expectation is the exact gradient if `f` is linear in the action, and then its variance is zero too.
    """

    def surrogate(self, log_p: Tensor, one_hot: Tensor) -> Tensor:
        return log_p.exp()


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
