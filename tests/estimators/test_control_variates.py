"""REBAR and RELAX: unbiased whatever they have learnt, and what they learn lowers the variance.

With the noise of both relaxed samples coupled an estimate is a function of the noise alone, so that with two choices
its moments are integrals over one logistic variable. Where samples are drawn the false-alarm rate is 1e-6 for each
check (see `oracles`).
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from enumeration import SIZES, assert_equal, gradients, logits_of, quadrature, sampled
from oracles import OBJECTIVES, Objective, assert_mean, exact_expectation, linear, multilinear, nonlinear, weights
from torch import Tensor

from gumbel_rl import ActionFactors, FactoredCategorical
from gumbel_rl.diagnostics import logits_gradient
from gumbel_rl.estimators import Rebar, Relax, ScoreFunction
from gumbel_rl.estimators.control_variates import TEMPERATURES, ControlVariateEstimator


def dist_of(sizes: Sequence[int], *batch: int, mask: Tensor | None = None) -> FactoredCategorical:
    return FactoredCategorical(logits_of(sizes).expand(*batch, -1), ActionFactors(tuple(sizes)), mask)


def trained_net(estimator: Relax, sizes: Sequence[int], context: int = 0) -> Relax:
    """With a network that says something, all in float64."""
    shaped = torch.zeros(1, context) if context else None
    estimator._prepare(dist_of(sizes, 1), shaped)
    assert estimator.learnt.net is not None
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in estimator.learnt.net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    estimator.learnt.double()
    return estimator


def make(cls: type[ControlVariateEstimator], sizes: Sequence[int], **options: Any) -> Any:
    if cls is Relax:
        return trained_net(Relax(net_arch=(8,), **options), sizes)
    return cls(**options)


def variance(estimator: Any, dist: FactoredCategorical, f: Objective, repeats: int = 20_000) -> float:
    """Trace of the covariance of the gradient, the same random numbers at every call."""
    torch.manual_seed(11)
    return float(logits_gradient(estimator, dist, f, repeats).var(0).sum())


# Unbiased, whatever the parameters.


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize(("eta", "temperature"), [(0.0, 1.0), (1.0, 0.2), (-2.0, 5.0)])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_two_choices_are_unbiased_to_the_accuracy_of_quadrature(
    cls: type[ControlVariateEstimator], eta: float, temperature: float, kind: str
) -> None:
    f, logits = OBJECTIVES[kind]((2,)), logits_of((2,))
    noise, weight = quadrature(2, breakpoint=float(logits[1] - logits[0]))
    estimator = make(cls, (2,), initial_eta=eta, initial_temperature=temperature)
    value, gradient = gradients(estimator, (2,), f, logits, noise[None])
    exact_value, exact_gradient = exact_expectation(logits, (2,), f)
    torch.testing.assert_close(weight @ gradient, exact_gradient, rtol=0, atol=1e-7)
    torch.testing.assert_close(weight @ value, exact_value, rtol=0, atol=1e-7)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", [*SIZES, (3, 1, 4, 2)], ids=str)
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_unbiased_by_sampling(
    cls: type[ControlVariateEstimator], sizes: tuple[int, ...], kind: str, coupled: bool
) -> None:
    f = OBJECTIVES[kind](sizes)
    for eta, temperature in ((1.3, 0.4), (-0.7, 1.5)):
        estimator = make(cls, sizes, initial_eta=eta, initial_temperature=temperature, coupled=coupled)
        value, gradient = sampled(estimator, sizes, f, repeats=20_000)
        exact_value, exact_gradient = exact_expectation(logits_of(sizes), sizes, f)
        assert_mean(gradient, exact_gradient)
        assert_mean(value, exact_value)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_unbiased_where_choices_are_masked(cls: type[ControlVariateEstimator], coupled: bool) -> None:
    sizes, kept = (3, 4), (2, 3)
    mask = torch.tensor([True, False, True, True, True, True, False])
    f, embed = nonlinear(sizes), torch.eye(7, dtype=torch.float64)[mask]
    _, exact = exact_expectation(logits_of(sizes)[mask], kept, lambda z: f(z @ embed))
    torch.manual_seed(1)
    gradient = logits_gradient(make(cls, sizes, coupled=coupled), dist_of(sizes, mask=mask), f, 20_000)
    assert_mean(gradient[:, mask], exact)
    assert (gradient[:, ~mask] == 0).all()


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_unbiased_after_and_while_learning(cls: type[ControlVariateEstimator], coupled: bool) -> None:
    # Every estimate is made with what was learnt from the ones before.
    sizes, f = (2, 3), nonlinear((2, 3))
    estimator = cls(coupled=coupled, learning_rate=0.05)
    torch.manual_seed(2)
    dist, draws = dist_of(sizes, 50), []
    for _ in range(200):
        noise = dist.noise((1,))
        draws.append(gradients(estimator, sizes, f, logits_of(sizes), noise)[1])
        estimator.adapt(dist, f, noise)
    assert_mean(torch.cat(draws), exact_expectation(logits_of(sizes), sizes, f)[1])


def test_one_estimate_is_the_published_formula() -> None:
    # Two choices, spelt out as Tucker et al. 2017 have them, with a logistic variable and its noise u tied to v.
    eta, temperature = 0.8, 0.6
    logit = torch.linspace(-2, 2.5, 9, dtype=torch.float64).requires_grad_()
    u = torch.linspace(0.07, 0.93, 9, dtype=torch.float64)
    f = nonlinear((2,))

    def both(probability: Tensor) -> Tensor:
        return f(torch.stack([probability, 1 - probability], -1))

    z = logit + u.logit()
    b = (z > 0).double().detach()
    u_prime = torch.sigmoid(-logit)  # where z = 0
    v = torch.where(b > 0, (u - u_prime) / (1 - u_prime), u / u_prime).detach()
    z_tilde = logit + torch.where(b > 0, v * (1 - u_prime) + u_prime, v * u_prime).logit()
    torch.testing.assert_close(z_tilde, z)
    c, c_tilde = (eta * both(torch.sigmoid(x / temperature)) for x in (z, z_tilde))
    log_p = torch.where(b > 0, torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit))
    published = (both(b) - c_tilde).detach() * log_p + c - c_tilde
    (expected,) = torch.autograd.grad(published.sum(), logit)

    leaf = torch.stack([logit.detach(), torch.zeros(9, dtype=torch.float64)], -1).requires_grad_()
    noise = torch.stack([u.logit(), torch.zeros(9, dtype=torch.float64)], -1)
    estimator = Rebar(initial_eta=eta, initial_temperature=temperature)
    estimator.learnt.double()
    with torch.no_grad():
        estimator.learnt.eta.fill_(eta)
        estimator.learnt.log_temperature.fill_(math.log(temperature))
    surrogate = estimator(FactoredCategorical(leaf, ActionFactors((2,))), f, noise[None])
    (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
    assert_equal(gradient[:, 0], expected)
    assert_equal(gradient[:, 1], -expected)


# The variance, and its gradient.


@pytest.mark.parametrize("cls", [Rebar, Relax])
@pytest.mark.parametrize("coupled", [True, False])
def test_the_mean_square_is_that_of_the_estimates(cls: type[ControlVariateEstimator], coupled: bool) -> None:
    sizes = (2, 3)
    estimator = make(cls, sizes, coupled=coupled, samples=3)
    noise = dist_of(sizes, 400).noise((3,))
    torch.manual_seed(3)
    mean_square = estimator.mean_square(dist_of(sizes, 400), nonlinear(sizes), noise)
    torch.manual_seed(3)
    flat = noise.flatten(0, 1)[None]
    _, single = gradients(estimator, sizes, nonlinear(sizes), logits_of(sizes), flat)
    assert_equal(mean_square.detach(), single.square().sum(-1).mean())


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_the_gradient_that_is_learnt_from_is_the_numerical_one_of_the_variance(
    cls: type[ControlVariateEstimator], coupled: bool
) -> None:
    # By common random numbers, of the estimates that autograd makes; along each parameter's own direction.
    sizes, f, repeats = (2, 3), nonlinear((2, 3)), 2000
    estimator = make(cls, sizes, coupled=coupled)
    estimator.learnt.double()
    dist = dist_of(sizes, repeats)
    noise = dist.noise((1,))
    parameters = dict(estimator.learnt.named_parameters())
    torch.manual_seed(4)
    slopes = torch.autograd.grad(estimator.mean_square(dist, f, noise), list(parameters.values()))
    generator = torch.Generator().manual_seed(6)

    def spread() -> float:
        torch.manual_seed(4)
        return float(gradients(estimator, sizes, f, logits_of(sizes), noise)[1].square().sum(-1).mean())

    for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        around = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(step * direction)
            around.append(spread())
            with torch.no_grad():
                parameter.sub_(step * direction)
        numerical = (around[0] - around[1]) / 2e-5
        assert float((slope * direction).sum()) == pytest.approx(numerical, rel=1e-5, abs=1e-6), name
        # What is added to a control variate everywhere alike has a mean square of its own; nothing here is 0.
        assert abs(numerical) > 1e-4, name


def test_with_two_choices_the_gradient_is_that_of_the_exact_variance() -> None:
    # REBAR is linear in f: scaled by the roots of the quadrature's weights its mean square is an integral.
    f, logits = nonlinear((2,)), logits_of((2,))
    noise, weight = quadrature(2, breakpoint=float(logits[1] - logits[0]))
    noise, roots = noise[None], (weight * len(weight)).sqrt()
    _, exact = exact_expectation(logits, (2,), f)

    def exact_variance(eta: float, log_temperature: float) -> float:
        estimator = Rebar(initial_eta=eta, initial_temperature=math.exp(log_temperature))
        estimator.learnt.double()
        with torch.no_grad():
            estimator.learnt.eta.fill_(eta)
            estimator.learnt.log_temperature.fill_(log_temperature)
        _, gradient = gradients(estimator, (2,), f, logits, noise)
        return float(weight @ (gradient - exact).square().sum(-1))

    estimator = Rebar(initial_eta=0.7, initial_temperature=0.8)
    estimator.learnt.double()
    at = [estimator.learnt.eta.item(), estimator.learnt.log_temperature.item()]
    dist = FactoredCategorical(logits.expand(len(weight), 2), ActionFactors((2,)))
    mean_square = estimator.mean_square(dist, lambda z: roots * f(z), noise)
    assert mean_square.item() - float(exact.square().sum()) == pytest.approx(exact_variance(*at), abs=1e-8)
    slopes = torch.autograd.grad(mean_square, [estimator.learnt.eta, estimator.learnt.log_temperature])
    for k, slope in enumerate(slopes):
        above, below = (exact_variance(*(x + step * (i == k) for i, x in enumerate(at))) for step in (1e-4, -1e-4))
        assert float(slope) == pytest.approx((above - below) / 2e-4, rel=1e-4)


# Learning.


def learnt_from(estimator: Any, sizes: Sequence[int], f: Objective, steps: int, batch: int = 50) -> Any:
    torch.manual_seed(7)
    dist = dist_of(sizes, batch)
    for _ in range(steps):
        estimator.adapt(dist, f)
    return estimator


@pytest.mark.parametrize("coupled", [True, False])
def test_rebar_learns_to_be_as_good_as_the_best_weight_and_temperature(coupled: bool) -> None:
    sizes, f = (2, 2, 2), multilinear((2, 2, 2))
    dist = dist_of(sizes)
    estimator = Rebar(initial_eta=-1.0, initial_temperature=0.1, coupled=coupled, learning_rate=0.03)
    first = variance(estimator, dist, f)
    last = variance(learnt_from(estimator, sizes, f, 400, batch=200), dist, f)
    plain = variance(ScoreFunction(), dist, f)
    assert last < 0.6 * plain < plain < first
    best = min(
        variance(Rebar(initial_eta=eta, initial_temperature=temperature, coupled=coupled), dist, f)
        for eta in (0.6, 0.8, 1.0, 1.2)
        for temperature in (0.5, 0.8, 1.2, 2.0)
    )
    assert last < 1.05 * best


@pytest.mark.parametrize("target", [0.45, 0.499])
def test_relax_learns_the_toy_problem_of_the_papers(target: float) -> None:
    # E (b - t)² of one Bernoulli variable: nearly all variance is that of a constant, which REBAR does not know.
    def f(z: Tensor) -> Tensor:
        return (z[..., 0] - target).square()

    dist = dist_of((2,))
    plain = variance(ScoreFunction(), dist, f)
    rebar, relax = (variance(learnt_from(cls(), (2,), f, 400), dist, f) for cls in (Rebar, Relax))
    assert relax < 0.02 * plain
    assert 0.9 * plain < rebar < 1.01 * plain


def test_many_factors_have_less_variance_than_the_score_function() -> None:
    sizes = (5,) * 6
    for f in (linear(sizes), multilinear(sizes), nonlinear(sizes)):
        dist = dist_of(sizes)
        plain = variance(ScoreFunction(), dist, f, 5000)
        for estimator in (Rebar(), Relax()):
            assert variance(learnt_from(estimator, sizes, f, 50), dist, f, 5000) < 0.5 * plain


def test_coupling_spends_evaluations_better() -> None:
    # Independent noise has less variance for half as many evaluations again, and not so much less.
    sizes, f = (2, 2, 2), multilinear((2, 2, 2))
    coupled, independent = (
        variance(learnt_from(Rebar(coupled=coupled), sizes, f, 200), dist_of(sizes), f) for coupled in (True, False)
    )
    assert 2 / 3 * coupled < independent < coupled


def test_the_temperature_stays_within_bounds() -> None:
    # A constant objective has no use for a relaxed sample that moves.
    estimator = learnt_from(Rebar(learning_rate=1.0), (3,), lambda z: 1.0 + 0.1 * z[..., 0].square(), 60)
    assert TEMPERATURES[0] <= float(estimator.learnt.log_temperature.detach().exp()) <= TEMPERATURES[1] * 1.0001


def test_relax_without_the_objective_learns_from_values_at_the_sample() -> None:
    sizes, f = (3,), linear((3,))
    asked: list[Tensor] = []

    def at_the_sample(z: Tensor) -> Tensor:
        asked.append(z.detach())
        return f(z.detach())

    estimator = Relax(uses_objective=False)
    assert not any((estimator.needs_gradient, estimator.leaves_vertices, estimator.needs_objective))
    assert estimator.evaluations == 1
    learnt_from(estimator, sizes, at_the_sample, 300)
    assert len(asked) == 300
    assert all(set(actions.unique().tolist()) <= {0.0, 1.0} for actions in asked)
    assert variance(estimator, dist_of(sizes), f) < 0.2 * variance(ScoreFunction(), dist_of(sizes), f)
    assert Relax().needs_gradient
    assert Relax().needs_objective
    assert Relax().leaves_vertices


def test_context_tells_the_batch_elements_apart() -> None:
    # Values that belong to the state: without knowing it a control variate cannot know them.
    sizes, repeats = (3,), 400
    context = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(repeats // 2, 1)
    f, sign = linear(sizes), context[:, 0]
    dist, spreads = dist_of(sizes, repeats), []
    leaf = logits_of(sizes).expand(repeats, -1).clone().requires_grad_()
    for given in (None, context):
        estimator = Relax(uses_objective=False)
        torch.manual_seed(8)
        for _ in range(300):
            estimator.adapt(dist, lambda z: sign * f(z), context=given)
        estimates = []
        for _ in range(50):
            surrogate = estimator(FactoredCategorical(leaf, ActionFactors(sizes)), lambda z: sign * f(z), context=given)
            estimates.append(torch.autograd.grad(surrogate.sum(), leaf)[0] * sign[:, None])
        assert_mean(torch.cat(estimates), exact_expectation(logits_of(sizes), sizes, f)[1])
        spreads.append(float(torch.cat(estimates).var(0).sum()))
    assert spreads[1] < 0.2 * spreads[0]
    with pytest.raises(ValueError, match="has learnt from 4 numbers, action and context together, got 3"):
        estimator(dist, lambda z: sign * f(z))


# What an estimate leaves alone, and what a step of learning does.


@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_an_estimate_changes_nothing_and_draws_nothing(cls: type[ControlVariateEstimator]) -> None:
    sizes = (2, 3)
    for estimator in (cls(), learnt_from(cls(), sizes, nonlinear(sizes), 3)):
        before = {name: x.clone() for name, x in estimator.learnt.state_dict().items()}
        dist = FactoredCategorical(logits_of(sizes).expand(7, -1).clone().requires_grad_(), ActionFactors(sizes))
        noise = dist.noise((1,))
        state = torch.get_rng_state()
        estimator(dist, nonlinear(sizes), noise).sum().backward()
        assert torch.equal(torch.get_rng_state(), state)
        after = estimator.learnt.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(parameter.grad is None for parameter in estimator.learnt.parameters())


@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_learning_touches_the_estimator_alone(cls: type[ControlVariateEstimator]) -> None:
    sizes = (2, 3)
    theta = weights(5, 13).requires_grad_()
    leaf = logits_of(sizes).expand(20, -1).clone().requires_grad_()
    dist = FactoredCategorical(leaf, ActionFactors(sizes))

    def f(z: Tensor) -> Tensor:
        return (z * theta).sum(-1).sin()

    estimator, noise = cls(), dist.noise((1,))
    surrogate = estimator(dist, f, noise)
    with torch.no_grad():  # as a callback may be
        estimator.adapt(dist, f, noise)
    assert theta.grad is None
    assert leaf.grad is None
    learnt = dict(estimator.learnt.named_parameters())
    assert learnt["eta"].item() != 1.0
    assert learnt["log_temperature"].item() != pytest.approx(math.log(0.5), abs=1e-6)
    surrogate.sum().backward()  # whose graph is whole
    assert theta.grad is not None


def test_a_learning_rate_of_0_keeps_what_was_given() -> None:
    estimator = learnt_from(Relax(learning_rate=0.0, initial_eta=0.3), (3,), linear((3,)), 3)
    assert estimator.learnt.eta.item() == pytest.approx(0.3)
    assert estimator.learnt.net is None


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_parameters_of_the_objective_get_the_gradient_of_its_value_alone(
    cls: type[ControlVariateEstimator], coupled: bool
) -> None:
    sizes, theta = (2, 3), weights(5, 13).requires_grad_()
    dist = FactoredCategorical(logits_of(sizes).expand(30, -1).clone().requires_grad_(), ActionFactors(sizes))
    noise = dist.noise((2,))

    def f(z: Tensor) -> Tensor:
        return (z * theta).sum(-1).sin()

    surrogate = make(cls, sizes, coupled=coupled, samples=2)(dist, f, noise)
    value = f(dist.sample(noise=noise)).mean(0)
    assert_equal(surrogate.detach(), value.detach())
    ours, expected = (torch.autograd.grad(x.sum(), theta)[0] for x in (surrogate, value))
    assert_equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_masks_and_extremes_are_learnt_from_without_nan(
    cls: type[ControlVariateEstimator], coupled: bool, dtype: torch.dtype
) -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    for scale in (1.0, 100.0, 1e4):
        leaf = (scale * weights(180, 16).reshape(30, 6)).to(dtype).requires_grad_()
        dist = FactoredCategorical(leaf, ActionFactors((2, 4)), mask)
        estimator = cls(coupled=coupled, samples=2, initial_temperature=0.1, learning_rate=0.1)
        for _ in range(5):
            surrogate = estimator(dist, nonlinear((2, 4)))
            (slope,) = torch.autograd.grad(surrogate.sum(), leaf, retain_graph=True)
            assert slope.isfinite().all()
            assert (slope[:, ~mask] == 0).all()
            estimator.adapt(dist, nonlinear((2, 4)))
            assert all(parameter.isfinite().all() for parameter in estimator.learnt.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda estimator: pickle.loads(pickle.dumps(estimator))])
@pytest.mark.parametrize("cls", [Rebar, Relax])
def test_copies_go_on_learning_apart(
    cls: type[ControlVariateEstimator], copied: Callable[[ControlVariateEstimator], ControlVariateEstimator]
) -> None:
    sizes, f = (2, 3), nonlinear((2, 3))
    estimator = learnt_from(cls(), sizes, f, 5)
    twin = copied(estimator)
    before = copy.deepcopy(twin.learnt.state_dict())
    learnt_from(estimator, sizes, f, 5)
    assert all(torch.equal(x, twin.learnt.state_dict()[name]) for name, x in before.items())
    learnt_from(twin, sizes, f, 5)  # with the averages of its optimiser
    for one, other in zip(estimator.learnt.parameters(), twin.learnt.parameters(), strict=True):
        assert torch.equal(one, other)


def test_samples_divide_the_variance() -> None:
    sizes, f = (2, 3), nonlinear((2, 3))
    spreads = [variance(Rebar(samples=samples), dist_of(sizes), f, 40_000) for samples in (1, 2, 4)]
    for one, other in pairwise(spreads):
        assert one / other == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("cls", [Rebar, Relax])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_temperature": 0.0}, "initial_temperature must be a positive number, got 0.0"),
        ({"initial_temperature": math.nan}, "initial_temperature must be a positive number, got nan"),
        ({"learning_rate": -0.1}, "learning_rate must not be negative, got -0.1"),
        ({"samples": 0}, "at least 1 samples, got 0"),
    ],
)
def test_mistakes_are_refused(cls: type[ControlVariateEstimator], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)
