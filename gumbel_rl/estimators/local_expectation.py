"""Local expectation gradients: the exact expectation over each factor, given a sample of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators.base import Estimator, Objective, evaluate


class LocalExpectation(Estimator):
    """For each factor the expectation over all its choices, the other factors as they were sampled.

    With `E_d = sum_k p_dk f(z, factor d set to k)` the gradient is `sum_d sum_k dp_dk f(z, factor d set to k)`, and the
    value the mean of `E_d` over the factors: its variance is that of `f(z)` at most. Both are unbiased for independent
    factors, whatever `f`, and exact for a single one (Titsias & Lázaro-Gredilla 2015, "Local Expectation Gradients for
    Black Box Variational Inference").

    It asks `f` for values alone, at the sample and at every swap of a single choice, `N - D + 1` evaluations for each
    sample. Choices of probability 0 are never evaluated; the sample itself is, in their place.

    Args:
        samples: `S`, number of independent samples to average.
        chunk_size: Evaluate `f` at about so many actions at once, and never at fewer than one swap for all samples and
            batch elements. It bounds the memory, but for what autograd keeps if `f` has parameters that are trained.

    Raises:
        ValueError: `chunk_size` is below 1.
    """

    unbiased = True
    evaluations = None

    def __init__(self, samples: int = 1, chunk_size: int = 4096) -> None:
        super().__init__(samples)
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        self.chunk_size = chunk_size

    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        sample = dist.sample(noise=self._noise(dist, noise))  # [S, *batch, N]
        before, after = _swaps(sample, dist.factors)
        probs = dist.probs.expand_as(sample).gather(-1, after)
        values = self._evaluate_swaps(f, sample, before, torch.where(probs > 0, after, before))
        # E_d - f(z) = sum_k p_dk (f(z, factor d set to k) - f(z)), where the choice that was made does not count. Nor
        # does it in the gradient, because sum_k dp_dk f(z) = 0.
        differences = values - values[..., :1]
        expectation = values[..., 0] + (probs.detach() * differences).sum(-1) / len(dist.factors.sizes)
        return (expectation + ((probs - probs.detach()) * differences.detach()).sum(-1)).mean(0)

    def _evaluate_swaps(self, f: Objective, sample: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """`f` where entry `before` of the sample is 0 and entry `after` is 1: `[S, *batch, M]`, as the entries are."""
        at_once = max(1, self.chunk_size // max(1, sample[..., 0].numel()))
        values = []
        for zeros, ones in zip(before.split(at_once, -1), after.split(at_once, -1), strict=True):
            zeros, ones = (entries.movedim(-1, 0).unsqueeze(-1) for entries in (zeros, ones))
            swapped = sample.expand(len(zeros), *sample.shape).scatter(-1, zeros, 0.0).scatter_(-1, ones, 1.0)
            values.append(evaluate(f, swapped.flatten(0, 1)).unflatten(0, (len(zeros), -1)))
        return torch.cat(values).movedim(0, -1)


def _swaps(one_hot: Tensor, factors: ActionFactors) -> tuple[Tensor, Tensor]:
    """Every swap of a single choice, as two entries of the one-hot: the choice and another, `[..., N - D + 1]`.

    The first swaps a choice for itself.
    """
    # Choice k of n becomes (k + step) mod n.
    steps = [(0, 0, factors.sizes[0]), *((d, step, n) for d, n in enumerate(factors.sizes) for step in range(1, n))]
    owner, step, size = torch.tensor(steps, device=one_hot.device).unbind(-1)
    indices = factors.indices(one_hot)
    index, entry = indices[..., owner], factors.positions(indices)[..., owner]
    return entry, entry - index + (index + step) % size
