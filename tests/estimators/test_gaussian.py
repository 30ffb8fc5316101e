"""Gaussian variables: gradients and variances in closed form, for quadratic objectives.

The false-alarm rate is 1e-6 for each check (see `oracles`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import Objective, assert_mean, weights
from torch import Tensor
from torch.distributions import Normal

from gumbel_rl.estimators import GaussianReparameterisation, GaussianScoreFunction
from gumbel_rl.estimators.gaussian import GaussianEstimator

N = 3
MEAN, LOG_STD = weights(N, 30), 0.5 * weights(N, 31)
CENTRE = weights(N, 32)
# Symmetric, with interactions and slopes of both signs.
A = weights(N * N, 33).reshape(N, N)
A = A + A.T

ESTIMATORS: dict[str, GaussianEstimator] = {
    "reparameterisation": GaussianReparameterisation(),
    "reparameterisation of 3": GaussianReparameterisation(samples=3),
    "score function": GaussianScoreFunction(),
    "score function with baseline": GaussianScoreFunction(baseline="mean"),
    "score function of 3": GaussianScoreFunction(samples=3),
    "leave-one-out": GaussianScoreFunction("leave-one-out", samples=2),
}


def quadratic(x: Tensor) -> Tensor:
    """`f(x) = (x - c)' A (x - c)`."""
    return torch.einsum("...i,ij,...j->...", x - CENTRE, A, x - CENTRE)


def estimates(
    estimator: Any, f: Objective = quadratic, repeats: int = 50_000, seed: int = 0, mean: Tensor = MEAN
) -> tuple[Tensor, Tensor, Tensor]:
    """Values `[R]` and gradients in mean and standard deviation `[R, N]` of independent estimates."""
    torch.manual_seed(seed)
    loc = mean.expand(repeats, -1).clone().requires_grad_()
    scale = LOG_STD.exp()[: mean.shape[-1]].expand(repeats, -1).clone().requires_grad_()
    surrogate = estimator(Normal(loc, scale), f)
    return surrogate.detach(), *torch.autograd.grad(surrogate.sum(), [loc, scale])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_value_and_gradients_are_the_closed_forms(name: str) -> None:
    # E f = (m - c)' A (m - c) + sum_i A_ii s_i², with the gradients 2 A (m - c) and 2 A_ii s_i.
    std = LOG_STD.exp()
    value, by_mean, by_std = estimates(ESTIMATORS[name])
    assert_mean(value, quadratic(MEAN) + (A.diagonal() * std.square()).sum())
    assert_mean(by_mean, 2 * A @ (MEAN - CENTRE))
    assert_mean(by_std, 2 * A.diagonal() * std)


def test_variances_are_the_closed_forms() -> None:
    # f(x) = x², one variable: the gradients in the mean are 2 x and x² e / s with x = m + s e, and E e⁶ = 15.
    mean, std = MEAN[:1], LOG_STD[:1].exp()
    closed = {
        "reparameterisation": 4 * std**2,
        "reparameterisation of 3": 4 * std**2 / 3,
        "score function": (mean**4 + 18 * mean**2 * std**2 + 15 * std**4) / std**2 - 4 * mean**2,
    }
    for name, expected in closed.items():
        _, by_mean, _ = estimates(ESTIMATORS[name], lambda x: x.square().sum(-1), 400_000, mean=mean)
        assert_mean((by_mean - 2 * mean).square(), expected)


def test_a_baseline_lowers_the_variance_and_reparameterisation_more() -> None:
    spreads = [
        float(estimates(ESTIMATORS[name], lambda x: quadratic(x) + 100.0)[1].var(0).sum())
        for name in ("reparameterisation", "score function with baseline", "score function")
    ]
    assert spreads[0] < 0.5 * spreads[1] < 0.25 * spreads[2]


def test_leave_one_out_is_the_mean_of_the_other_samples_of_a_row() -> None:
    # Two samples: (f(x1) - f(x2)) (e1 - e2) / 2 s by the mean, row by row, whatever the other rows are.
    noise = torch.randn(2, 4, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf, std = MEAN.expand(4, N).clone().requires_grad_(), LOG_STD.exp()
    surrogate = ESTIMATORS["leave-one-out"](Normal(leaf, std.expand(4, N)), quadratic, noise)
    one, two = quadratic(MEAN + std * noise)
    torch.testing.assert_close(surrogate.detach(), (one + two) / 2)
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
    torch.testing.assert_close(gradient, 0.5 * (one - two)[:, None] * (noise[0] - noise[1]) / std)


def test_the_mean_baseline_is_unbiased_for_few_samples() -> None:
    torch.manual_seed(1)
    estimator = GaussianScoreFunction("mean", samples=2)
    gradients = []
    for _ in range(2000):
        leaf = MEAN.clone().requires_grad_()
        surrogate = estimator(Normal(leaf, LOG_STD.exp()), quadratic)
        gradients.append(torch.autograd.grad(surrogate, leaf)[0])
    assert_mean(torch.stack(gradients), 2 * A @ (MEAN - CENTRE))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_reparameterisation_asks_for_the_slope(name: str) -> None:
    estimator = ESTIMATORS[name]
    with_slope, without = (
        estimates(estimator, f, repeats=100)[1].abs().sum()
        for f in (quadratic, lambda x: quadratic(x.detach()) + 0 * x.sum(-1))
    )
    assert with_slope > 0
    assert (without == 0) == estimator.needs_gradient


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_shapes_common_noise_and_parameters_of_the_objective(name: str, batch: tuple[int, ...]) -> None:
    estimator = ESTIMATORS[name]
    dist = Normal(MEAN.expand(*batch, N), LOG_STD.exp().expand(*batch, N))
    noise = torch.randn(5, *batch, N, dtype=torch.float64)
    theta = torch.ones(N, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return (x * theta).sin().sum(-1)

    value = estimator(dist, f, noise)
    assert value.shape == batch
    expected = f(MEAN + LOG_STD.exp() * noise).mean(0)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(x.sum(), theta)[0] for x in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert estimator(dist, quadratic).shape == batch


def test_mistakes_are_refused() -> None:
    dist = Normal(MEAN, LOG_STD.exp())
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        GaussianReparameterisation(samples=0)
    with pytest.raises(ValueError, match="unknown baseline 'value'; known are none, mean, leave-one-out"):
        GaussianScoreFunction(baseline="value")
    with pytest.raises(ValueError, match="needs at least 2, got 1"):
        GaussianScoreFunction("leave-one-out")
    with pytest.raises(ValueError, match="needs at least 2, got 1"):
        GaussianScoreFunction("leave-one-out", samples=2)(dist, quadratic, torch.zeros(1, N))
    with pytest.raises(ValueError, match=r"noise of shape \(2, 4\) does not fit samples of \(3,\)"):
        GaussianReparameterisation()(dist, quadratic, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="the objective maps actions"):
        GaussianReparameterisation()(dist, lambda x: x)
