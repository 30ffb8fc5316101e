"""Estimates over seeds and their intervals: pure functions of scores.

`scores` is an array `[R, T]`: R runs (one a seed) of T tasks (environments); one task is `[R, 1]`. Aggregates, shares
and the probability of improvement are those of rliable (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice"); their intervals are not, for three measured reasons:

* rliable 1.2 draws its resamples from NumPy's global generator whatever `random_state` it is given: the same data give
  other intervals each time. SciPy's bootstrap takes a generator, and is some fifty times quicker.
* A plain percentile interval of a few runs is too narrow. Hesterberg (2015), "What Teachers Should Know About the
  Bootstrap", widens its level by as much as a t interval is wider than a normal one: `expanded_level`.
* A bootstrap of runs that are all above a threshold has no width, however few they are: shares have intervals made for
  proportions instead. The probability of improvement is the same case: `improvement.py`.

How often the 95 % intervals hold the truth is simulated by `benchmarks/coverage.py`. With fewer than 6 runs no interval
between observed values can hold a median 95 % of the time: 2 runs 50 %, 3 runs 75 %, 4 runs 88 %, 5 runs 94 %. One run
says nothing about other seeds: its bounds are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rliable import metrics
from scipy import stats

Scores = NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 5000
# Half of the runs. After three of six events lifelines' curve is at .5 plus rounding: the median would be the fourth.
HALF = 0.5 + 1e-9
# Resamples of a learning curve in memory at once: more is slower, because they no longer fit into the cache.
BATCH = 100


class Estimate(NamedTuple):
    """A value and its interval; the bounds are NaN where the data cannot tell."""

    value: float
    low: float
    high: float


class Profile(NamedTuple):
    """Share of runs above each threshold, `[thresholds]`, and its pointwise interval."""

    share: Scores
    low: Scores
    high: Scores


class Survival(NamedTuple):
    """Median time to an event; None where it, or the bound, is not reached. `reached` counts the events."""

    median: float | None
    low: float | None
    high: float | None
    reached: int


def iqm(*tasks: Scores, axis: int = -1) -> Scores:
    """Mean of the middle half of all scores, the tasks pooled."""
    return np.asarray(stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis))


def median(*tasks: Scores, axis: int = -1) -> Scores:
    """Median over runs of a single task; over tasks, of their means (rliable's: of a single task, its mean)."""
    if len(tasks) == 1:
        return np.asarray(np.median(tasks[0], axis=axis))
    return np.asarray(np.median([task.mean(axis=axis) for task in tasks], axis=0))


def mean(*tasks: Scores, axis: int = -1) -> Scores:
    """Mean of all scores."""
    return np.asarray(np.concatenate(tasks, axis=axis).mean(axis=axis))


def optimality_gap(*tasks: Scores, axis: int = -1) -> Scores:
    """How far the scores fall short of 1, what is above 1 not counted: for normalised scores."""
    return np.asarray(1 - np.minimum(np.concatenate(tasks, axis=axis), 1).mean(axis=axis))


# rliable's aggregates take one matrix at a time: they give the value, and their like here that of many resamples.
AGGREGATES: dict[str, Callable[..., Scores]] = {f.__name__: f for f in (iqm, median, mean, optimality_gap)}
RLIABLE: dict[str, Callable[[Scores], float]] = {name: getattr(metrics, f"aggregate_{name}") for name in AGGREGATES}


def expanded_level(confidence: float, runs: int) -> float:
    """Level whose percentile bootstrap interval is as wide as a t interval.

    `1 - 2 Φ(√(n/(n-1)) t)`, t the (1 - confidence)/2 quantile with n - 1 degrees of freedom: a bootstrap mean varies
    like σ̂ with divisor n, and its quantiles are a normal law's (Hesterberg 2015). With several tasks the degrees of
    freedom stay those of one task, which is on the safe side if one of them makes all the difference.
    """
    t = stats.t.ppf((1 - confidence) / 2, runs - 1)
    return float(1 - 2 * stats.norm.cdf(math.sqrt(runs / (runs - 1)) * t))


def aggregates(
    scores: Mapping[str, Scores],
    names: Sequence[str] = tuple(AGGREGATES),
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Aggregate scores by label and name, with expanded percentile intervals of the bootstrap within each task.

    A label's numbers depend on its own scores and `seed` alone. At 20 and 30 seeds the intervals of `iqm` and `median`
    cover 93.5 to 97 % in all laws simulated, or more where runs tie at the median itself. That of `mean` falls short
    for skewed scores: 92 % at 20 seeds if 70 % of runs are at the maximum and the others anywhere below, 88 to 89 % at
    20 and 30 seeds if scores are lognormal. At 5 and 10 seeds `iqm` covers 84 to 98 %, `mean` 77 to 98 %.

    Args:
        scores: `[R, T]` by label; R may differ.
        names: Of `AGGREGATES`. `optimality_gap` needs scores normalised to 1.
        confidence: Of the intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ValueError: Scores that are not `[R, T]`, empty or not finite.
    """
    return {
        label: {name: _aggregate(checked(values), name, confidence, resamples, seed) for name in names}
        for label, values in scores.items()
    }


def _aggregate(scores: Scores, name: str, confidence: float, resamples: int, seed: int) -> Estimate:
    value = np.median(scores) if name == "median" and scores.shape[1] == 1 else RLIABLE[name](scores)
    low, high = _interval(tuple(scores.T), AGGREGATES[name], confidence, resamples, seed)
    return Estimate(float(value), float(low), float(high))


def band(
    curves: Scores, *, confidence: float = CONFIDENCE, resamples: int = 2000, seed: int = 0
) -> tuple[Scores, Scores, Scores]:
    """Interquartile mean over runs at each point of their learning curves, and its pointwise interval.

    Args:
        curves: `[R, points]`, finite. The same runs are resampled at every point.
        confidence: Of the interval at one point; the chance that a whole curve stays inside is smaller.
        resamples: Of the bootstrap.
        seed: Of its random numbers.
    """
    curves = checked(curves)
    return iqm(curves, axis=0), *_interval((curves,), iqm, confidence, resamples, seed)


def _interval(
    samples: tuple[Scores, ...], statistic: Callable[..., Scores], confidence: float, resamples: int, seed: int
) -> tuple[Scores, Scores]:
    """Expanded percentile interval; the samples, whose runs lie along axis 0, are resampled independently."""
    runs = len(samples[0])
    if runs == 1:
        unknown = np.full_like(statistic(*samples, axis=0), math.nan)
        return unknown, unknown
    interval = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=BATCH if samples[0].ndim > 1 else None,
        method="percentile",
        confidence_level=expanded_level(confidence, runs),
        vectorized=True,
        axis=0,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


def share(count: int, total: int, confidence: float = CONFIDENCE) -> Estimate:
    """Share of runs in which something happened, with Wilson's (1927) score interval.

    Its coverage goes up and down with the true share, because counts are whole numbers: 95 % on average, at 20 and 30
    runs from 92 to 98 % for shares of .1 to .9, and down to 89.5 % in places nearer to 0 and 1.

    Raises:
        ValueError: No runs, or more that happened than there are.
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total} is no share")
    interval = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Estimate(count / total, float(interval.low), float(interval.high))


def profiles(scores: Mapping[str, Scores], thresholds: Scores, *, confidence: float = CONFIDENCE) -> dict[str, Profile]:
    """Performance profiles: the share of runs, over all tasks, whose score is above each threshold.

    The intervals are Wilson's, pointwise. Runs of several tasks count as one sample, which errs on the wide side (95 to
    98 % at 20 seeds of four tasks): the share of a stratified sample varies less.

    Args:
        scores: `[R, T]` by label.
        thresholds: `[points]`.
        confidence: Of the interval at one threshold.
    """
    return {label: _profile(checked(values), thresholds, confidence) for label, values in scores.items()}


def _profile(scores: Scores, thresholds: Scores, confidence: float) -> Profile:
    counts = (scores[..., None] > thresholds).sum(axis=(0, 1))
    shares = {count: share(count, scores.size, confidence) for count in set(counts.tolist())}
    return Profile(*np.asarray([shares[count] for count in counts.tolist()]).reshape(-1, 3).T)


def time_to_event(times: Sequence[float | None], horizons: Sequence[float], confidence: float = CONFIDENCE) -> Survival:
    """Median time to an event by Kaplan and Meier (1958): runs without it count as longer than they were watched.

    The interval holds the times at which the pointwise interval of the survival curve (log-log, from Greenwood's
    variance) contains one half (Brookmeyer and Crowley 1982), all by lifelines. No upper bound means that the data are
    compatible with half of the runs never getting there. Bounds are observed times, and intervals rather too wide than
    too narrow: 95 to 97 % at 20 and 30 seeds, up to 99 % where times tie at evaluations, more if few runs get there.

    Args:
        times: Of the event in each run, None where it did not happen.
        horizons: How long each run was watched, in the same unit.
        confidence: Of the interval.

    Raises:
        ValueError: No runs, or not as many times as horizons.
    """
    if not times or len(times) != len(horizons):
        raise ValueError(f"{len(times)} times and {len(horizons)} horizons: give one of each a run")
    # It imports pandas and more, which takes most of a second.
    from lifelines import KaplanMeierFitter, utils

    happened = [time is not None for time in times]
    ends = [horizon if time is None else time for time, horizon in zip(times, horizons, strict=True)]
    fit = KaplanMeierFitter(alpha=1 - confidence).fit(ends, happened)
    crossed = [utils.qth_survival_times(HALF, curve) for curve in (fit.survival_function_, fit.confidence_interval_)]
    median, low, high = (None if math.isinf(time) else float(time) for found in crossed for time in np.ravel(found))
    return Survival(median, *((low, high) if len(ends) > 1 else (None, None)), sum(happened))


def checked(scores: ArrayLike) -> Scores:
    """Scores as floats `[runs, tasks]`."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"scores must be an array [runs, tasks], not one of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite numbers")
    return array
