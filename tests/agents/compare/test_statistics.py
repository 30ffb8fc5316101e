"""Aggregates, shares and times: numbers worked out by hand, rliable's own, invariances, coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rliable import library, metrics
from scipy import stats

from agents.compare import statistics
from agents.compare.statistics import aggregates, band, expanded_level, profiles, share
from agents.compare.survival import share_by_time, time_to_event

NAMES = ("iqm", "median", "mean", "optimality_gap")


@pytest.fixture
def scores():
    """Twenty runs of four tasks whose centres and spreads differ."""
    rng = np.random.default_rng(0)
    return rng.normal([0.2, 0.5, 0.8, 1.1], [0.1, 0.5, 0.2, 0.3], (20, 4))


def one(values, name, **options):
    """Of a matrix `[runs, tasks]`."""
    return aggregates({"x": list(np.asarray(values, dtype=float).T)}, (name,), **options)["x"][name]


def fewest(simulations, coverage):
    """Hits that an interval of the given coverage falls short of with probability 1e-6."""
    return stats.binom.ppf(1e-6, simulations, coverage)


class TestAggregates:
    def test_values_by_hand(self):
        column = np.asarray([[90.0], [1.0], [4.0], [2.0], [8.0], [3.0], [0.0], [7.0]])
        # Two of eight are cut at either end: (2 + 3 + 4 + 7) / 4.
        assert one(column, "iqm").value == 4.0
        assert one(column, "median").value == 3.5
        assert one(column, "mean").value == 14.375
        # Below 1: a single 0.
        assert one(column, "optimality_gap").value == 0.125

    def test_median_of_several_tasks_is_that_of_their_means(self):
        assert one([[0.0, 1.0, 10.0], [9.0, 1.0, 20.0], [0.0, 4.0, 30.0]], "median").value == 3.0

    @pytest.mark.parametrize("name", NAMES)
    def test_value_and_resampled_statistic_are_rliables(self, scores, name):
        theirs = getattr(metrics, f"aggregate_{name}")(scores)
        assert one(scores, name).value == pytest.approx(theirs, rel=1e-12)
        assert statistics.AGGREGATES[name](*scores.T) == pytest.approx(theirs, rel=1e-12)

    # Of a single task rliable's median is the mean, ours is not.
    @pytest.mark.parametrize(
        ("name", "tasks"), [(name, tasks) for name in NAMES for tasks in (1, 4) if (name, tasks) != ("median", 1)]
    )
    def test_interval_is_rliables_at_the_expanded_level(self, scores, name, tasks):
        matrix = scores[:, :tasks]
        # rliable resamples from the global generator.
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        try:
            _, intervals = library.get_interval_estimates(
                {"x": matrix},
                lambda x: np.asarray([getattr(metrics, f"aggregate_{name}")(x)]),
                reps=2000,
                confidence_interval_size=expanded_level(0.95, 20),
            )
        finally:
            np.random.set_state(before)  # noqa: NPY002
        ours = one(matrix, name, resamples=20_000)
        # Two bootstraps of the same data: their ends differ by Monte-Carlo error, some 5 % of the width.
        slack = 0.08 * (ours.high - ours.low)
        np.testing.assert_allclose(intervals["x"][:, 0], [ours.low, ours.high], atol=slack)

    def test_stratified(self):
        """Tasks at 0 and 1, each without spread: resampling that mixed them up would give the mean a width."""
        found = one(np.tile([0.0, 1.0], (10, 1)), "mean")
        assert found == (0.5, 0.5, 0.5)

    def test_level_by_hand(self):
        # t(.025, 19) = -2.0930; √(20/19) t = -2.1474; Φ = .01588.
        assert expanded_level(0.95, 20) == pytest.approx(1 - 2 * 0.01588, abs=2e-5)
        assert expanded_level(0.95, 100_000) == pytest.approx(0.95, abs=1e-4)

    @pytest.mark.parametrize("name", NAMES)
    def test_order_of_runs_does_not_matter_to_the_value(self, scores, name):
        assert one(scores[::-1], name).value == pytest.approx(one(scores, name).value, rel=1e-12)

    @pytest.mark.parametrize("name", ["iqm", "median", "mean"])
    def test_sign_and_scale(self, scores, name):
        found, mirrored = one(scores, name), one(5 - 3 * scores, name)
        np.testing.assert_allclose(mirrored, (5 - 3 * found.value, 5 - 3 * found.high, 5 - 3 * found.low), rtol=1e-9)

    def test_deterministic_and_apart(self, scores):
        """The same numbers again, whoever else is compared and whatever the global generator's state."""
        tasks = list(scores.T)
        first = aggregates({"x": tasks})
        second = aggregates({"y": list(scores.T + 1), "x": tasks})
        assert first["x"] == second["x"]
        assert aggregates({"x": tasks}, seed=1)["x"]["iqm"].low != first["x"]["iqm"].low

    def test_labels_may_have_different_numbers_of_runs(self, scores):
        found = aggregates({"x": list(scores.T), "y": list(scores[:7].T)}, ("iqm",))
        assert found["y"]["iqm"] == one(scores[:7], "iqm")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("counts", [(4, 12), (3, 5, 2)])
    def test_tasks_of_different_numbers_of_runs_weigh_the_same(self, name, counts):
        """As if each run of a task were there as often as it takes to make the tasks equal: rliable's of that."""
        rng = np.random.default_rng(5)
        tasks = [rng.normal(place, 1, runs) for place, runs in enumerate(counts)]
        # For the IQM rliable cuts off whole runs: a quarter of them has to be a whole number.
        repeated = 4 * math.lcm(*counts)
        matrix = np.stack([np.repeat(task, repeated // len(task)) for task in tasks], axis=1)
        found = aggregates({"x": tasks}, (name,), resamples=10)["x"][name]
        assert found.value == pytest.approx(getattr(metrics, f"aggregate_{name}")(matrix), rel=1e-12)

    @pytest.mark.parametrize("name", NAMES)
    def test_unequal_and_equal_tasks_agree(self, scores, name):
        """The statistic for unequal numbers of runs, given a task twice as one of equal and of double length."""
        once, twice = scores[:, 0], np.repeat(scores[:, 0], 2)
        assert statistics.AGGREGATES[name](once, twice) == pytest.approx(statistics.AGGREGATES[name](once, once))

    def test_resamples_along_any_axis(self):
        """As the bootstrap asks for them: each resample on its own."""
        rng = np.random.default_rng(6)
        a, b = rng.normal(size=(9, 5)), rng.normal(size=(9, 8))
        for name in NAMES:
            statistic = statistics.AGGREGATES[name]
            rows = [statistic(x, y) for x, y in zip(a, b, strict=True)]
            np.testing.assert_allclose(statistic(a, b), rows)
            np.testing.assert_allclose(statistic(a.T, b.T, axis=0), rows)

    def test_a_task_of_few_runs_does_not_cost_the_others_theirs(self, scores):
        """Cutting all tasks to the 5 runs of one of them would widen the interval."""
        tasks = [scores[:5, 0], scores[:, 1], scores[:, 2], scores[:, 3]]
        full = aggregates({"x": tasks}, ("mean",))["x"]["mean"]
        cut = aggregates({"x": [task[:5] for task in tasks]}, ("mean",))["x"]["mean"]
        assert full.value == pytest.approx(np.mean([task.mean() for task in tasks]))
        assert full.high - full.low < 0.85 * (cut.high - cut.low)

    def test_a_task_of_one_run_leaves_no_interval(self, scores):
        found = aggregates({"x": [scores[:, 0], scores[:1, 1]]}, ("iqm",))["x"]["iqm"]
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    @pytest.mark.parametrize("name", NAMES)
    def test_constant(self, name):
        assert one(np.full((20, 1), 0.5), name) == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize("name", NAMES)
    def test_one_run_has_no_interval(self, name):
        found = one([[0.25, 0.25]], name)
        assert found.value == (0.75 if name == "optimality_gap" else 0.25)
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    @pytest.mark.parametrize("name", NAMES)
    def test_two_runs(self, name):
        assert tuple(one([[0.0], [1.0]], name)) == (0.5, 0.0, 1.0)

    @pytest.mark.parametrize("bad", [[1.0, 2.0], [], [[]], [[1.0], [math.nan]], [[math.inf]], np.ones((3, 2))])
    def test_bad_scores(self, bad):
        with pytest.raises(ValueError, match="scores must be"):
            aggregates({"x": bad})

    def test_mean_covers(self):
        """Normal scores of 10 seeds: 94.5 %; H0 is at least 93.5 %. The plain percentile interval, 90 %, must fail."""
        simulations = 2000
        runs = np.random.default_rng(1).normal(size=(simulations, 10, 1))
        found = [one(scores, "mean", resamples=500) for scores in runs]
        hits = sum(estimate.low <= 0 <= estimate.high for estimate in found)
        plain = stats.bootstrap(
            (runs[..., 0],), np.mean, n_resamples=500, batch=50, axis=-1, method="percentile", vectorized=True, rng=0
        ).confidence_interval
        bound = fewest(simulations, 0.935)
        assert hits >= bound
        assert np.sum((plain.low <= 0) & (plain.high >= 0)) < bound


class TestBand:
    def test_a_point_is_the_aggregate_of_its_column(self, scores):
        value, low, high = band(scores, resamples=5000)
        for point in range(scores.shape[1]):
            expected = one(scores[:, point : point + 1], "iqm", resamples=5000)
            assert value[point] == pytest.approx(expected.value, rel=1e-12)
            slack = 0.08 * (expected.high - expected.low)
            np.testing.assert_allclose([low[point], high[point]], expected[1:], atol=slack)

    def test_one_run(self):
        value, low, high = band(np.asarray([[1.0, 2.0]]))
        np.testing.assert_array_equal(value, [1, 2])
        assert np.isnan([low, high]).all()

    def test_covers(self):
        """Normal scores of 10 seeds: 97 %; H0 is at least 96 %. The plain percentile interval, 93.6 %, must fail."""
        simulations = 3000
        curves = np.random.default_rng(2).normal(size=(10, simulations))
        _, low, high = band(curves, resamples=500)
        plain = stats.bootstrap(
            (curves,), statistics.iqm, n_resamples=500, batch=50, method="percentile", vectorized=True, rng=0
        ).confidence_interval
        bound = fewest(simulations, 0.96)
        assert np.sum((low <= 0) & (high >= 0)) >= bound
        assert np.sum((plain.low <= 0) & (plain.high >= 0)) < bound


class TestShare:
    def test_wilson_by_hand(self):
        # (k + z²/2) / (n + z²) ± z / (n + z²) √(k (n - k) / n + z²/4), z = 1.959964.
        found = share(15, 20)
        assert found.value == 0.75
        assert found.low == pytest.approx(0.53130, abs=1e-5)
        assert found.high == pytest.approx(0.88814, abs=1e-5)

    def test_all_and_none(self):
        # n / (n + z²) for k = n.
        assert share(20, 20) == pytest.approx((1, 20 / 23.841459, 1), abs=1e-6)
        assert share(0, 20) == pytest.approx((0, 0, 1 - 20 / 23.841459), abs=1e-6)

    @pytest.mark.parametrize("count", [0, 1, 13, 29, 30])
    def test_wilson_is_scipys(self, count):
        theirs = stats.binomtest(count, 30).proportion_ci(0.9, method="wilson")
        assert share(count, 30, 0.9)[1:] == pytest.approx((theirs.low, theirs.high), abs=1e-12)

    @pytest.mark.parametrize(("count", "total"), [(3, 2), (-1, 2), (0, 0)])
    def test_bad(self, count, total):
        with pytest.raises(ValueError, match="is no share"):
            share(count, total)

    def test_covers_exactly(self):
        """Over all counts at 20 seeds, for shares from .1 to .9: never below 91 %, 95 % on average."""
        counts = np.arange(21)
        ends = np.asarray([share(int(count), 20)[1:] for count in counts])
        shares = np.linspace(0.1, 0.9, 401)
        inside = (ends[:, :1] <= shares) & (shares <= ends[:, 1:])
        coverage = (stats.binom.pmf(counts[:, None], 20, shares) * inside).sum(axis=0)
        assert coverage.min() > 0.91
        assert coverage.mean() == pytest.approx(0.953, abs=0.005)


class TestProfiles:
    def test_by_hand(self):
        found = profiles({"x": [np.asarray([1.0, 2.0, 2.0, 5.0])]}, np.asarray([0.0, 1.0, 2.0, 5.0]))["x"]
        np.testing.assert_array_equal(found.share, [1, 0.75, 0.25, 0])
        np.testing.assert_allclose(found.low, [share(count, 4).low for count in (4, 3, 1, 0)])
        np.testing.assert_allclose(found.high, [share(count, 4).high for count in (4, 3, 1, 0)])

    def test_shares_are_rliables(self, scores):
        thresholds = np.linspace(-1, 2, 31)
        found = profiles({"x": list(scores.T)}, thresholds)["x"]
        np.testing.assert_allclose(found.share, library.score_distributions(scores, thresholds), rtol=1e-12)
        assert (found.low <= found.share).all()
        assert (found.share <= found.high).all()

    def test_tasks_of_different_numbers_of_runs_weigh_the_same(self):
        """1 of 2 and 3 of 3 make 3/4, not 4/5; 2² / (1/2 + 1/3) = 4.8 runs of one sample vary as much."""
        found = profiles({"x": [np.asarray([0.0, 1.0]), np.ones(3)]}, np.asarray([0.5]))["x"]
        assert found.share == pytest.approx([0.75])
        # As the interval of .75 must be the solutions of (p - .75)² = z² p (1 - p) / 4.8.
        square = stats.norm.ppf(0.975) ** 2
        ends = np.sort(np.roots([1 + square / 4.8, -1.5 - square / 4.8, 0.75**2]))
        np.testing.assert_allclose([found.low[0], found.high[0]], ends)


class TestShareByTime:
    def test_by_hand(self):
        """4 runs, one reaches at 10, one ends at 20 without, one reaches at 30, one ends at 40: 1/4, then 5/8."""
        times, shares = share_by_time([10, None, 30, None], [40, 20, 50, 40])
        at = dict(zip(times, shares, strict=True))
        assert at == pytest.approx({0: 0, 10: 1 / 4, 20: 1 / 4, 30: 5 / 8, 40: 5 / 8, 50: 5 / 8})

    def test_none_reached(self):
        assert share_by_time([None, None], [5, 7]) == ([0, 5, 7, 7], [0, 0, 0, 0])

    def test_half_is_where_the_median_is(self):
        times, horizons = [1.0, 2.0, None, 4.0, None, None], [9.0, 9.0, 2.0, 9.0, 9.0, 9.0]
        corners, shares = share_by_time(times, horizons)
        assert next(time for time, part in zip(corners, shares, strict=True) if part >= 0.5) == 4
        assert time_to_event(times, horizons).median == 4


class TestTimeToEvent:
    def test_by_hand_with_censoring(self):
        # At risk 6, 5, 3: S(1) = 5/6, S(2) = 5/6 · 4/5 = 2/3, one leaves at 2, S(4) = 2/3 · 2/3 = 4/9 <= 1/2.
        found = time_to_event([1, 2, None, 4, None, None], [9, 9, 2, 9, 9, 9])
        assert found.median == 4.0
        assert found.reached == 3
        assert found.high is None

    def test_interval_by_hand(self):
        """Log-log: S^exp(± z σ / log S), σ² = Σ d / (r (r - d)), which for nothing censored is (1 - S) / (n S)."""
        survival = np.arange(19, 0, -1) / 20
        reach = stats.norm.ppf(0.975) * np.sqrt((1 - survival) / (20 * survival)) / np.log(survival)
        lower, upper = survival ** np.exp(-reach), survival ** np.exp(reach)
        expected = 1 + np.argmax(lower <= 0.5), 1 + np.argmax(upper <= 0.5)
        assert time_to_event(list(range(1, 21)), [30] * 20)[:3] == (10, *expected)

    @pytest.mark.parametrize("runs", range(2, 62, 2))
    def test_half_of_the_runs_are_half(self, runs):
        """The curve is at one half after half of an even number of runs, whatever rounding makes of it."""
        assert time_to_event([float(time) for time in range(1, runs + 1)], [100] * runs).median == runs // 2

    def test_horizons_differ(self):
        """A run watched for a short time counts only as long."""
        assert time_to_event([None, None, 3, 4], [1, 1, 9, 9]).median == 3
        assert time_to_event([None, None, 3, 4], [9, 9, 9, 9]).median == 4

    def test_none_reached(self):
        assert time_to_event([None] * 20, [5.0] * 20) == (None, None, None, 0)

    def test_all_at_once(self):
        assert time_to_event([3.0] * 20, [5.0] * 20) == (3, 3, 3, 20)

    def test_one_run_has_no_interval(self):
        assert time_to_event([3.0], [5.0]) == (3, None, None, 1)
        assert time_to_event([None], [5.0]) == (None, None, None, 0)

    def test_few_reached(self):
        """The median is beyond what was watched; so is the upper bound, but not, with 9 of 20, the lower one."""
        found = time_to_event([*map(float, range(1, 10)), *[None] * 11], [50.0] * 20)
        assert found.median is None
        assert found.high is None
        assert found.low == 5

    def test_order_does_not_matter(self):
        times, horizons = [5.0, None, 2.0, 8.0, None, 3.0], [9.0, 4.0, 9.0, 9.0, 9.0, 9.0]
        assert time_to_event(times, horizons) == time_to_event(times[::-1], horizons[::-1])

    @pytest.mark.parametrize(("times", "horizons"), [([], []), ([1.0], []), ([1.0, None], [1.0])])
    def test_bad(self, times, horizons):
        with pytest.raises(ValueError, match="one of each"):
            time_to_event(times, horizons)
