"""The probability of improvement: by enumeration, rliable's own, symmetries, and coverage where the bootstrap fails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from rliable import metrics
from scipy import optimize, stats

from agents.compare.improvement import probability_of_improvement


def task(*values):
    return [np.asarray(values, dtype=float)]


@pytest.fixture
def pair():
    """Runs of three tasks, of different numbers, with ties."""
    rng = np.random.default_rng(0)
    return list(rng.integers(2, 9, (3, 12)).astype(float)), list(rng.integers(0, 8, (3, 15)).astype(float))


def test_by_enumeration(pair):
    a, b = pair
    shares = [
        np.mean([float(one > other) + 0.5 * float(one == other) for one, other in itertools.product(x, y)])
        for x, y in zip(a, b, strict=True)
    ]
    assert probability_of_improvement(a, b).value == pytest.approx(np.mean(shares), rel=1e-12)


def test_value_is_rliables(pair):
    theirs = metrics.probability_of_improvement(*(np.stack(tasks, axis=1) for tasks in pair))
    assert probability_of_improvement(*pair).value == pytest.approx(theirs, rel=1e-12)


def test_variance_and_freedom_are_scipys_brunner_munzel():
    """The test's statistic is (p - 1/2)/σ: the interval on the logit scale must have the same σ and freedom."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.7, 1, 14), rng.normal(0, 2, 9)
    found = probability_of_improvement([a], [b])
    theirs = stats.brunnermunzel(b, a, alternative="two-sided", distribution="t")
    deviation = (found.value - 0.5) / theirs.statistic
    logit = stats.logistic.ppf(np.asarray(found))
    reach = (logit[2] - logit[1]) / 2
    assert logit[0] == pytest.approx((logit[1] + logit[2]) / 2, abs=1e-9)
    # What t quantile was used, and of which freedom the p-value is.
    quantile = reach * found.value * (1 - found.value) / abs(deviation)
    freedom = _freedom(abs(theirs.statistic), theirs.pvalue)
    assert quantile == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def _freedom(statistic, pvalue):
    return optimize.brentq(lambda df: 2 * stats.t.sf(statistic, df) - pvalue, 2, 100, xtol=1e-12)


def test_of_b_over_a_is_the_rest(pair):
    a, b = pair
    found, swapped = probability_of_improvement(a, b), probability_of_improvement(b, a)
    np.testing.assert_allclose(swapped, (1 - found.value, 1 - found.high, 1 - found.low), rtol=1e-9)


def test_order_and_scale_do_not_matter(pair):
    a, b = pair
    np.testing.assert_allclose(
        probability_of_improvement([np.exp(x[::-1]) for x in a], [np.exp(y) for y in b]),
        probability_of_improvement(a, b),
        rtol=1e-9,
    )


def test_complete_separation_has_width():
    """Newcombe's method 5 by hand: (1 - θ)² = z² V(θ) at the lower end."""
    found = probability_of_improvement(task(4, 5, 6, 7), task(0, 1, 2))
    assert found.value == found.high == 1
    low, m, n = found.low, 4, 3
    middle = (m + n) / 2 - 1
    variance = low * (1 - low) / (m * n) * (1 + middle * ((1 - low) / (2 - low) + low / (1 + low)))
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)
    assert 0 < low < 1


def test_nothing_but_ties():
    found = probability_of_improvement([np.full(20, 500.0)], [np.full(10, 500.0)])
    assert found.value == 0.5
    assert found.low == pytest.approx(1 - found.high)
    assert 0.2 < found.low < 0.4


def test_more_tasks_narrow_the_interval():
    """Four times the same task is not four times the runs, but the interval cannot know: half the width."""
    rng = np.random.default_rng(2)
    a, b = [rng.normal(0.5, 1, 20)], [rng.normal(0, 1, 20)]
    single, repeated = probability_of_improvement(a, b), probability_of_improvement(a * 4, b * 4)
    assert repeated.value == pytest.approx(single.value)
    assert repeated.value - repeated.low == pytest.approx((single.value - single.low) / 2)
    assert repeated.high - repeated.value == pytest.approx((single.high - single.value) / 2)


@pytest.mark.parametrize(("runs_a", "runs_b"), [(1, 20), (20, 1), (1, 1)])
def test_one_run_has_no_interval(runs_a, runs_b):
    found = probability_of_improvement([np.ones(runs_a)] * 2, [np.zeros(runs_b)] * 2)
    assert found.value == 1
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_bounds_are_shares():
    rng = np.random.default_rng(3)
    for _ in range(200):
        a, b = ([rng.integers(0, 4, rng.integers(2, 8)) for _ in range(2)] for _ in range(2))
        found = probability_of_improvement(a, b)
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_bad():
    with pytest.raises(ValueError, match="2 tasks, the other in 1"):
        probability_of_improvement([np.zeros(3)] * 2, [np.zeros(3)])
    with pytest.raises(ValueError, match="finite"):
        probability_of_improvement(task(1, math.nan), task(1, 2))


@pytest.mark.parametrize(("truth", "coverage"), [(0.5, 0.95), (0.75, 0.95), (0.97, 0.95)])
def test_covers(truth, coverage):
    """Normal scores of 20 seeds: 96 to 98 %. At .97 the percentile bootstrap, 87 %, must fail. False alarms: 1e-6."""
    simulations = 2000
    rng = np.random.default_rng(4)
    shift = math.sqrt(2) * stats.norm.ppf(truth)
    runs = [([rng.normal(shift, 1, 20)], [rng.normal(0, 1, 20)]) for _ in range(simulations)]
    found = np.asarray([probability_of_improvement(a, b) for a, b in runs])
    bound = stats.binom.ppf(1e-6, simulations, coverage)
    assert np.sum((found[:, 1] <= truth) & (truth <= found[:, 2])) >= bound
    if truth == 0.97:
        ends = np.asarray([_percentile(*a, *b) for a, b in runs])
        assert np.sum((ends[:, 0] <= truth) & (truth <= ends[:, 1])) < bound


def _percentile(a, b):
    """The percentile bootstrap; resamples are weights, so that it is two products of matrices."""
    rng = np.random.default_rng(0)
    weights = [rng.multinomial(20, np.full(20, 0.05), size=250) / 20 for _ in range(2)]
    wins = (a[:, None] > b[None, :]).astype(float)
    return np.quantile(((weights[0] @ wins) * weights[1]).sum(axis=1), [0.025, 0.975])


def test_deterministic(pair):
    assert probability_of_improvement(*pair) == probability_of_improvement(*pair)


def test_wider_with_more_confidence(pair):
    narrow, wide = (probability_of_improvement(*pair, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_tasks_may_have_different_numbers_of_runs(pair):
    """Each weighs the same: the mean of what the tasks give alone, and by MOVER of their reaches."""
    a, b = ([task[:runs] for task, runs in zip(tasks, (12, 3, 7), strict=True)] for tasks in pair)
    found = probability_of_improvement(a, b)
    value, low, high = np.transpose([probability_of_improvement([x], [y]) for x, y in zip(a, b, strict=True)])
    assert found.value == pytest.approx(value.mean(), rel=1e-12)
    assert found.value - found.low == pytest.approx(np.sqrt(((value - low) ** 2).sum()) / 3)
    assert found.high - found.value == pytest.approx(np.sqrt(((high - value) ** 2).sum()) / 3)
