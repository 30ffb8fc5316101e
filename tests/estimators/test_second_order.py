"""`zgr` and `reinmax`: the Jacobian of every outcome, unbiased for quadratic objectives, variances in closed form.

Where samples are drawn, the false-alarm rate is 1e-6 for each check (see `oracles`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from enumeration import (
    SIZES,
    assert_equal,
    covariance,
    enumerated,
    gradients_given_outcomes,
    logits_of,
    sampled,
    softmax_jacobian,
    straight_through_expectation,
)
from oracles import (
    OBJECTIVES,
    Objective,
    assert_mean,
    exact_expectation,
    linear,
    nonlinear,
    outcome_probs,
    outcomes,
    weights,
)
from torch import Tensor
from torch.nn.functional import one_hot

from gumbel_rl import Estimator
from gumbel_rl.estimators import ReinMax, StraightThrough, Zgr

# Discrete of 2 to 5 choices, MultiDiscrete, ragged, MultiBinary.
SPACES: list[tuple[int, ...]] = [(2,), *SIZES, (4,), (5,), (2, 3, 4)]


def zgr_jacobian(logits: Tensor, choice: int) -> Tensor:
    p = logits.softmax(-1)
    away = one_hot(torch.tensor(choice), len(p)) - p
    return (softmax_jacobian(p) + torch.outer(away, away)) / 2


def reinmax_jacobian(temperature: float) -> Callable[[Tensor, int], Tensor]:
    def jacobian(logits: Tensor, choice: int) -> Tensor:
        z = one_hot(torch.tensor(choice), len(logits))
        midpoint = ((logits / temperature).softmax(-1) + z) / 2
        return 2 * softmax_jacobian(midpoint) - softmax_jacobian(logits.softmax(-1)) / 2

    return jacobian


CASES = [
    pytest.param(Zgr(), zgr_jacobian, id="zgr"),
    *(pytest.param(ReinMax(t), reinmax_jacobian(t), id=f"reinmax-{t}") for t in (1.0, 1.5, 0.6)),
]


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SPACES, ids=str)
@pytest.mark.parametrize(("estimator", "jacobian"), CASES)
def test_every_outcome_has_the_jacobian_of_the_paper(
    estimator: Estimator, jacobian: Callable[[Tensor, int], Tensor], sizes: tuple[int, ...], kind: str
) -> None:
    # Logits that are not normalised: nothing may depend on their offset.
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes) + 3.0
    expected = gradients_given_outcomes(logits, sizes, f, jacobian)
    probability, value, gradient = enumerated(estimator, sizes, f, logits, 1)
    assert_equal(gradient, expected)
    assert_equal(probability @ value, exact_expectation(logits, sizes, f)[0])


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("estimator", "jacobian"), CASES)
def test_samples_have_the_predicted_mean_and_covariance(
    estimator: Estimator, jacobian: Callable[[Tensor, int], Tensor], sizes: tuple[int, ...], kind: str
) -> None:
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes)
    expected, probs = gradients_given_outcomes(logits, sizes, f, jacobian), outcome_probs(logits, sizes)
    _, drawn = sampled(estimator, sizes, f, repeats=20_000)
    assert_mean(drawn, probs @ expected)
    deviation = drawn - probs @ expected
    assert_mean(deviation[:, :, None] * deviation[:, None, :], covariance(probs, expected))


# Bias. The published statement of reinmax, second order: exact for objectives without a third derivative.


def quadratic(sizes: Sequence[int]) -> Objective:
    """`f(z) = <z, Az> + <b, z>`, with terms within factors and between them."""
    n = sum(sizes)
    a, b = weights(n * n, 6).reshape(n, n), weights(n, 7)
    return lambda z: torch.einsum("...i,ij,...j->...", z, a.to(z), z) + (z * b.to(z)).sum(-1)


def factorwise_quadratic(sizes: Sequence[int]) -> Objective:
    """`f(z) = prod_d (1 + <z_d, u_d> + <z_d, v_d>²)`: quadratic in each factor, of a degree of `2 D` in all."""
    u, v = weights(sum(sizes), 8).split(list(sizes)), weights(sum(sizes), 9).split(list(sizes))

    def f(z: Tensor) -> Tensor:
        blocks = zip(z.split(list(sizes), -1), u, v, strict=True)
        return torch.stack([1 + (z * u).sum(-1) + (z * v).sum(-1).square() for z, u, v in blocks]).prod(0)

    return f


@pytest.mark.parametrize("objective", [quadratic, factorwise_quadratic])
@pytest.mark.parametrize("sizes", SPACES, ids=str)
@pytest.mark.parametrize("estimator", [Zgr(), ReinMax()], ids=["zgr", "reinmax"])
def test_unbiased_where_the_objective_is_quadratic_in_each_factor(
    estimator: Estimator, sizes: tuple[int, ...], objective: Callable[[Sequence[int]], Objective]
) -> None:
    f, logits = objective(sizes), logits_of(sizes)
    probability, _, gradient = enumerated(estimator, sizes, f, logits, 1)
    _, exact = exact_expectation(logits, sizes, f)
    assert_equal(probability @ gradient, exact)
    assert (straight_through_expectation(logits, sizes, f) - exact).abs().max() > 0.05  # first order is not enough
    probability, _, gradient = enumerated(estimator, sizes, lambda z: f(z).sin(), logits, 1)
    exact = exact_expectation(logits, sizes, lambda z: f(z).sin())[1]
    assert (probability @ gradient - exact).abs().max() > 0.01  # nor is second order always


@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize("sizes", SPACES, ids=str)
def test_reinmax_at_another_temperature_is_biased_on_linear_objectives(
    sizes: tuple[int, ...], temperature: float
) -> None:
    probability, _, gradient = enumerated(ReinMax(temperature), sizes, linear(sizes), logits_of(sizes), 1)
    _, exact = exact_expectation(logits_of(sizes), sizes, linear(sizes))
    assert (probability @ gradient - exact).abs().max() > 1e-3


@pytest.mark.parametrize("sizes", SPACES, ids=str)
def test_reinmax_at_temperature_1_is_zgr(sizes: tuple[int, ...]) -> None:
    estimates = [sampled(estimator, sizes, nonlinear(sizes), repeats=200)[1] for estimator in (ReinMax(), Zgr())]
    assert_equal(*estimates)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_zgr_is_half_straight_through_and_half_darn(sizes: tuple[int, ...]) -> None:
    # DARN: the score function of the objective's change between the sample and the mean, taken to first order.
    f, logits, vertices = nonlinear(sizes), logits_of(sizes), outcomes(sizes).requires_grad_()
    (slopes,) = torch.autograd.grad(f(vertices).sum(), vertices)
    probs = torch.cat([block.softmax(-1) for block in logits.split(list(sizes))])
    change = [
        (slope * away).sum(-1, keepdim=True).expand_as(away)
        for slope, away in zip(slopes.split(list(sizes), -1), (vertices - probs).split(list(sizes), -1), strict=True)
    ]
    darn = torch.cat(change, -1).detach() * (vertices - probs).detach()
    _, _, straight_through = enumerated(StraightThrough(), sizes, f, logits, 1)
    assert_equal(enumerated(Zgr(), sizes, f, logits, 1)[2], (straight_through + darn) / 2)


@pytest.mark.parametrize("sizes", [(2,), (3,), (5,)], ids=str)
def test_the_variance_of_zgr_on_linear_objectives_is_a_quarter_of_darns(sizes: tuple[int, ...]) -> None:
    # Straight-through is constant there. By hand for two choices: with w the difference of values the estimate is
    # w/2 (1 - p_k) for the sample k, of variance w² p1 p2 (p1 - p2)² / 4, in either logit.
    f, logits = linear(sizes), logits_of(sizes)
    p = logits.softmax(-1)
    slope = f(torch.eye(len(p), dtype=torch.float64)) - 0.3
    away = torch.eye(len(p), dtype=torch.float64) - p
    darn = (away @ slope)[:, None] * away
    probability, _, gradient = enumerated(Zgr(), sizes, f, logits, 1)
    assert_equal(covariance(probability, gradient), covariance(p, darn) / 4)
    if sizes == (2,):
        by_hand = (slope[0] - slope[1]).square() * p.prod() * (p[0] - p[1]).square() / 4
        assert_equal(covariance(probability, gradient).diagonal(), by_hand.expand(2))
