"""Every estimator against exact answers: enumeration of outcomes, quadrature over the noise, and sampling.

An estimator takes its noise from outside, so its expectation can be worked out without sampling it: noise that forces
each outcome in turn, weighted by the outcome's probability, or quadrature nodes, weighted by the density of the noise.
Where samples are drawn, the false-alarm rate is 1e-6 for each check (see `oracles`).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from enumeration import (
    SIZES,
    assert_equal,
    covariance,
    enumerated,
    gradients,
    logits_of,
    quadrature,
    sampled,
    straight_through_expectation,
)
from oracles import (
    OBJECTIVES,
    assert_mean,
    exact_expectation,
    linear,
    multilinear,
    nonlinear,
    outcome_probs,
    outcomes,
    weights,
)
from torch import Tensor

from gumbel_rl import ESTIMATORS, ActionFactors, Estimator, FactoredCategorical, make_estimator
from gumbel_rl.estimators import (
    Exact,
    GumbelSoftmax,
    LocalExpectation,
    Rloo,
    ScoreFunction,
    StraightThrough,
    StraightThroughGumbelSoftmax,
)
from gumbel_rl.gumbel import gumbel_noise

# Unbiased estimators, by enumeration: exactly the exact gradient.


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("cls", "samples"),
    [(ScoreFunction, 1), (ScoreFunction, 2), (Rloo, 2), (Rloo, 3), (LocalExpectation, 1), (LocalExpectation, 2)],
)
def test_unbiased_by_enumeration(
    cls: type[ScoreFunction | Rloo | LocalExpectation], samples: int, sizes: tuple[int, ...], kind: str
) -> None:
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes)
    probability, value, gradient = enumerated(cls(samples=samples), sizes, f, logits, samples)
    exact_value, exact_gradient = exact_expectation(logits, sizes, f)
    assert_equal(probability @ value, exact_value)
    assert_equal(probability @ gradient, exact_gradient)


@pytest.mark.parametrize(("samples", "batch"), [(1, 2), (2, 1), (1, 3)])
def test_mean_baseline_is_unbiased_by_enumeration(samples: int, batch: int) -> None:
    # The baseline couples the batch, so whole batches are enumerated; rows with different logits.
    sizes, f = (3,), nonlinear((3,))
    logits = torch.stack([logits_of(sizes) + row * weights(3, 11) for row in range(batch)])
    vertices = outcomes(sizes)
    probs = torch.stack([outcome_probs(row, sizes) for row in logits])
    mean = torch.zeros_like(logits)
    for choice in itertools.product(range(3), repeat=samples * batch):
        index = torch.tensor(choice).reshape(samples, batch)
        leaf = logits.clone().requires_grad_()
        dist = FactoredCategorical(leaf, ActionFactors(sizes))
        surrogate = ScoreFunction(baseline="mean", samples=samples)(dist, f, 1e3 * vertices[index])
        (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
        mean += gradient * probs[torch.arange(batch), index].prod()
    assert_equal(mean, torch.stack([exact_expectation(row, sizes, f)[1] for row in logits]))


def test_mean_baseline_over_samples_of_one_row_is_rloo() -> None:
    noise = gumbel_noise((5, 1, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, rloo = (
        gradients(estimator, (3,), nonlinear((3,)), logits_of((3,)), noise)[1]
        for estimator in (ScoreFunction(baseline="mean", samples=5), Rloo(samples=5))
    )
    assert_equal(mean, rloo)


def test_mean_baseline_of_a_lone_sample_is_none() -> None:
    noise = torch.zeros(1, 1, 3, dtype=torch.float64)
    estimates = [
        gradients(ScoreFunction(baseline=baseline), (3,), nonlinear((3,)), logits_of((3,)), noise)[1]
        for baseline in ("mean", "none")
    ]
    assert torch.equal(*estimates)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_given_baseline_has_the_closed_form_of_every_outcome(sizes: tuple[int, ...]) -> None:
    # For categoricals d log p(z) = z - probs, so the estimate is (f(z) - b) (z - probs), outcome by outcome.
    f, logits, vertices = nonlinear(sizes), logits_of(sizes), outcomes(sizes)
    leaf = logits.expand(len(vertices), -1).clone().requires_grad_()
    baseline = weights(len(vertices), 12)
    dist = FactoredCategorical(leaf, ActionFactors(sizes))
    surrogate = ScoreFunction(baseline="given")(dist, f, 1e3 * vertices[None], baseline=baseline)
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
    assert_equal(surrogate.detach(), f(vertices))
    assert_equal(gradient, (f(vertices) - baseline)[:, None] * (vertices - dist.probs.detach()))


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_exact_is_exact(sizes: tuple[int, ...], kind: str) -> None:
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes)
    noise = torch.zeros(1, 4, sum(sizes), dtype=torch.float64)
    exact_value, exact_gradient = exact_expectation(logits, sizes, f)
    value, gradient = gradients(Exact(), sizes, f, logits, noise)
    assert_equal(value, exact_value.expand(4))
    assert_equal(gradient, exact_gradient.expand(4, -1))
    value, gradient = gradients(Exact(multilinear=True), sizes, f, logits, noise)
    if kind == "nonlinear":
        assert not torch.allclose(gradient, exact_gradient, atol=1e-2)
    else:
        assert_equal(value, exact_value.expand(4))
        assert_equal(gradient, exact_gradient.expand(4, -1))


# Unbiased estimators, by sampling: the sampler is part of the estimator. Every id of the registry that claims it.


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", [*SIZES, (2, 3, 4)], ids=str)
@pytest.mark.parametrize("name", [name for name, cls in ESTIMATORS.items() if cls.unbiased])
def test_unbiased_by_sampling(name: str, sizes: tuple[int, ...], kind: str) -> None:
    f, estimator = OBJECTIVES[kind](sizes), make_estimator(name)
    value, gradient = sampled(estimator, sizes, f, repeats=20_000)
    exact_value, exact_gradient = exact_expectation(logits_of(sizes), sizes, f)
    assert_mean(gradient, exact_gradient)
    assert_mean(value, exact_value)


# Variances.


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_the_variance_of_the_score_function_is_the_closed_form(baseline: float, sizes: tuple[int, ...]) -> None:
    # Sum over z of p(z) (f(z) - b)² (z - probs)(z - probs)' - g g'.
    f, logits, repeats = nonlinear(sizes), logits_of(sizes), 50_000
    vertices, probs = outcomes(sizes), outcome_probs(logits, sizes)
    _, exact = exact_expectation(logits, sizes, f)
    score = (f(vertices) - baseline)[:, None] * (vertices - probs @ vertices)
    closed = torch.einsum("v,vi,vj->ij", probs, score, score) - torch.outer(exact, exact)
    torch.manual_seed(1)
    leaf = logits.expand(repeats, -1).clone().requires_grad_()
    dist = FactoredCategorical(leaf, ActionFactors(sizes))
    surrogate = ScoreFunction(baseline="given")(dist, f, baseline=torch.full((repeats,), baseline, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
    deviation = gradient - exact
    assert_mean(deviation[:, :, None] * deviation[:, None, :], closed)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_samples_divide_the_variance(sizes: tuple[int, ...]) -> None:
    f, logits = nonlinear(sizes), logits_of(sizes)
    covariances = []
    for samples in (1, 2):
        probability, _, gradient = enumerated(ScoreFunction(samples=samples), sizes, f, logits, samples)
        covariances.append(covariance(probability, gradient))
    assert_equal(covariances[1], covariances[0] / 2)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rloo_of_two_is_the_closed_form_and_beats_the_score_function(sizes: tuple[int, ...]) -> None:
    f, logits = nonlinear(sizes), logits_of(sizes)
    vertices = outcomes(sizes)
    probability, _, gradient = enumerated(Rloo(samples=2), sizes, f, logits, 2)
    # (f(z1) - f(z2)) (z1 - z2) / 2.
    pairs = torch.tensor(list(itertools.product(range(len(vertices)), repeat=2)))
    first, second = vertices[pairs].unbind(1)
    assert_equal(gradient, 0.5 * (f(first) - f(second))[:, None] * (first - second))
    # A constant added to f changes nothing, where the plain score function soon drowns in it.
    _, _, shifted = enumerated(Rloo(samples=2), sizes, lambda z: f(z) + 2.0, logits, 2)
    _, _, plain = enumerated(ScoreFunction(samples=2), sizes, lambda z: f(z) + 2.0, logits, 2)
    assert_equal(shifted, gradient)
    assert covariance(probability, gradient).trace() < 0.5 * covariance(probability, plain).trace()


# Straight-through: E_z[J' grad f(z)] with J the Jacobian of the probabilities, by enumeration.


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_straight_through_has_the_bias_that_enumeration_predicts(sizes: tuple[int, ...], kind: str) -> None:
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes)
    predicted = straight_through_expectation(logits, sizes, f)
    exact_value, exact_gradient = exact_expectation(logits, sizes, f)
    probability, value, gradient = enumerated(StraightThrough(), sizes, f, logits, 1)
    assert_equal(probability @ gradient, predicted)
    assert_equal(probability @ value, exact_value)
    _, drawn = sampled(StraightThrough(samples=2), sizes, f, repeats=20_000)
    assert_mean(drawn, predicted)
    # Unbiased for multilinear objectives of independent factors, biased otherwise.
    assert torch.allclose(predicted, exact_gradient, atol=1e-10) == (kind != "nonlinear")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_straight_through_is_exact_without_variance_on_linear_objectives(sizes: tuple[int, ...]) -> None:
    _, gradient = sampled(StraightThrough(), sizes, linear(sizes), repeats=100)
    _, exact = exact_expectation(logits_of(sizes), sizes, linear(sizes))
    assert_equal(gradient, exact.expand(100, -1))


# Gumbel-softmax, by quadrature over the noise.

# logits [1, 0, -1], f(z) = <q, z>; four decimals. The quadrature agrees with 10 million samples drawn without the
# library.
TABLE_LOGITS = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
TABLE_Q = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
TABLE_EXACT = [0.1424, -0.3147, 0.1723]
TABLE = {
    0.5: [0.1136, -0.3023, 0.1887],
    1.0: [0.0694, -0.2641, 0.1947],
    2.0: [0.0255, -0.1906, 0.1651],
}


def table_objective(z: Tensor) -> Tensor:
    return (z * TABLE_Q).sum(-1)


@pytest.mark.parametrize("temperature", TABLE)
@pytest.mark.parametrize("cls", [GumbelSoftmax, StraightThroughGumbelSoftmax])
def test_three_choices_have_the_known_bias(
    cls: type[GumbelSoftmax | StraightThroughGumbelSoftmax], temperature: float
) -> None:
    # Of a linear objective both have the same gradient.
    noise, weight = quadrature(3)
    _, gradient = gradients(cls(temperature), (3,), table_objective, TABLE_LOGITS, noise[None])
    assert weight.sum().item() == pytest.approx(1.0, abs=1e-8)
    assert (weight @ gradient).tolist() == pytest.approx(TABLE[temperature], abs=6e-5)
    _, drawn = sampled(cls(temperature), (3,), table_objective, repeats=100_000, logits=TABLE_LOGITS)
    assert_mean(drawn, weight @ gradient)
    assert_mean(drawn, TABLE[temperature], slack=5e-5)


def test_the_table_is_about_the_bias() -> None:
    _, exact = exact_expectation(TABLE_LOGITS, (3,), table_objective)
    assert exact.tolist() == pytest.approx(TABLE_EXACT, abs=6e-5)
    _, gradient = sampled(
        StraightThroughGumbelSoftmax(1.0), (3,), table_objective, repeats=100_000, logits=TABLE_LOGITS
    )
    with pytest.raises(AssertionError, match="expected"):
        assert_mean(gradient, exact)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_choices_have_the_bias_that_quadrature_predicts(kind: str, temperature: float) -> None:
    f = OBJECTIVES[kind]((2,))
    logits = logits_of((2,))
    gap = float(logits[0] - logits[1])
    noise, weight = quadrature(2, breakpoint=-gap)
    # y = sigmoid((gap + L) / T) with L logistic; d/d logit_1 = y (1 - y) / T (df/dz_1 - df/dz_2).
    first = torch.sigmoid((gap + noise[:, 0]) / temperature)
    relaxed = torch.stack([first, 1 - first], -1)
    for estimator, action in (
        (GumbelSoftmax(temperature), relaxed),
        (StraightThroughGumbelSoftmax(temperature), (relaxed > 0.5).double()),
    ):
        at = action.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(at).sum(), at)
        expected = weight @ (first * (1 - first) / temperature * (slope[:, 0] - slope[:, 1]))
        expected_value = weight @ f(action)
        predicted = torch.stack([expected, -expected])
        value, gradient = gradients(estimator, (2,), f, logits, noise[None])
        torch.testing.assert_close(weight @ gradient, predicted, rtol=0, atol=1e-7)
        torch.testing.assert_close(weight @ value, expected_value, rtol=0, atol=1e-7)
        value, gradient = sampled(estimator, (2,), f, repeats=30_000)
        assert_mean(gradient, predicted)
        assert_mean(value, expected_value)


@pytest.mark.parametrize("kind", ["linear", "multilinear"])
def test_cold_straight_through_gumbel_softmax_approaches_the_exact_gradient(kind: str) -> None:
    # On objectives with true slopes the bias goes with the temperature, quadratically.
    f = OBJECTIVES[kind]((2,))
    _, exact = exact_expectation(logits_of((2,)), (2,), f)
    noise, weight = quadrature(2, breakpoint=float(logits_of((2,))[1] - logits_of((2,))[0]))
    biases = []
    for temperature in (0.2, 0.1, 0.05):
        _, gradient = gradients(StraightThroughGumbelSoftmax(temperature), (2,), f, logits_of((2,)), noise[None])
        biases.append(float((weight @ gradient - exact).norm()))
    assert biases[0] / biases[1] == pytest.approx(4, rel=0.1)
    assert biases[1] / biases[2] == pytest.approx(4, rel=0.1)


# Parameters inside the objective get their gradient too.


@pytest.mark.parametrize(
    "estimator",
    [ScoreFunction(), Rloo(samples=2), LocalExpectation(), StraightThrough()],
    ids=lambda e: type(e).__name__,
)
def test_parameters_of_the_objective_get_the_exact_gradient_in_expectation(estimator: Estimator) -> None:
    sizes = (2, 3)
    logits, vertices, probs = logits_of(sizes), outcomes(sizes), outcome_probs(logits_of(sizes), sizes)
    theta = weights(5, 13).requires_grad_()
    total = torch.zeros(5, dtype=torch.float64)
    for choice in itertools.product(range(6), repeat=estimator.samples):
        dist = FactoredCategorical(logits.clone().requires_grad_(), ActionFactors(sizes))
        surrogate = estimator(dist, lambda z: (z * theta).sum(-1).sin(), 1e3 * vertices[list(choice)])
        total += torch.autograd.grad(surrogate, theta)[0] * math.prod(float(probs[i]) for i in choice)
    expectation = (probs * (vertices * theta).sum(-1).sin()).sum()
    assert_equal(total, torch.autograd.grad(expectation, theta)[0])


@pytest.mark.parametrize("name", ["exact", "score-function", "rloo", "local-expectation", "straight-through"])
def test_parameters_of_a_network_get_the_exact_gradient(name: str) -> None:
    # Logits W x of a linear policy, a multilinear objective: straight-through is unbiased here.
    sizes, repeats = (2, 3), 20_000
    x, f = weights(4, 14), multilinear(sizes)
    w = weights(20, 15).reshape(5, 4)
    torch.manual_seed(2)
    stacked = w.expand(repeats, 5, 4).clone().requires_grad_()
    dist = FactoredCategorical(stacked @ x, ActionFactors(sizes))
    (gradient,) = torch.autograd.grad(make_estimator(name)(dist, f).sum(), stacked)
    _, exact = exact_expectation(w @ x, sizes, f)
    assert_mean(gradient, torch.outer(exact, x))
