"""Gapped straight-through: what Gumbel noise does to the logits, done without noise."""

from __future__ import annotations

import torch
from torch import Tensor

from gumbel_rl.estimators.base import TemperatureEstimator
from gumbel_rl.estimators.straight_through import SurrogateEstimator
from gumbel_rl.gumbel import gumbel_softmax

# Largest probability of the sample that the gap "p" is computed for, as published: the gap is at most 11.5.
NEARLY_CERTAIN = 1.0 - 1e-5


class GappedStraightThrough(SurrogateEstimator, TemperatureEstimator):
    """Exact sample forward; backward the gradient of a softmax in which the sample is on top, by a gap at least.

    The logit of the sample is raised to the largest, and the others are lowered where they are closer to it than the
    gap. They are moved by constants: the gradient is that of the softmax where they have come to. Given the sample
    there is no noise. Fan, Chi, Rudnicky & Ramadge 2022, "Training Discrete Deep Generative Models via Gapped
    Straight-Through Estimator".

    Args:
        temperature: A positive number.
        samples: `S`, number of independent samples to average.
        gap: The gap, in logits; or `"p"` for `-log(1 - p) / p` with the sample's probability `p`, which is what Gumbel
            noise puts between the sample and the next best on average, given that it leads to this sample.

    Raises:
        ValueError: The temperature is not positive, or the gap neither a number of at least 0 nor `"p"`.
    """

    def __init__(self, temperature: float = 1.0, samples: int = 1, gap: float | str = 1.0) -> None:
        super().__init__(temperature, samples)
        if gap != "p" and (isinstance(gap, str) or not 0 <= gap < float("inf")):
            raise ValueError(f"gap must be a number of at least 0, or 'p', got {gap!r}")
        self.gap = gap

    def surrogate(self, log_p: Tensor, one_hot: Tensor) -> Tensor:
        fixed = log_p.detach()
        top = fixed.max(-1, keepdim=True).values
        lift = (top - fixed) * one_hot
        lower = (fixed + self._gap(fixed, one_hot) - top).clamp_min(0.0) * (1.0 - one_hot)
        return gumbel_softmax(log_p, lift - lower, self.temperature)

    def _gap(self, log_p: Tensor, one_hot: Tensor) -> Tensor | float:
        """`[..., 1]`, or one number for all."""
        if isinstance(self.gap, str):
            p = (one_hot * log_p).sum(-1, keepdim=True).exp().clamp(torch.finfo(log_p.dtype).tiny, NEARLY_CERTAIN)
            return -torch.log1p(-p) / p
        return self.gap
