"""The importance-weighted bound on the log-likelihood, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LogWeights = Callable[[Tensor, int], Tensor]
"""Digits `[B, 784]` and a number `k` of samples to `k` independent log-weights of each, `[k, B]`."""

# Samples times digits whose pixels are in memory at once: 4096 x 784 numbers are 12 MB, about what a cache holds.
AT_ONCE = 4096


@torch.no_grad()
def importance_weighted_bound(log_weights: LogWeights, pixels: Tensor, samples: int, at_once: int = AT_ONCE) -> Tensor:
    """`log 1/m sum_i w_i` for each digit (Burda, Grosse & Salakhutdinov 2016, equation 8).

    With `w = p(x, z) / q(z | x)` its expectation is the ELBO for `m = 1`, grows with `m`, and is at most `log p(x)`,
    where it goes.

    Args:
        log_weights: Draws log-weights.
        pixels: `[n, 784]`.
        samples: `m`.
        at_once: Draw about so many weights at once, of one digit at least.

    Returns:
        `[n]`, nats.

    Raises:
        ValueError: `samples` is below 1.
    """
    if samples < 1:
        raise ValueError(f"the bound needs at least one sample, got {samples}")
    each = min(samples, at_once)
    bounds = []
    for digits in pixels.split(max(1, at_once // each)):
        total = torch.full((len(digits),), -torch.inf)
        for begin in range(0, samples, each):
            weights = log_weights(digits, min(each, samples - begin))
            total = torch.logaddexp(total.to(weights), weights.logsumexp(0))
        bounds.append(total - math.log(samples))
    return torch.cat(bounds)
