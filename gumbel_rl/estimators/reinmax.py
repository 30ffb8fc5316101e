"""ReinMax: straight-through of second order."""

from __future__ import annotations

from torch import Tensor

from gumbel_rl.estimators.base import TemperatureEstimator
from gumbel_rl.estimators.straight_through import SurrogateEstimator
from gumbel_rl.gumbel import softmax


class ReinMax(SurrogateEstimator, TemperatureEstimator):
    """Differences of `f` between choices by the trapezoidal rule (Heun's), where straight-through has the slope at one.

    With `J(p) = diag(p) - pp'`, the Jacobian of the softmax, the Jacobian given the sample `z` is
    `2 J((p_T + z) / 2) - 1/2 J(p)`, where `p_T` is the softmax of the logits divided by the temperature. Unbiased at
    temperature 1 for an `f` that is quadratic in each factor; it is `zgr` then, estimate by estimate. At any other
    temperature it is biased for a linear `f` too. Liu et al. 2023, "Bridging Discrete and Backpropagation:
    Straight-Through and Beyond".

    Args:
        temperature: A positive number. The authors tuned it between 1 and 1.5, and advise against less than 1.
        samples: `S`, number of independent samples to average.
    """

    def surrogate(self, log_p: Tensor, one_hot: Tensor) -> Tensor:
        midpoint = 0.5 * (softmax(log_p.detach() / self.temperature) + one_hot)
        # J(midpoint) times the log-probabilities: a choice of probability 0 has no part in it.
        ahead = midpoint * (log_p - (midpoint * log_p).sum(-1, keepdim=True))
        return 2.0 * ahead - 0.5 * log_p.exp()
