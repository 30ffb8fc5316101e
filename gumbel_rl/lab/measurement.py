"""Bias, variance and error of an estimator on a problem, each with a standard error.

All of it is in units of the exact gradient's squared norm, so that numbers compare across problems. With `g` the exact
gradient and `d_i = g_i - g` the error of estimate `i` of `n`:

* squared bias `|mean d|² - V / n`, which is unbiased: an estimator without bias has 0 on average, and half of the time
  less;
* variance `V = sum |d_i - mean d|² / (n - 1)`, the trace of the covariance of one estimate;
* mean squared error `mean |d_i|²`, on average the sum of the two.

Standard errors are by the jackknife, leaving out one block of estimates at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gumbel_rl.diagnostics import logits_gradient
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator, Exact, GumbelRao, LocalExpectation
from gumbel_rl.lab.labels import couples_rows
from gumbel_rl.lab.problems import NUMBERS, Problem

BLOCKS = 20

# Squared bias and variance below this are rounding: 0.
ROUNDING = 1e-12

# States that an estimator which learns is given in each of its steps, about.
LEARNING_STATES = 64


@dataclass(frozen=True)
class Quality:
    """How good an estimator is on a problem.

    All but the last four are relative to the squared norm of the exact gradient.

    Attributes:
        bias2: Squared norm of the bias; below 0 by chance where there is none.
        bias2_error: Its standard error. At a bias of 0 it is larger than the deviation, by about 40 %.
        variance: Trace of the covariance of one estimate.
        variance_error: Its standard error.
        mse: Mean squared error of one estimate.
        mse_error: Its standard error.
        cosine: Cosine between one estimate and the exact gradient, on average.
        cosine_error: Its standard error.
        zero_share: Share of rows whose estimate is exactly zero.
        bias_p: Chance of a bias that looks as large or larger, if there is none; NaN against a reference that is not
            exact.
        estimates: How many were made.
    """

    bias2: float
    bias2_error: float
    variance: float
    variance_error: float
    mse: float
    mse_error: float
    cosine: float
    cosine_error: float
    zero_share: float
    bias_p: float
    estimates: int


def learn(estimator: Estimator, problem: Problem, steps: int, seed: int = 0) -> None:
    """Give an estimator that learns so many steps of `adapt` on the problem; others are left as they are."""
    if not estimator.learns:
        return
    repeats = max(1, LEARNING_STATES // problem.states)
    dist = problem.dist.expand((repeats, *problem.dist.batch_shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(steps):
            estimator.adapt(dist, problem.f)


def measure(estimator: Estimator, problem: Problem, estimates: int = 2000, seed: int = 0) -> Quality:
    """Measure an estimator on a problem.

    Args:
        estimator: The estimator; what it has learnt stays as it is.
        problem: The problem.
        estimates: How many independent estimates, rounded down to a multiple of `BLOCKS`. Of the exact expectation,
            which is the same every time, only as many as there are blocks.
        seed: Of the noise.

    Raises:
        ValueError: Fewer than two estimates a block, or the estimator refuses the problem.
    """
    if estimates < 2 * BLOCKS:
        raise ValueError(f"estimates must be at least {2 * BLOCKS}, got {estimates}")
    return quality_of(
        lambda repeats: logits_gradient(estimator, problem.dist, problem.f, repeats),
        problem.gradient,
        size=1 if isinstance(estimator, Exact) else estimates // BLOCKS,
        at_once=repeats_at_once(estimator, problem.dist),
        reference_error=problem.reference_error,
        seed=seed,
    )


def quality_of(
    draw: Callable[[int], Tensor],
    truth: Tensor,
    *,
    size: int,
    at_once: int,
    reference_error: float = 0.0,
    seed: int = 0,
) -> Quality:
    """Quality of estimates of any gradient.

    Args:
        draw: Makes so many independent estimates, `[R, B, N]`.
        truth: The exact gradient `[B, N]`.
        size: Estimates of a block.
        at_once: Most estimates that are drawn in one call.
        reference_error: Variance of `truth`, summed over its entries, if it is not exact.
        seed: Of the random numbers.
    """
    tally = _Tally(truth, size, reference_error)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(BLOCKS):
            done = 0
            while done < size:
                repeats = min(size - done, at_once)
                tally.add(draw(repeats))
                done += repeats
            tally.end_block()
    return tally.quality()


def repeats_at_once(estimator: Estimator, dist: FactoredCategorical) -> int:
    """How many independent estimates are made in one call, within bounds of memory."""
    if couples_rows(estimator):
        return 1
    points = estimator.samples
    if isinstance(estimator, Exact) and not estimator.multilinear:
        points = dist.factors.joint_size
    elif isinstance(estimator, LocalExpectation):
        points *= dist.factors.width
    elif isinstance(estimator, GumbelRao):
        points *= estimator.draws
    return max(1, NUMBERS // (points * dist.logits.numel()))


class _Tally:
    """Sums over estimates, block by block. The bias is tested across halves, see `_bias_p`."""

    def __init__(self, truth: Tensor, size: int, reference_error: float) -> None:
        self.size = size
        self.truth = truth.flatten().double()
        self.scale = max(float(self.truth.square().sum()), 1e-300)
        self.reference_error = reference_error
        self.sums: list[Tensor] = []  # of the errors, a vector for each block
        self.scalars: list[Tensor] = []  # of squared errors, cosines and zero rows
        self.directions: list[tuple[float, float]] = []  # sum, and sum of squares, of errors along a direction
        self._begin_block()

    def _begin_block(self) -> None:
        self.sum = torch.zeros_like(self.truth)
        self.scalar = torch.zeros(3, dtype=torch.float64)
        self.direction: Tensor | None = None
        if len(self.sums) >= BLOCKS // 2:
            first = torch.stack(self.sums[: BLOCKS // 2]).sum(0)
            self.direction = first / first.norm().clamp_min(1e-150)
        self.along = [0.0, 0.0]

    def add(self, gradient: Tensor) -> None:
        """Take in estimates `[R, B, N]`."""
        flat = gradient.flatten(1).double()
        error = flat - self.truth
        cosine = torch.nn.functional.cosine_similarity(flat, self.truth[None], dim=1, eps=1e-300)
        zero = (gradient == 0).all(-1).double().mean(-1)
        self.sum += error.sum(0)
        self.scalar += torch.stack([error.square().sum(), cosine.sum(), zero.sum()])
        if self.direction is not None:
            along = error @ self.direction
            self.along[0] += float(along.sum())
            self.along[1] += float(along.square().sum())

    def end_block(self) -> None:
        self.sums.append(self.sum)
        self.scalars.append(self.scalar)
        if self.direction is not None:
            self.directions.append((self.along[0], self.along[1]))
        self._begin_block()

    def quality(self) -> Quality:
        sums, scalars = torch.stack(self.sums), torch.stack(self.scalars)
        whole = self._statistics(sums.sum(0)[None], scalars.sum(0)[None], BLOCKS)[0]
        left = self._statistics(sums.sum(0) - sums, scalars.sum(0) - scalars, BLOCKS - 1)
        errors = ((BLOCKS - 1) / BLOCKS * (left - left.mean(0)).square().sum(0)).sqrt()
        bias2, variance, mse, cosine, zero = whole.tolist()
        bias2_error, variance_error, mse_error, cosine_error, _ = errors.tolist()
        return Quality(
            bias2=bias2,
            bias2_error=math.hypot(bias2_error, self.reference_error / self.scale),
            variance=variance,
            variance_error=variance_error,
            mse=mse,
            mse_error=mse_error,
            cosine=cosine,
            cosine_error=cosine_error,
            zero_share=zero,
            bias_p=self._bias_p(bias2),
            estimates=BLOCKS * self.size,
        )

    def _statistics(self, sums: Tensor, scalars: Tensor, blocks: int) -> Tensor:
        """Squared bias, variance, error, cosine and zero share, `[R, 5]`, of sums `[R, B * N]` and `[R, 3]`."""
        n = blocks * self.size
        squares = scalars[:, 0]
        of_mean = (sums / n).square().sum(-1)
        variance = (squares - n * of_mean) / max(n - 1, 1)
        bias2 = of_mean - variance / n - self.reference_error
        mse = squares / n - self.reference_error
        relative = torch.stack([bias2, variance, mse], -1) / self.scale
        relative = torch.where(relative.abs() < ROUNDING, 0.0, relative)
        return torch.cat([relative, scalars[:, 1:] / n], -1)

    def _bias_p(self, bias2: float) -> float:
        """Chance of such a bias, if there is none.

        The first half of the estimates says in which direction the mean errs, the second whether it errs that way: one
        number of known variance for each estimate, whose mean is normal.
        """
        if self.reference_error:
            return math.nan
        if bias2 == 0.0:
            return 1.0
        n = self.size * len(self.directions)
        total, squares = (sum(column) for column in zip(*self.directions, strict=True))
        mean = total / n
        error = math.sqrt(max(squares / n - mean**2, 0.0) / max(n - 1, 1))
        if error <= 1e-9 * abs(mean):  # it errs, and always alike
            return 0.0
        return 0.5 * math.erfc(mean / error / math.sqrt(2))
