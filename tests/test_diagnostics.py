"""Diagnostics: known biases, variances, cosines and dead gradients.

Statistical checks have a false-alarm rate of 1e-6 each (see `oracles`).
"""

from __future__ import annotations

import math

import pytest
import torch
from oracles import assert_mean, exact_expectation, linear, nonlinear, outcome_probs, outcomes, weights
from torch import Tensor

from gumbel_rl import ActionFactors, FactoredCategorical, make_estimator
from gumbel_rl.diagnostics import diagnose, logits_gradient, zero_gradient_share
from gumbel_rl.estimators import Exact, PathwiseEstimator, ScoreFunction, StraightThrough

SIZES = (2, 3)
FACTORS = ActionFactors(SIZES)


def dist_of(batch: int = 1, mask: Tensor | None = None) -> FactoredCategorical:
    logits = torch.stack([weights(5, 20 + row) for row in range(batch)])
    return FactoredCategorical(logits, FACTORS, mask)


class Scaled(PathwiseEstimator):
    """The exact gradient times a constant: its bias, variance and cosine are known."""

    unbiased = False

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        return self.factor * dist.probs

    def __call__(self, dist: FactoredCategorical, f: object, noise: Tensor | None = None) -> Tensor:
        return self.factor * Exact()(dist, f)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "cosine"), [(1.0, 1.0), (3.0, 1.0), (0.5, 1.0), (-1.0, -1.0)])
def test_known_bias_without_variance(factor: float, cosine: float) -> None:
    result = diagnose(Scaled(factor), dist_of(4), nonlinear(SIZES), repeats=8)
    assert result.bias == pytest.approx(abs(factor - 1), abs=1e-6)
    assert result.variance == pytest.approx(0, abs=1e-12)
    assert result.cosine == pytest.approx(cosine)
    assert result.zero_grad_frac == 0
    exact = torch.stack([exact_expectation(row, SIZES, nonlinear(SIZES))[1] for row in dist_of(4).logits])
    assert result.exact_norm == pytest.approx(float(exact.norm()))


def test_exact_scores_zero_to_the_last_bit() -> None:
    result = diagnose(Exact(), dist_of(4), nonlinear(SIZES))
    assert (result.bias, result.variance, result.zero_grad_frac) == (0.0, 0.0, 0.0)
    assert result.cosine == pytest.approx(1.0)


def score_function_variance() -> float:
    """Closed form: trace of E f² (z - p)(z - p)' - g g', over |g|²."""
    f, logits = nonlinear(SIZES), dist_of().logits[0]
    vertices, probs = outcomes(SIZES), outcome_probs(logits, SIZES)
    _, exact = exact_expectation(logits, SIZES, f)
    second = probs @ (f(vertices).square() * (vertices - probs @ vertices).square().sum(-1))
    return float((second - exact.square().sum()) / exact.square().sum())


def test_variance_of_few_repeats_is_right_on_average() -> None:
    torch.manual_seed(7)
    results = [diagnose(ScoreFunction(), dist_of(), nonlinear(SIZES), repeats=2).variance for _ in range(500)]
    assert_mean(torch.tensor(results), score_function_variance())


def test_variance_and_bias_of_the_score_function() -> None:
    f, variance = nonlinear(SIZES), score_function_variance()
    torch.manual_seed(0)
    result = diagnose(ScoreFunction(), dist_of(), f, repeats=100_000)
    assert result.variance == pytest.approx(variance, rel=0.05)  # its standard error is below 0.5 %
    assert result.bias < 10 * math.sqrt(variance / 100_000)
    assert -1 < result.cosine < 1


def test_bias_of_straight_through_is_the_enumerated_one() -> None:
    f = nonlinear(SIZES)
    dist = dist_of()
    leaf = dist.logits[0].clone().requires_grad_()
    vertices = outcomes(SIZES).requires_grad_()
    (slopes,) = torch.autograd.grad(f(vertices).sum(), vertices)
    slope = outcome_probs(leaf.detach(), SIZES) @ slopes
    probs = torch.cat([block.softmax(-1) for block in leaf.split(list(SIZES))])
    (predicted,) = torch.autograd.grad(probs @ slope, leaf)
    _, exact = exact_expectation(dist.logits[0], SIZES, f)
    torch.manual_seed(1)
    result = diagnose(StraightThrough(), dist, f, repeats=100_000)
    assert result.bias == pytest.approx(float((predicted - exact).norm() / exact.norm()), rel=0.05)


def test_the_error_of_the_mean_does_not_pass_for_bias() -> None:
    # Few repeats of a noisy, unbiased estimator: without the correction this would be about sqrt(variance / repeats).
    torch.manual_seed(2)
    results = [diagnose(ScoreFunction(), dist_of(), nonlinear(SIZES), repeats=16) for _ in range(200)]
    naive = math.sqrt(results[0].variance / 16)
    assert sum(result.bias == 0 for result in results) > 60
    assert sum(result.bias for result in results) / 200 < naive


def test_logits_gradients_are_independent_estimates() -> None:
    torch.manual_seed(3)
    dist, f = dist_of(2), linear(SIZES)
    gradients = logits_gradient(ScoreFunction(), dist, f, repeats=50_000)
    assert gradients.shape == (50_000, 2, 5)
    assert not gradients.requires_grad
    exact = torch.stack([exact_expectation(row, SIZES, f)[1] for row in dist.logits])
    assert_mean(gradients, exact)
    first, second = gradients[:-1] - exact, gradients[1:] - exact
    assert_mean(first * second, 0.0)  # neighbours are uncorrelated


def test_logits_gradient_respects_the_mask_and_touches_nothing() -> None:
    mask = torch.tensor([True, True, True, False, True])
    parameter = torch.ones(5, dtype=torch.float64, requires_grad=True)
    dist = dist_of(3, mask)
    with torch.no_grad():  # as a callback may be
        gradient = logits_gradient(
            make_estimator("st-gumbel-softmax"), dist, lambda z: (z * parameter).sin().sum(-1), 4
        )
    assert gradient.shape == (4, 3, 5)
    assert (gradient[..., 3] == 0).all()
    assert parameter.grad is None
    assert dist.logits.grad is None


def test_an_objective_that_ignores_the_action_has_a_gradient_of_zero() -> None:
    for name in ("straight-through", "score-function", "exact"):
        gradient = logits_gradient(make_estimator(name), dist_of(3), lambda z: torch.zeros(z.shape[:-1]).double(), 2)
        assert gradient.shape == (2, 3, 5)
        assert not gradient.any()
    result = diagnose(make_estimator("straight-through"), dist_of(3), lambda z: torch.zeros(z.shape[:-1]).double())
    assert (result.bias, result.variance, result.cosine, result.zero_grad_frac) == (0.0, 0.0, 0.0, 1.0)


def test_zero_gradient_share_counts_rows() -> None:
    gradient = torch.tensor([[0.0, 0.0], [0.0, 1e-30], [1.0, -1.0], [0.0, 0.0]])
    assert zero_gradient_share(gradient).item() == 0.5
    assert zero_gradient_share(gradient.to(torch.bfloat16)).item() == 0.5


def test_gradients_die_at_low_temperatures() -> None:
    logits = torch.randn(2000, 4, generator=torch.Generator().manual_seed(4))
    dist = FactoredCategorical(logits, ActionFactors((4,)))
    torch.manual_seed(5)
    shares = [
        diagnose(make_estimator("st-gumbel-softmax", temperature=t), dist, linear((4,)), repeats=2).zero_grad_frac
        for t in (1.0, 0.1, 0.01, 0.001)
    ]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[3] > 0.8


def test_another_oracle_can_be_given() -> None:
    many = ActionFactors((2,) * 20)
    dist = FactoredCategorical(torch.randn(3, 40, generator=torch.Generator().manual_seed(6)), many)
    with pytest.raises(ValueError, match="joint actions"):
        diagnose(StraightThrough(), dist, linear((2,) * 20))
    result = diagnose(StraightThrough(), dist, linear((2,) * 20), exact=Exact(multilinear=True))
    assert result.bias < 1e-6
    assert result.cosine == pytest.approx(1.0)


def test_one_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 repeats, got 1"):
        diagnose(Exact(), dist_of(), linear(SIZES), repeats=1)
