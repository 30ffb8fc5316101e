"""Estimates over seeds and their intervals: pure functions of scores.

Scores are a sequence of tasks (environments), for each the vector `[runs]` of its returns, one a seed. Tasks may have
different numbers of runs and count alike whatever those are. Where they are equal, aggregates, shares and the
probability of improvement are those of rliable (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice"), which knows no other case; the intervals are not, for three measured reasons:

* rliable 1.2 draws its resamples from NumPy's global generator whatever `random_state` it is given: the same data give
  other intervals each time. SciPy's bootstrap takes a generator, and is some fifty times quicker.
* A plain percentile interval of a few runs is too narrow. Hesterberg (2015), "What Teachers Should Know About the
  Bootstrap", widens its level by as much as a t interval is wider than a normal one: `expanded_level`.
* A bootstrap of runs that are all above a threshold has no width, however few they are: shares have intervals made for
  proportions instead. The probability of improvement is the same case: `improvement.py`. Times: `survival.py`.

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
Tasks = Sequence[Scores]
CONFIDENCE = 0.95
RESAMPLES = 5000
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


def iqm(*tasks: Scores, axis: int = -1) -> Scores:
    """Mean of the middle half of all scores, the tasks pooled, each with the same weight."""
    pooled, counts = np.concatenate(tasks, axis=axis), [task.shape[axis] for task in tasks]
    if len(set(counts)) == 1:
        return np.asarray(stats.trim_mean(pooled, 0.25, axis=axis))
    pooled = np.moveaxis(pooled, axis, -1)
    weights = np.repeat([1 / len(tasks) / count for count in counts], counts)
    order = pooled.argsort(axis=-1)
    # Each score reaches from the weight of those below it to that with its own.
    inside = np.diff(np.clip(weights[order].cumsum(axis=-1), 0.25, 0.75), prepend=0.25, axis=-1)
    return np.asarray(2 * (inside * np.take_along_axis(pooled, order, axis=-1)).sum(axis=-1))


def median(*tasks: Scores, axis: int = -1) -> Scores:
    """Median over runs of a single task; over tasks, of their means (rliable's: of a single task, its mean)."""
    if len(tasks) == 1:
        return np.asarray(np.median(tasks[0], axis=axis))
    return np.asarray(np.median([task.mean(axis=axis) for task in tasks], axis=0))


def mean(*tasks: Scores, axis: int = -1) -> Scores:
    """Mean of the tasks' means."""
    return np.asarray(np.mean([task.mean(axis=axis) for task in tasks], axis=0))


def optimality_gap(*tasks: Scores, axis: int = -1) -> Scores:
    """How far the scores fall short of 1, what is above 1 not counted: for normalised scores."""
    return 1 - mean(*(np.minimum(task, 1) for task in tasks), axis=axis)


# rliable's aggregates take one matrix at a time: they give the value where the tasks make one, and their like here that
# of many resamples.
AGGREGATES: dict[str, Callable[..., Scores]] = {f.__name__: f for f in (iqm, median, mean, optimality_gap)}
RLIABLE: dict[str, Callable[[Scores], float]] = {name: getattr(metrics, f"aggregate_{name}") for name in AGGREGATES}


def expanded_level(confidence: float, runs: int) -> float:
    """Level whose percentile bootstrap interval is as wide as a t interval.

    `1 - 2 Φ(√(n/(n-1)) t)`, t the (1 - confidence)/2 quantile with n - 1 degrees of freedom: a bootstrap mean varies
    like σ̂ with divisor n, and its quantiles are a normal law's (Hesterberg 2015). With several tasks the degrees of
    freedom stay those of the one with the fewest runs, the safe side if that one makes all the difference.
    """
    t = stats.t.ppf((1 - confidence) / 2, runs - 1)
    return float(1 - 2 * stats.norm.cdf(math.sqrt(runs / (runs - 1)) * t))


def aggregates(
    scores: Mapping[str, Tasks],
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
    20 and 30 seeds if scores are lognormal. At 5 and 10 seeds `iqm` covers 84 to 98 %, `mean` 77 to 98 %. A task of few
    runs beside others is hardly better than all of so few: with 30 and 5 seeds of two tasks `iqm` covered 84 %.

    Args:
        scores: For each label a vector `[runs]` of each task.
        names: Of `AGGREGATES`. `optimality_gap` needs scores normalised to 1.
        confidence: Of the intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ValueError: Scores that are no such vectors, empty or not finite.
    """
    return {
        label: {name: _aggregate(checked(values), name, confidence, resamples, seed) for name in names}
        for label, values in scores.items()
    }


def _aggregate(tasks: Tasks, name: str, confidence: float, resamples: int, seed: int) -> Estimate:
    own = len({len(task) for task in tasks}) > 1 or (name == "median" and len(tasks) == 1)
    value = AGGREGATES[name](*tasks) if own else RLIABLE[name](np.stack(tasks, axis=1))
    low, high = _interval(tasks, AGGREGATES[name], confidence, resamples, seed)
    return Estimate(float(value), float(low), float(high))


def band(
    curves: Scores, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Scores, Scores, Scores]:
    """Interquartile mean over runs at each point of their learning curves, and its pointwise interval.

    Args:
        curves: `[R, points]`, finite. The same runs are resampled at every point.
        confidence: Of the interval at one point; the chance that a whole curve stays inside is smaller.
        resamples: Of the bootstrap.
        seed: Of its random numbers.
    """
    checked(list(curves.T))
    return iqm(curves, axis=0), *_interval((curves,), iqm, confidence, resamples, seed)


def _interval(
    samples: Tasks, statistic: Callable[..., Scores], confidence: float, resamples: int, seed: int
) -> tuple[Scores, Scores]:
    """Expanded percentile interval; the samples, whose runs lie along axis 0, are resampled independently."""
    runs = min(map(len, samples))
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
    low, high = _wilson(np.asarray(count / total), total, confidence)
    return Estimate(count / total, float(low), float(high))


def _wilson(shares: Scores, runs: float, confidence: float) -> tuple[Scores, Scores]:
    """SciPy's interval takes whole numbers of runs only."""
    square = stats.norm.ppf((1 + confidence) / 2) ** 2
    middle = (shares + square / (2 * runs)) / (1 + square / runs)
    reach = np.sqrt(square * shares * (1 - shares) / runs + (square / (2 * runs)) ** 2) / (1 + square / runs)
    # Shares of 0 and 1 are ends of their intervals, but for rounding.
    return np.clip(middle - reach, 0, shares), np.clip(middle + reach, shares, 1)


def profiles(scores: Mapping[str, Tasks], thresholds: Scores, *, confidence: float = CONFIDENCE) -> dict[str, Profile]:
    """Performance profiles: the share of runs, over all tasks, whose score is above each threshold.

    The intervals are Wilson's, pointwise. Runs of several tasks count as one sample, which errs on the wide side (95 to
    98 % at 20 seeds of four tasks): the share of a stratified sample varies less. Unequal numbers of runs count as
    `T² / Σ 1/R`, the runs that an equally weighted sample of that variance has (Kish 1965).

    Args:
        scores: For each label a vector `[runs]` of each task.
        thresholds: `[points]`.
        confidence: Of the interval at one threshold.
    """
    return {label: _profile(checked(tasks), thresholds, confidence) for label, tasks in scores.items()}


def _profile(tasks: Tasks, thresholds: Scores, confidence: float) -> Profile:
    shares = np.mean([(task[:, None] > thresholds).mean(axis=0) for task in tasks], axis=0)
    runs = len(tasks) ** 2 / sum(1 / len(task) for task in tasks)
    return Profile(shares, *_wilson(shares, runs, confidence))


def checked(scores: Sequence[ArrayLike] | Scores) -> Tasks:
    """Scores as vectors of floats, one a task."""
    # Of a matrix nobody knows which way it lies.
    tasks = [] if isinstance(scores, np.ndarray) else [np.asarray(task, dtype=np.float64) for task in scores]
    if not tasks or any(task.ndim != 1 or not task.size for task in tasks):
        raise ValueError("scores must be a list of vectors [runs], one a task")
    if not all(np.isfinite(task).all() for task in tasks):
        raise ValueError("scores must be finite numbers")
    return tasks
