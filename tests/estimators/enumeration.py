"""An estimator's expectation without sampling it: enumeration of outcomes and quadrature over the noise.

An estimator takes its noise from outside: noise that forces each outcome in turn, weighted by the outcome's
probability, or quadrature nodes, weighted by the density of the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from oracles import Objective, outcome_probs, outcomes, weights
from scipy import stats
from torch import Tensor

from gumbel_rl import ActionFactors, Estimator, FactoredCategorical

# Discrete(3), MultiDiscrete([2, 3]), MultiBinary(3).
SIZES: list[tuple[int, ...]] = [(3,), (2, 3), (2, 2, 2)]


def logits_of(sizes: Sequence[int]) -> Tensor:
    return 0.8 * weights(sum(sizes), 10)


def gradients(
    estimator: Estimator, sizes: Sequence[int], f: Objective, logits: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Values `[R]` and gradients `[R, N]` of estimates with the same logits `[N]` and noise `[S, R, N]`."""
    leaf = logits.expand(noise.shape[1:]).clone().requires_grad_()
    surrogate = estimator(FactoredCategorical(leaf, ActionFactors(tuple(sizes))), f, noise)
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
    return surrogate.detach(), gradient


def sampled(
    estimator: Estimator, sizes: Sequence[int], f: Objective, repeats: int, seed: int = 0, logits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`repeats` independent estimates."""
    torch.manual_seed(seed)
    logits = logits_of(sizes) if logits is None else logits
    dist = FactoredCategorical(logits.expand(repeats, -1), ActionFactors(tuple(sizes)))
    return gradients(estimator, sizes, f, logits, dist.noise((estimator.samples,)))


def enumerated(
    estimator: Estimator, sizes: Sequence[int], f: Objective, logits: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability `[C]`, value `[C]` and gradient `[C, N]` for each combination of outcomes of the samples."""
    vertices, probs = outcomes(sizes), outcome_probs(logits, sizes)
    combinations = torch.tensor(list(itertools.product(range(len(vertices)), repeat=samples)))
    forcing = 1e3 * vertices[combinations].transpose(0, 1)  # [S, C, N]
    return probs[combinations].prod(-1), *gradients(estimator, sizes, f, logits, forcing)


def covariance(probability: Tensor, gradient: Tensor) -> Tensor:
    deviation = gradient - probability @ gradient
    return torch.einsum("c,ci,cj->ij", probability, deviation, deviation)


def straight_through_expectation(logits: Tensor, sizes: Sequence[int], f: Objective) -> Tensor:
    """`E J' f'(z)` `[N]` with `J` the Jacobian of the probabilities."""

    def probabilities(logits: Tensor) -> Tensor:
        return torch.cat([block.softmax(-1) for block in logits.split(list(sizes))])

    jacobian = torch.autograd.functional.jacobian(probabilities, logits)
    vertices = outcomes(sizes).requires_grad_()
    (slopes,) = torch.autograd.grad(f(vertices).sum(), vertices)
    expectation: Tensor = outcome_probs(logits, sizes) @ slopes @ jacobian
    return expectation


def gradients_given_outcomes(
    logits: Tensor, sizes: Sequence[int], f: Objective, jacobian: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """`J' f'(z)` `[V, N]` for every outcome `z`, where `jacobian(logits, choice)` `[K, K]` is that of one factor."""
    vertices = outcomes(sizes).requires_grad_()
    (slopes,) = torch.autograd.grad(f(vertices).sum(), vertices)
    rows = []
    for slope, choices in zip(slopes, itertools.product(*map(range, sizes)), strict=True):
        factors = zip(logits.split(list(sizes)), choices, slope.split(list(sizes)), strict=True)
        rows.append(torch.cat([jacobian(block, choice).T @ part for block, choice, part in factors]))
    return torch.stack(rows)


def softmax_jacobian(p: Tensor) -> Tensor:
    """`diag(p) - pp'`, the derivative of the softmax where it is `p` `[K]`."""
    return torch.diag(p) - torch.outer(p, p)


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def quadrature(choices: int, breakpoint: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noise `[Q, choices]` and weights `[Q]`, for 2 or 3 choices; with 2 the nodes avoid a jump at `breakpoint`.

    Only differences of noise matter: with the last choice's noise held at 0, those of K - 1 others have the density
    `(K-1)! exp(-sum d) / (1 + sum exp(-d))^K`.
    """
    if choices == 2:
        half = torch.linspace(0, 40, 200_001, dtype=torch.float64)
        d = torch.cat([breakpoint - half.flip(0) - 1e-12, breakpoint + half + 1e-12])
        ends = torch.ones_like(half)
        ends[[0, -1]] = 0.5
        weight = torch.cat([ends, ends]) * (half[1] - half[0]) * torch.from_numpy(stats.logistic.pdf(d.numpy()))
        return torch.stack([d, torch.zeros_like(d)], -1), weight
    axis = torch.linspace(-25, 25, 401, dtype=torch.float64)
    d = torch.cartesian_prod(axis, axis)
    weight = 2 * torch.exp(-d.sum(-1) - 3 * torch.logsumexp(torch.cat([-d, torch.zeros(len(d), 1)], -1), -1))
    return torch.cat([d, torch.zeros(len(d), 1)], -1), weight * (axis[1] - axis[0]) ** 2
