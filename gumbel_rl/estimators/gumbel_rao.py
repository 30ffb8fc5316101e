"""Gumbel-Rao: straight-through Gumbel-softmax with less variance, and its limit at temperature zero."""

from __future__ import annotations

from torch import Tensor

from gumbel_rl.estimators.base import TemperatureEstimator
from gumbel_rl.estimators.straight_through import SurrogateEstimator
from gumbel_rl.gumbel import gumbel_softmax, posterior_gumbel


class GumbelRao(SurrogateEstimator, TemperatureEstimator):
    """Straight-through Gumbel-softmax, averaged over the noise that leads to the same sample.

    The gradient of the relaxed sample is replaced by its mean over `draws` of Gumbel noise given the sample. The
    expectation is that of `st-gumbel-softmax` at the same temperature, the variance the same for one draw and smaller
    for more; `f` is evaluated once for all draws. Paulus, Maddison & Krause 2021, "Rao-Blackwellizing the
    Straight-Through Gumbel-Softmax Gradient Estimator".

    Args:
        temperature: A positive number.
        samples: `S`, number of independent samples to average.
        draws: Draws of noise given each sample.

    Raises:
        ValueError: The temperature is not positive, or `draws` is below 1.
    """

    def __init__(self, temperature: float = 1.0, samples: int = 1, draws: int = 10) -> None:
        super().__init__(temperature, samples)
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        self.draws = draws

    def surrogate(self, log_p: Tensor, one_hot: Tensor) -> Tensor:
        # Detached: the derivative is that of the softmax at fixed noise, which is then averaged over the noise. How the
        # noise given a sample depends on the probabilities is no part of it.
        noise = posterior_gumbel(log_p.detach(), one_hot.expand(self.draws, *one_hot.shape))
        return gumbel_softmax(log_p, noise, self.temperature).mean(0)


class Zgr(SurrogateEstimator):
    """The limit of `gumbel-rao` for many draws and a temperature of zero, in closed form.

    Given the sample `z`, the Jacobian is `1/2 (diag(p) - pp') + 1/2 (z - p)(z - p)'`: half straight-through and half
    DARN (Gregor et al. 2014), the score function of `f(z) - f(p)` to first order, `<df, z - p> d log p(z)`. Unbiased
    for an `f` that is quadratic in each factor. Shekhovtsov 2023, "Cold Analysis of Rao-Blackwellized
    Straight-Through Gumbel-Softmax Gradient Estimator".
    """

    def surrogate(self, log_p: Tensor, one_hot: Tensor) -> Tensor:
        probs = log_p.exp()
        log_p_sample = (one_hot * log_p).sum(-1, keepdim=True)
        darn = (one_hot - probs).detach() * log_p_sample
        return 0.5 * (probs + darn)
