"""`gumbel-rao`: the mean of `st-gumbel-softmax` given the sample, its variance, its limit.

Where samples are drawn, the false-alarm rate is 1e-6 for each check (see `oracles`).
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from enumeration import (
    SIZES,
    assert_equal,
    gradients,
    gradients_given_outcomes,
    logits_of,
    quadrature,
    sampled,
    softmax_jacobian,
)
from oracles import OBJECTIVES, Objective, assert_mean, linear, nonlinear, outcome_probs, outcomes
from torch import Tensor

from gumbel_rl import ActionFactors, Estimator, FactoredCategorical
from gumbel_rl.estimators import GumbelRao, StraightThroughGumbelSoftmax, Zgr
from gumbel_rl.gumbel import posterior_gumbel

BITS: list[tuple[int, ...]] = [(2,), (2, 2, 2)]
CHOICES: list[tuple[int, ...]] = [(2,), (3,), (4,), (5,), (2, 3), (2, 3, 4)]


def forced(
    estimator: Estimator, sizes: tuple[int, ...], f: Objective, outcome: Tensor, repeats: int, logits: Tensor
) -> Tensor:
    """Gradients `[R, N]` of estimates whose sample is `outcome` `[N]`."""
    torch.manual_seed(0)
    return gradients(estimator, sizes, f, logits, 1e3 * outcome.expand(1, repeats, -1))[1]


# Factors of two choices: the gradient given the sample, by quadrature.


@cache
def slopes_given_choice(gap: float, choice: int, temperature: float) -> tuple[float, float]:
    """First and second moment of `s = dy/dl` given the choice, where `y = sigmoid((l + noise) / temperature)`.

    The Jacobian of a factor of two choices is `s [[1, -1], [-1, 1]]`. `gap` is how much larger the first logit is.
    """
    noise, weight = quadrature(2, breakpoint=-gap)
    y = torch.sigmoid((gap + noise[:, 0]) / temperature)
    slope = y * (1 - y) / temperature
    weight = weight * ((y > 0.5) == (choice == 0))
    return float(weight @ slope / weight.sum()), float(weight @ slope.square() / weight.sum())


SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)


def mean_jacobian(logits: Tensor, choice: int, temperature: float) -> Tensor:
    return slopes_given_choice(float(logits[0] - logits[1]), choice, temperature)[0] * SIGNS


def test_the_quadrature_given_the_choice_is_that_of_the_torch_sampler() -> None:
    # A check of the oracle itself: torch's own relaxed samples, sorted by their argmax.
    logits = torch.tensor([0.7, -0.4], dtype=torch.float64)
    torch.manual_seed(1)
    first = torch.distributions.RelaxedOneHotCategorical(0.5, logits=logits).sample((200_000,))[:, 0]
    for choice, rows in enumerate((first[first > 0.5], first[first < 0.5])):
        slope = rows * (1 - rows) / 0.5
        mean, second = slopes_given_choice(1.1, choice, 0.5)
        assert_mean(slope, mean)
        assert_mean(slope.square(), second)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", BITS, ids=str)
def test_given_the_sample_the_gradient_is_the_conditional_mean(
    sizes: tuple[int, ...], kind: str, temperature: float
) -> None:
    # Logits that are not normalised, which posterior noise must not mistake for log-probabilities.
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes) + 2.0
    expected = gradients_given_outcomes(logits, sizes, f, lambda block, k: mean_jacobian(block, k, temperature))
    for outcome, gradient in zip(outcomes(sizes), expected, strict=True):
        assert_mean(forced(GumbelRao(temperature, draws=5), sizes, f, outcome, 4000, logits), gradient)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_covariance_is_the_closed_form(kind: str, draws: int, temperature: float) -> None:
    # Over the samples that of the conditional means, and within each sample a share 1 / draws of that of one draw.
    f, logits, sizes = OBJECTIVES[kind]((2,)), logits_of((2,)), (2,)
    probs, vertices = outcome_probs(logits, sizes), outcomes(sizes).requires_grad_()
    (slopes,) = torch.autograd.grad(f(vertices).sum(), vertices)
    difference = slopes[:, 0] - slopes[:, 1]
    gap = float(logits[0] - logits[1])
    moments = torch.tensor([slopes_given_choice(gap, k, temperature) for k in range(2)], dtype=torch.float64)
    mean, second = moments.unbind(-1)
    within = (second - mean.square()) * difference.square() / draws
    centre = probs @ (mean * difference)
    variance = probs @ (within + (mean * difference - centre).square())
    _, drawn = sampled(GumbelRao(temperature, draws=draws), sizes, f, repeats=50_000)
    assert_mean(drawn, centre * SIGNS[0])
    deviation = drawn - centre * SIGNS[0]
    assert_mean(deviation[:, :, None] * deviation[:, None, :], variance * SIGNS)


# Any number of choices: against the samples of st-gumbel-softmax.


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", CHOICES, ids=str)
def test_the_expectation_is_that_of_st_gumbel_softmax_and_the_variance_is_smaller(
    sizes: tuple[int, ...], kind: str, temperature: float
) -> None:
    f = OBJECTIVES[kind](sizes)
    rivals = [StraightThroughGumbelSoftmax(temperature), GumbelRao(temperature)]
    (_, plain), (_, averaged) = (sampled(rival, sizes, f, repeats=20_000) for rival in rivals)
    assert_mean(plain - averaged, 0.0)
    saved = (plain.square() - averaged.square()).sum(-1)  # the means are equal, and so are their squares
    error = saved.std() / len(saved) ** 0.5
    assert saved.mean() > 5 * error


@pytest.mark.parametrize("sizes", [(3,), (2, 3)], ids=str)
def test_given_the_sample_the_gradient_is_distributed_as_that_of_st_gumbel_softmax(sizes: tuple[int, ...]) -> None:
    # Prior noise that happens to lead to the sample is posterior noise.
    f, logits, temperature, repeats = nonlinear(sizes), logits_of(sizes) + 2.0, 0.7, 100_000
    torch.manual_seed(2)
    noise = FactoredCategorical(logits.expand(repeats, -1), ActionFactors(sizes)).noise((1,))
    _, plain = gradients(StraightThroughGumbelSoftmax(temperature), sizes, f, logits, noise)
    sample = FactoredCategorical(logits, ActionFactors(sizes)).sample(noise=noise[0])
    for outcome in outcomes(sizes):
        prior = plain[(sample == outcome).all(-1)]
        posterior = forced(GumbelRao(temperature, draws=1), sizes, f, outcome, len(prior), logits)
        assert len(prior) > 1000
        assert_mean(prior - posterior, 0.0)
        assert_mean(prior.square() - posterior.square(), 0.0)


def test_many_draws_leave_no_noise_but_the_samples() -> None:
    outcome, logits = torch.eye(3, dtype=torch.float64)[1], logits_of((3,))
    spread = [
        float(forced(GumbelRao(0.5, draws=draws), (3,), linear((3,)), outcome, 2000, logits).std(0).norm())
        for draws in (1, 16, 256)
    ]
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.15)  # its standard error is below 3 %
    assert spread[1] / spread[2] == pytest.approx(4, rel=0.15)


def test_the_derivative_is_taken_at_fixed_noise() -> None:
    # By hand, with the very draws of the estimator: the mean Jacobian of softmax((l + g) / T).
    logits, temperature = logits_of((4,)), 0.6
    outcome = torch.eye(4, dtype=torch.float64)[2]
    gradient = forced(GumbelRao(temperature, draws=3), (4,), linear((4,)), outcome, 1, logits)[0]
    torch.manual_seed(0)
    noise = posterior_gumbel(logits, outcome.expand(3, 1, 1, 4)).reshape(3, 4)
    jacobians = [softmax_jacobian(((logits.log_softmax(-1) + g) / temperature).softmax(-1)) for g in noise]
    slope = linear((4,))(torch.eye(4, dtype=torch.float64)) - 0.3
    assert_equal(gradient, torch.stack(jacobians).mean(0) @ slope / temperature)


# The limit.


def zgr_given(sizes: tuple[int, ...], f: Objective, outcome: Tensor, logits: Tensor) -> Tensor:
    return forced(Zgr(), sizes, f, outcome, 1, logits)[0]


@pytest.mark.parametrize("choice", [0, 1])
def test_the_conditional_mean_of_two_choices_tends_to_zgr(choice: int) -> None:
    # Its distance is proportional to the temperature.
    logits = logits_of((2,))
    limit = zgr_given((2,), lambda z: z[..., 0], torch.eye(2, dtype=torch.float64)[choice], logits)[0]
    gap = float(logits[0] - logits[1])
    errors = [slopes_given_choice(gap, choice, t)[0] - float(limit) for t in (0.02, 0.01, 0.005)]
    assert abs(errors[2]) < 1e-3
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
@pytest.mark.parametrize("sizes", CHOICES, ids=str)
def test_cold_gumbel_rao_is_zgr_sample_by_sample(sizes: tuple[int, ...], kind: str) -> None:
    f, logits, temperature = OBJECTIVES[kind](sizes), logits_of(sizes) + 2.0, 0.02
    scale = float(
        gradients_given_outcomes(logits, sizes, f, lambda block, _: softmax_jacobian(block.softmax(-1))).abs().max()
    )
    for outcome in outcomes(sizes)[:6]:
        drawn = forced(GumbelRao(temperature, draws=10), sizes, f, outcome, 10_000, logits)
        # What is left of the temperature: below 1 % of the largest gradient.
        assert_mean(drawn, zgr_given(sizes, f, outcome, logits), slack=0.01 * scale)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_cold_gumbel_rao_has_the_expectation_of_zgr(sizes: tuple[int, ...]) -> None:
    f = nonlinear(sizes)
    _, cold = sampled(GumbelRao(0.02), sizes, f, repeats=50_000)
    _, limit = sampled(Zgr(), sizes, f, repeats=50_000)
    assert_mean(cold - limit, 0.0, slack=0.01 * float(limit.abs().max()))


@pytest.mark.parametrize("draws", [0, -3])
def test_too_few_draws_are_refused(draws: int) -> None:
    with pytest.raises(ValueError, match=f"draws must be at least 1, got {draws}"):
        GumbelRao(draws=draws)
