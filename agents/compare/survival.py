"""Times until something happens, of runs in which it may not happen: they count as longer than they were watched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agents.compare.statistics import CONFIDENCE

# Half of the runs. After three of six events lifelines' curve is at .5 plus rounding: the median would be the fourth.
HALF = 0.5 + 1e-9


class Survival(NamedTuple):
    """Median time to an event; None where it, or the bound, is not reached. `reached` counts the events."""

    median: float | None
    low: float | None
    high: float | None
    reached: int


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
    from lifelines import utils

    fit = _kaplan_meier(times, horizons, confidence)
    crossed = [utils.qth_survival_times(HALF, curve) for curve in (fit.survival_function_, fit.confidence_interval_)]
    median, low, high = (None if math.isinf(time) else float(time) for found in crossed for time in np.ravel(found))
    reached = sum(time is not None for time in times)
    return Survival(median, *((low, high) if len(times) > 1 else (None, None)), reached)


def share_by_time(times: Sequence[float | None], horizons: Sequence[float]) -> tuple[list[float], list[float]]:
    """Kaplan-Meier estimate of the share of runs in which an event has happened, as a staircase.

    Args:
        times: As of `time_to_event`.
        horizons: The same.

    Returns:
        Times from 0 to the last horizon, and the share from each of them on.

    Raises:
        ValueError: No runs, or not as many times as horizons.
    """
    survival = _kaplan_meier(times, horizons, CONFIDENCE).survival_function_
    shares = (1 - np.ravel(survival)).tolist()
    return [*map(float, survival.index), float(max(*horizons, survival.index[-1]))], [*shares, shares[-1]]


def _kaplan_meier(times: Sequence[float | None], horizons: Sequence[float], confidence: float) -> Any:
    if not times or len(times) != len(horizons):
        raise ValueError(f"{len(times)} times and {len(horizons)} horizons: give one of each a run")
    # It imports pandas and more, which takes most of a second.
    from lifelines import KaplanMeierFitter

    ends = [horizon if time is None else time for time, horizon in zip(times, horizons, strict=True)]
    return KaplanMeierFitter(alpha=1 - confidence).fit(ends, [time is not None for time in times])
