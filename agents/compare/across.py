"""Scores over all environments of a comparison, normalised so that they can be put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.compare.entries import aggregates, improvement, profiles
from agents.compare.plan import Plan
from agents.compare.records import Record

Runs = Mapping[tuple[str, str], Sequence[Record]]
"""All runs by environment and label, in the order of their seeds."""


def scale(plan: Plan, env: str) -> tuple[float, float] | None:
    """The returns of random actions and of the threshold, 0 and 1 of normalised scores; None if they make no scale."""
    threshold = next(cell.config.threshold for cell in plan.cells if cell.env == env)
    random = plan.random_returns.get(env)
    return None if threshold is None or random is None or threshold <= random else (random, threshold)


def across(plan: Plan, records: Runs) -> dict[str, Any] | None:
    """All runs on environments that have a scale, of the labels that have runs on each of these.

    An environment on which nothing is finished yet is no reason to leave everybody out: it does not count. Numbers of
    runs may differ from label to label and from environment to environment; each environment weighs the same.
    """
    every = list(dict.fromkeys(cell.label for cell in plan.cells))
    scales = {
        env: ends
        for env in plan.environments
        if any(records.get((env, label)) for label in every) and (ends := scale(plan, env))
    }
    if len(scales) < 2:
        return None
    without = {label: [env for env in scales if not records.get((env, label))] for label in every}
    labels = [label for label in every if not without[label]]
    scores = {
        label: [
            (np.asarray([record.score for record in records[env, label]]) - low) / (high - low)
            for env, (low, high) in scales.items()
        ]
        for label in labels
    }
    runs = {env: [len(records[env, label]) for label in labels] for env in scales}
    return {
        "environments": {
            env: {"seeds": [min(counts), max(counts)] if counts else None} for env, counts in runs.items()
        },
        "left_out": [
            {"agent": label, "reason": f"no runs on {', '.join(envs)}"} for label, envs in without.items() if envs
        ],
        "agents": aggregates(scores),
        "improvement": improvement(scores),
        "profiles": profiles(scores),
    }
