"""What tests measure against: expectations by enumeration, and statistical checks with a stated false-alarm rate.

Nothing here uses the library: outcomes and probabilities are spelt out factor by factor, in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from scipy import stats
from torch import Tensor

Objective = Callable[[Tensor], Tensor]

# Chance that one statistical check fails although the code is right. Seeds are fixed: a check that passes goes on
# passing until the code or the random numbers change.
FALSE_ALARM = 1e-6


def assert_plausible(p_value: float) -> None:
    """Fail if a hypothesis test rejects at `FALSE_ALARM`."""
    assert p_value > FALSE_ALARM


def assert_mean(draws: Tensor, expected: Tensor | Sequence[float] | float, slack: float = 0.0) -> None:
    """Fail unless the mean of `draws` `[R, *]` is `expected` `[*]`, at `FALSE_ALARM` for all components together.

    One component may be off by 4.9 standard errors, one of ten by 5.3. `slack` is added for expectations that are
    rounded.
    """
    draws = draws.double()
    wanted = torch.as_tensor(expected, dtype=torch.float64).expand(draws.shape[1:])
    bound = stats.norm.isf(FALSE_ALARM / 2 / max(wanted.numel(), 1))
    error = draws.std(0) / math.sqrt(len(draws))
    # Components without variance have to be right to rounding.
    excess = (draws.mean(0) - wanted).abs() - bound * error - slack - 1e-6
    assert bool((excess <= 0).all()), f"mean {draws.mean(0)} ± {error}, expected {wanted}"


def assert_frequencies(one_hots: Tensor, probs: Tensor) -> None:
    """Fail if the frequencies of one-hots `[R, K]` contradict `probs` `[K]` (chi-square)."""
    counts = one_hots.double().sum(0)
    expected = probs.double() / probs.double().sum() * len(one_hots)
    possible = expected > 0
    assert not counts[~possible].any()
    assert_plausible(float(stats.chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue))


def outcomes(sizes: Sequence[int]) -> Tensor:
    """All joint actions as one-hots `[V, N]`."""
    rows = [
        torch.cat([torch.eye(n, dtype=torch.float64)[k] for n, k in zip(sizes, choice, strict=True)])
        for choice in itertools.product(*map(range, sizes))
    ]
    return torch.stack(rows)


def outcome_probs(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Probabilities `[V]` of `outcomes(sizes)` under logits `[N]`."""
    probs = [block.softmax(-1) for block in logits.split(list(sizes))]
    products = [
        torch.stack([block[k] for block, k in zip(probs, choice, strict=True)]).prod()
        for choice in itertools.product(*map(range, sizes))
    ]
    return torch.stack(products)


def exact_expectation(logits: Tensor, sizes: Sequence[int], f: Objective) -> tuple[Tensor, Tensor]:
    """`E f(z)`, a scalar, and its gradient `[N]` with respect to logits `[N]`."""
    leaf = logits.detach().double().requires_grad_()
    value = (outcome_probs(leaf, sizes) * f(outcomes(sizes))).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def weights(n: int, seed: int) -> Tensor:
    """Fixed standard normal numbers `[n]`, float64."""
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(sizes: Sequence[int]) -> Objective:
    """`f(z) = <w, z> + 0.3`."""
    w = weights(sum(sizes), 1)
    return lambda z: (z * w.to(z)).sum(-1) + 0.3


def multilinear(sizes: Sequence[int]) -> Objective:
    """`f(z) = prod_d <w_d, z_d> + <v, z>`: linear in each factor, not in all of them at once."""
    w, v = weights(sum(sizes), 2), weights(sum(sizes), 3)

    def f(z: Tensor) -> Tensor:
        products = [block.sum(-1) for block in (z * w.to(z)).split(list(sizes), dim=-1)]
        return torch.stack(products).prod(0) + (z * v.to(z)).sum(-1)

    return f


def nonlinear(sizes: Sequence[int]) -> Objective:
    """`f(z) = sin(2 <w, z>) + <v, z>²`: its slope at a vertex says little about differences between vertices."""
    w, v = weights(sum(sizes), 4), weights(sum(sizes), 5)
    return lambda z: (2 * (z * w.to(z)).sum(-1)).sin() + (z * v.to(z)).sum(-1).square()


OBJECTIVES = {"linear": linear, "multilinear": multilinear, "nonlinear": nonlinear}
