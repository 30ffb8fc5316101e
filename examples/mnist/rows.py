"""The rows of the table of estimators, in Markdown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from examples.mnist.problems import ESTIMATORS, PROBLEMS, TUNING_SEED

CONFIDENCE = 0.95


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over seeds, and half the width of its 95 % t interval."""
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(half)


def table(found: dict[str, Any], problem: str) -> list[str]:
    """Rows in Markdown, the best first; empty without runs. Negative log-likelihoods and bounds in nats."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for run in found["runs"]:
        if run["problem"] == problem and run["seed"] < TUNING_SEED:
            runs.setdefault(run["estimator"], {})[run["seed"]] = run
    reference = runs.get("st-gumbel-softmax", {})
    rows = []
    for name, by_seed in runs.items():

        def shown(key: str, by_seed: dict[int, dict[str, Any]] = by_seed) -> str:
            return f"{-np.mean([run[key] for run in by_seed.values()]):.1f}"

        mean, half = interval([-run["test"] for run in by_seed.values()])
        paired = [reference[seed]["test"] - run["test"] for seed, run in by_seed.items() if seed in reference]
        difference, reach = interval(paired) if paired else (float("nan"), float("nan"))
        against = "0" if name == "st-gumbel-softmax" else _with_reach(difference, reach, "+") if paired else "–"
        step = 1e3 * float(np.median([run["seconds_a_step"] for run in by_seed.values()]))
        published = PROBLEMS[problem].published.get(name)
        cells = [
            f"`{ESTIMATORS[name]}`",
            _with_reach(mean, half),
            against,
            "–" if published is None else f"{published:.1f}",
            shown("elbo_test"),
            shown("train"),
            shown("elbo_train"),
            shown("objective_train"),
            f"{next(iter(by_seed.values()))['learning_rate']:g}",
            f"{step:.1f}",
            f"{len(by_seed)}",
        ]
        rows.append((mean, f"| {' | '.join(cells)} |"))
    head = (
        "estimator",
        "test NLL",
        "less that of ST-GS",
        "published",
        "test −ELBO",
        "training NLL",
        "training −ELBO",
        "as it sees it",
        "step size",
        "ms a step",
        "seeds",
    )
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(row for _, row in sorted(rows))] if rows else []


def _with_reach(mean: float, half: float, sign: str = "") -> str:
    """A single seed has no interval."""
    mean = round(mean, 1) + 0.0  # no negative zeros
    return f"{mean:{sign}.1f}" if math.isnan(half) else f"{mean:{sign}.1f} ± {half:.1f}"
