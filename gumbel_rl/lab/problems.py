"""What estimators are measured on: distributions, an objective, and the exact gradient of its expectation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.diagnostics import logits_gradient
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Exact, LocalExpectation, Objective
from gumbel_rl.lab.objectives import make_objective

# Largest number of joint actions that are enumerated for an exact gradient.
ENUMERATED = 2**16

# Numbers in flight: bounds the memory that a batch of estimates takes.
NUMBERS = 2**20


@dataclass(frozen=True)
class Problem:
    """Distributions, an objective and the exact gradient.

    Attributes:
        name: What a report calls it.
        dist: The distributions, logits `[B, N]`, in float64.
        f: The objective, actions `[*, B, N]` to values `[*, B]`.
        gradient: Gradient of `E f(z)` with respect to the logits, `[B, N]`.
        multilinear: Whether `f` is linear in each factor.
        reference: How the gradient was had, in words.
        reference_error: Variance of `gradient`, summed over its entries; 0 if it is exact.
    """

    name: str
    dist: FactoredCategorical
    f: Objective
    gradient: Tensor
    multilinear: bool
    reference: str
    reference_error: float = 0.0

    @property
    def states(self) -> int:
        """`B`."""
        return len(self.dist.logits)

    @property
    def scale(self) -> float:
        """Squared norm of the exact gradient, in whose units bias, variance and error are given."""
        return float(self.gradient.square().sum())


def built_in(
    objective: str, sizes: Sequence[int], *, instances: int = 8, masked: float = 0.0, seed: int = 0
) -> Problem:
    """A problem of a built-in objective: random functions and random logits, a row each.

    Args:
        objective: A key of `OBJECTIVES`.
        sizes: Number of choices of each factor.
        instances: `B`, how many functions and distributions.
        masked: Share of each factor's choices that is forbidden, rounded down; one is left in any case.
        seed: Of functions, logits and masks.

    Raises:
        ValueError: An unknown objective, no instance, a size below 1, or a share that is not in `[0, 1)`.
    """
    if instances < 1:
        raise ValueError(f"instances must be at least 1, got {instances}")
    if not 0 <= masked < 1:
        raise ValueError(f"the masked share must be at least 0 and below 1, got {masked}")
    factors = ActionFactors(tuple(sizes))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(instances, factors.width, dtype=torch.float64, generator=generator)
    mask = _mask(factors, instances, masked, generator) if masked else None
    f = make_objective(objective, factors, instances, generator)
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f.expectation(FactoredCategorical(leaf, factors, mask)).sum(), leaf)
    name = f"{objective}, {describe(factors.sizes)}" + (f", {masked:.0%} masked" if masked else "")
    dist = FactoredCategorical(logits, factors, mask)
    return Problem(name, dist, f, gradient, f.multilinear, reference="closed form")


def describe(sizes: Sequence[int]) -> str:
    """Sizes in words: `4 factors of 5`, `1 factor of 3`, `factors of 2, 3, 5`."""
    if len(set(sizes)) > 1:
        return f"factors of {', '.join(map(str, sizes))}"
    return f"{len(sizes)} factor{'s' if len(sizes) > 1 else ''} of {sizes[0]}"


def _mask(factors: ActionFactors, rows: int, share: float, generator: torch.Generator) -> Tensor:
    """True where a choice is allowed, `[rows, N]`."""
    scores = factors.pad(torch.rand(rows, factors.width, generator=generator), torch.inf)
    ranks = scores.argsort(-1).argsort(-1)
    forbidden = (torch.tensor(factors.sizes) * share).floor().long()
    return factors.flatten(ranks >= forbidden[:, None])


def from_objective(
    name: str, dist: FactoredCategorical, f: Objective, *, multilinear: bool, reference_samples: int = 0
) -> Problem:
    """A problem of any objective; its gradient by the shortest exact way, or else by sampling if that is asked for.

    Args:
        name: What a report calls it.
        dist: The distributions, logits `[B, N]`.
        f: The objective.
        multilinear: Whether `f` is linear in each factor.
        reference_samples: Where no exact way exists, take the mean of so many estimates by local expectations, which
            are unbiased, in place of the exact gradient; 0 for never.

    Raises:
        ValueError: There is no exact way, and sampling was not asked for.
    """
    if multilinear:
        gradient = logits_gradient(Exact(multilinear=True), dist, f)[0]
        return Problem(name, dist, f, gradient, True, "the objective at the probabilities")
    joint = dist.factors.joint_size
    if joint <= ENUMERATED:
        return Problem(name, dist, f, _enumerate(dist, f), False, f"sum over {joint:,} joint actions")
    if reference_samples < 2:
        raise ValueError(
            f"{name}: there is no exact gradient to compare with, because the objective is not linear in each factor "
            f"and {joint:,} joint actions are more than the {ENUMERATED:,} that can be enumerated; give "
            "--reference-samples, say 10000, to compare with a long-run mean of an unbiased estimator, or train with a "
            "critic that is linear in each factor"
        )
    gradient, error = _long_run(dist, f, reference_samples)
    words = f"mean of {reference_samples:,} estimates by local-expectation, not exact"
    return Problem(name, dist, f, gradient, False, words, error)


def _enumerate(dist: FactoredCategorical, f: Objective) -> Tensor:
    """Exact gradient `[B, N]` by enumeration, a part of the joint actions at a time."""
    vertices = dist.factors.vertices(dtype=dist.logits.dtype)
    at_once = max(1, NUMBERS // dist.logits.numel())
    total = torch.zeros_like(dist.logits)
    for part in vertices.split(at_once):
        leaf = dist.logits.detach().clone().requires_grad_()
        z = part[:, None].expand(-1, len(leaf), -1)
        p = FactoredCategorical(leaf, dist.factors, dist.mask).log_prob(z).exp()
        with torch.no_grad():
            values = f(z)
        total += torch.autograd.grad((p * values).sum(), leaf)[0]
    return total


def _long_run(dist: FactoredCategorical, f: Objective, samples: int) -> tuple[Tensor, float]:
    """Mean gradient `[B, N]` of many estimates, and the variance of that mean, summed over its entries."""
    at_once = max(1, NUMBERS // (dist.logits.numel() * dist.factors.width))
    total, squares, done = torch.zeros_like(dist.logits), torch.zeros_like(dist.logits), 0
    # Around the first estimate, so that small variances survive the subtraction.
    origin = logits_gradient(LocalExpectation(), dist, f)[0]
    while done < samples:
        repeats = min(at_once, samples - done)
        deviation = logits_gradient(LocalExpectation(), dist, f, repeats) - origin
        total += deviation.sum(0)
        squares += deviation.square().sum(0)
        done += repeats
    mean = total / samples
    variance = (squares / samples - mean.square()) / (samples - 1)
    return origin + mean, float(variance.sum())
