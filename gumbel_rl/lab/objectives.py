"""Objectives of discrete actions whose expectation has a closed form, for any number of factors, ragged ones included.

Each has weights of its own for every row of the batch, so that a batch is a sample of problems. All of them add a
constant of 1: it changes no gradient, but the noise of an estimator that has no baseline.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.distributions import FactoredCategorical

OFFSET = 1.0


class BuiltIn(ABC):
    """A function `f` of flat actions `[*, B, N]` to values `[*, B]`, with its expectation.

    Weights are normal, in float64, and scaled so that values vary about as much however many factors there are.

    Attributes:
        multilinear: Whether it is linear in each factor's block.

    Args:
        factors: The action's factors.
        rows: `B`, how many functions side by side.
        generator: Source of the weights.
    """

    multilinear: bool

    def __init__(self, factors: ActionFactors, rows: int, generator: torch.Generator) -> None:
        self.factors = factors
        self.rows = rows
        self._generator = generator

    def _weights(self, *leading: int) -> Tensor:
        """Fresh weights `[*leading, B, N]`."""
        shape = (*leading, self.rows, self.factors.width)
        scale: float = len(self.factors.sizes) ** -0.5
        return scale * torch.randn(shape, dtype=torch.float64, generator=self._generator)

    @abstractmethod
    def __call__(self, actions: Tensor) -> Tensor:
        """Values `[*, B]` of actions `[*, B, N]`, one-hot or in between."""

    @abstractmethod
    def expectation(self, dist: FactoredCategorical) -> Tensor:
        """`E f(z)`, `[B]`, differentiable with respect to the distribution's logits `[B, N]`."""


class Linear(BuiltIn):
    """`f(z) = <w, z> + 1`: the slope at an action is the difference that a swap of a choice makes."""

    multilinear = True

    def __init__(self, factors: ActionFactors, rows: int, generator: torch.Generator) -> None:
        super().__init__(factors, rows, generator)
        self.w = self._weights()

    def __call__(self, actions: Tensor) -> Tensor:
        return (actions * self.w).sum(-1) + OFFSET

    def expectation(self, dist: FactoredCategorical) -> Tensor:
        return self(dist.probs)


class Multilinear(BuiltIn):
    """`f(z) = <v, z> + sum_r sum_{d<e} <u_rd, z_d> <u_re, z_e> + 1`: linear in each factor, not in all at once.

    Every pair of factors interacts, by a matrix of rank 2.
    """

    multilinear = True

    def __init__(self, factors: ActionFactors, rows: int, generator: torch.Generator) -> None:
        super().__init__(factors, rows, generator)
        self.v = self._weights()
        self.u = self._weights(2)

    def __call__(self, actions: Tensor) -> Tensor:
        parts = self.factors.pad(actions.unsqueeze(-3) * self.u, 0.0).sum(-1)  # [*, 2, B, D]
        # The sum over pairs is half of what the square of the sum has beyond the squares.
        pairs = (parts.sum(-1).square() - parts.square().sum(-1)).sum(-2) / 2
        return (actions * self.v).sum(-1) + pairs + OFFSET

    def expectation(self, dist: FactoredCategorical) -> Tensor:
        return self(dist.probs)


class Nonlinear(BuiltIn):
    """`f(z) = sin(2 <w, z>) + <v, z>² + 1`: its slope at an action says little about the other choices.

    The expectation of the sine is the imaginary part of `prod_d sum_k p_dk exp(2i w_dk)`, that of the square is the
    square of the mean and the variances of the factors.
    """

    multilinear = False

    def __init__(self, factors: ActionFactors, rows: int, generator: torch.Generator) -> None:
        super().__init__(factors, rows, generator)
        self.w = self._weights()
        self.v = self._weights()

    def __call__(self, actions: Tensor) -> Tensor:
        return (2 * (actions * self.w).sum(-1)).sin() + (actions * self.v).sum(-1).square() + OFFSET

    def expectation(self, dist: FactoredCategorical) -> Tensor:
        p, w, v = (self.factors.pad(flat, 0.0) for flat in (dist.probs, self.w, self.v))
        wave = torch.complex((p * (2 * w).cos()).sum(-1), (p * (2 * w).sin()).sum(-1)).prod(-1).imag
        means = (p * v).sum(-1)
        variances = (p * v.square()).sum(-1) - means.square()
        return wave + means.sum(-1).square() + variances.sum(-1) + OFFSET


OBJECTIVES: dict[str, type[BuiltIn]] = {"linear": Linear, "multilinear": Multilinear, "nonlinear": Nonlinear}
"""Every built-in objective by its id."""


def make_objective(objective_id: str, factors: ActionFactors, rows: int, generator: torch.Generator) -> BuiltIn:
    """Make an objective by its id.

    Args:
        objective_id: A key of `OBJECTIVES`.
        factors: The action's factors.
        rows: `B`, how many functions side by side.
        generator: Source of the weights.

    Raises:
        ValueError: An unknown id.
    """
    if objective_id not in OBJECTIVES:
        near = difflib.get_close_matches(objective_id, OBJECTIVES, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown objective {objective_id!r}{hint}; known are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[objective_id](factors, rows, generator)
