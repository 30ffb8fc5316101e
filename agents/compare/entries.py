"""Estimates as `comparison.json` has them: lists `[value, low, high]`, null where there is no number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.compare import statistics
from agents.compare.improvement import probability_of_improvement
from agents.compare.statistics import CONFIDENCE, RESAMPLES, Estimate, Scores, Tasks

# Points of a learning curve, and of a performance profile.
POINTS = 60


def listed(estimate: Estimate) -> list[float | None]:
    """An estimate as JSON has it, which knows no NaN."""
    return [None if math.isnan(value) else float(value) for value in estimate]


def numbers(values: Iterable[float]) -> list[float | None]:
    """With six digits, which is more than a figure shows; a single run has no interval."""
    return [None if math.isnan(value) else float(f"{value:.6g}") for value in values]


def aggregates(
    scores: Mapping[str, Tasks], names: Sequence[str] = tuple(statistics.AGGREGATES)
) -> dict[str, dict[str, Any]]:
    """Aggregates by label and name."""
    found = statistics.aggregates(scores, names, confidence=CONFIDENCE, resamples=RESAMPLES)
    return {
        label: {name: listed(estimate) for name, estimate in estimates.items()} for label, estimates in found.items()
    }


def improvement(scores: Mapping[str, Tasks]) -> dict[str, dict[str, Any]]:
    """Of each over each; that of b over a is what is missing to 1 from that of a over b."""
    labels = list(scores)
    table: dict[str, dict[str, Any]] = {label: {} for label in labels}
    for number, one in enumerate(labels):
        for other in labels[number + 1 :]:
            found = probability_of_improvement(scores[one], scores[other], confidence=CONFIDENCE)
            table[one][other] = listed(found)
            table[other][one] = listed(Estimate(1 - found.value, 1 - found.high, 1 - found.low))
    return table


def profiles(scores: Mapping[str, Tasks]) -> dict[str, Any]:
    """Performance profiles over the range of all scores."""
    every: Scores = np.concatenate([np.zeros(0), *(task for tasks in scores.values() for task in tasks)])
    low, high = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
    margin = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, POINTS)
    found = statistics.profiles(scores, thresholds, confidence=CONFIDENCE)
    return {
        "thresholds": numbers(thresholds),
        "agents": {
            label: {"share": numbers(one.share), "low": numbers(one.low), "high": numbers(one.high)}
            for label, one in found.items()
        },
    }
