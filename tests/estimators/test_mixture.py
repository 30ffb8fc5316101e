"""`mixture`: the weighted mean of its members, on the same noise; its bias and variance; its temperature."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from enumeration import (
    SIZES,
    assert_equal,
    covariance,
    enumerated,
    gradients,
    logits_of,
    sampled,
    straight_through_expectation,
)
from oracles import OBJECTIVES, assert_mean, exact_expectation, nonlinear
from torch import Tensor

from gumbel_rl import ESTIMATORS, ActionFactors, Estimator, FactoredCategorical, make_estimator
from gumbel_rl.estimators import Mixture, StraightThrough, estimator_through
from gumbel_rl.gumbel import gumbel_noise

WITHOUT_OWN_NOISE = ["exact", "score-function", "rloo", "local-expectation", "straight-through", "gumbel-softmax"]
WITHOUT_OWN_NOISE += ["st-gumbel-softmax", "zgr", "reinmax", "gapped-st"]


def noise_of(sizes: tuple[int, ...], samples: int, repeats: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return gumbel_noise((samples, repeats, sum(sizes)), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise([*WITHOUT_OWN_NOISE, "exact"])))
def test_it_is_the_weighted_mean_of_its_members_on_the_same_noise(first: str, second: str, weight: float) -> None:
    sizes, noise = (2, 3), noise_of((2, 3), 2)
    mixture = Mixture(first, second, weight, samples=2)
    value, gradient = gradients(mixture, sizes, nonlinear(sizes), logits_of(sizes), noise)
    (value_1, gradient_1), (value_2, gradient_2) = (
        gradients(make_estimator(name, samples=2), sizes, nonlinear(sizes), logits_of(sizes), noise)
        for name in (first, second)
    )
    assert_equal(value, weight * value_1 + (1 - weight) * value_2)
    assert_equal(gradient, weight * gradient_1 + (1 - weight) * gradient_2)


def test_fresh_noise_is_the_same_for_both() -> None:
    actions: list[Tensor] = []

    def f(z: Tensor) -> Tensor:
        actions.append(z.detach())
        return nonlinear((2, 3))(z)

    dist = FactoredCategorical(logits_of((2, 3)).expand(50, -1), ActionFactors((2, 3)))
    Mixture("straight-through", "score-function", samples=3)(dist, f)
    assert torch.equal(*actions)
    assert actions[0].shape == (3, 50, 5)
    again = len(actions)
    Mixture("straight-through", "score-function", samples=3)(dist, f)
    assert not torch.equal(actions[0], actions[again])


def test_a_member_of_fewer_samples_is_given_the_first_of_the_noise() -> None:
    sizes, noise = (2, 3), noise_of((2, 3), 4)
    mixture = Mixture("rloo", "zgr", 0.3, samples=4, second_kwargs={"samples": 1})
    assert mixture.samples == 4
    assert mixture.evaluations is None
    _, gradient = gradients(mixture, sizes, nonlinear(sizes), logits_of(sizes), noise)
    _, rloo = gradients(make_estimator("rloo"), sizes, nonlinear(sizes), logits_of(sizes), noise)
    _, zgr = gradients(make_estimator("zgr"), sizes, nonlinear(sizes), logits_of(sizes), noise[:1])
    assert_equal(gradient, 0.3 * rloo + 0.7 * zgr)


# Bias and variance.


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_bias_is_the_weighted_mean_and_the_variance_that_of_the_sum(
    sizes: tuple[int, ...], kind: str, weight: float
) -> None:
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes)
    _, exact = exact_expectation(logits, sizes, f)
    mixture = Mixture("score-function", "straight-through", weight)
    probability, value, gradient = enumerated(mixture, sizes, f, logits, 1)
    biased = straight_through_expectation(logits, sizes, f)
    assert_equal(probability @ gradient, weight * exact + (1 - weight) * biased)
    assert_equal(probability @ value, exact_expectation(logits, sizes, f)[0])
    # The members are functions of one sample: their covariance counts.
    _, _, first = enumerated(make_estimator("score-function"), sizes, f, logits, 1)
    _, _, second = enumerated(make_estimator("straight-through"), sizes, f, logits, 1)
    both = covariance(probability, torch.cat([first, second], -1))
    n = sum(sizes)
    expected = weight**2 * both[:n, :n] + (1 - weight) ** 2 * both[n:, n:]
    expected = expected + weight * (1 - weight) * (both[:n, n:] + both[n:, :n])
    assert_equal(covariance(probability, gradient), expected)
    _, drawn = sampled(mixture, sizes, f, repeats=20_000)
    assert_mean(drawn, probability @ gradient)
    deviation = drawn - probability @ gradient
    assert_mean(deviation[:, :, None] * deviation[:, None, :], expected)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_mixture_of_unbiased_estimators_is_unbiased(sizes: tuple[int, ...]) -> None:
    f, logits = nonlinear(sizes), logits_of(sizes)
    mixture = Mixture("score-function", "local-expectation", 0.3)
    probability, _, gradient = enumerated(mixture, sizes, f, logits, 1)
    assert mixture.unbiased
    assert_equal(probability @ gradient, exact_expectation(logits, sizes, f)[1])


# Attributes.


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ESTIMATORS, repeat=2)))
def test_its_attributes_are_those_of_its_members(first: str, second: str) -> None:
    mixture = Mixture(first, second, samples=2)
    members: list[Estimator] = [make_estimator(name, samples=2) for name in (first, second)]
    assert mixture.unbiased == all(member.unbiased for member in members)
    for name in ("needs_gradient", "leaves_vertices", "needs_objective", "has_temperature", "learns"):
        assert getattr(mixture, name) == any(getattr(member, name) for member in members), name
    counts = [member.evaluations for member in members]
    assert mixture.evaluations == (None if None in counts else sum(counts))
    assert hasattr(mixture, "temperature") == mixture.has_temperature


@pytest.mark.parametrize(("first", "second"), [("zgr", "gapped-st"), ("gapped-st", "zgr")])
def test_a_temperature_reaches_the_member_that_has_one(first: str, second: str) -> None:
    mixture = Mixture(first, second, first_kwargs={"temperature": 0.4} if first == "gapped-st" else None)
    mixture.temperature = 0.7
    assert mixture.temperature == 0.7
    sizes, noise = (2, 3), noise_of((2, 3), 1)
    expected = [
        gradients(make_estimator(name, **options), sizes, nonlinear(sizes), logits_of(sizes), noise)[1]
        for name, options in (("zgr", {}), ("gapped-st", {"temperature": 0.7}))
    ]
    _, gradient = gradients(mixture, sizes, nonlinear(sizes), logits_of(sizes), noise)
    assert_equal(gradient, sum(expected) / 2)
    assert not any(hasattr(member, "temperature") != member.has_temperature for member in mixture.members)


def test_a_temperature_reaches_both_where_both_have_one() -> None:
    mixture = Mixture("gumbel-rao", "reinmax", first_kwargs={"temperature": 0.2}, second_kwargs={"temperature": 1.5})
    assert [member.temperature for member in mixture.members] == [0.2, 1.5]
    twin = copy.deepcopy(mixture)
    mixture.temperature = 0.9
    assert [member.temperature for member in mixture.members] == [0.9, 0.9]
    assert [member.temperature for member in twin.members] == [0.2, 1.5]


def test_without_a_temperature_there_is_none_to_read_and_none_to_set() -> None:
    mixture = Mixture()
    with pytest.raises(AttributeError, match="neither estimator of this mixture has a temperature"):
        _ = mixture.temperature
    mixture.temperature = 0.5
    assert not hasattr(mixture, "temperature")


class Pupil(StraightThrough):
    """Remembers the noise that it was to learn from."""

    learns = True

    def __init__(self, samples: int = 1) -> None:
        super().__init__(samples)
        self.lessons: list[Tensor] = []

    def adapt(self, dist: FactoredCategorical, f: Any, noise: Tensor | None = None) -> None:
        assert noise is not None
        self.lessons.append(noise)


def test_members_that_learn_learn_from_the_noise_of_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATORS, "pupil", Pupil)
    mixture = Mixture("pupil", "pupil", samples=3, first_kwargs={"samples": 2})
    assert mixture.learns
    dist, noise = FactoredCategorical(logits_of((2, 3)).expand(20, -1), ActionFactors((2, 3))), noise_of((2, 3), 3)
    mixture.adapt(dist, nonlinear((2, 3)), noise)
    mixture.adapt(dist, nonlinear((2, 3)))
    one, two = (member.lessons for member in mixture.members if isinstance(member, Pupil))
    assert torch.equal(one[0], noise[:2])
    assert torch.equal(two[0], noise)
    assert torch.equal(one[1], two[1][:2])
    assert not torch.equal(two[1], noise)


# Errors.


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_weights_that_are_no_shares_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be between 0 and 1, got"):
        Mixture(weight=weight)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"first": "zgrr"}, ValueError, "unknown estimator 'zgrr' .did you mean 'zgr'"),
        ({"second": "rloo"}, ValueError, "Rloo needs at least 2 samples, got 1"),
        ({"second_kwargs": {"temperature": 0.5}}, TypeError, "'straight-through' has no option 'temperature'"),
        ({"first": "gumbel-rao", "first_kwargs": {"draws": 0}}, ValueError, "draws must be at least 1"),
    ],
)
def test_mistakes_in_the_members_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_estimator("mixture", **options)


def test_an_algorithm_refuses_a_temperature_among_the_members_options() -> None:
    options = {"first": "gumbel-rao", "first_kwargs": {"temperature": 0.5}}
    with pytest.raises(ValueError, match="temperature is given by the argument temperature"):
        estimator_through("mixture", options, multilinear=True)
    made = estimator_through("mixture", {"first": "gumbel-rao", "first_kwargs": {"draws": 3}}, multilinear=True)
    assert made.has_temperature
