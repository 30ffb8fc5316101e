"""`comparison.json`: all runs of a comparison and what they come to; reports are made from it alone.

Every estimate is a list `[value, low, high]` with the ends of its interval, null where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.compare import statistics
from agents.compare.improvement import probability_of_improvement
from agents.compare.origin import libraries, merged, train_command
from agents.compare.plan import Cell, Plan
from agents.compare.records import Curve, Record, to_entry
from agents.compare.statistics import CONFIDENCE, RESAMPLES, Estimate

FORMAT = 1
# Points of a learning curve, and of a performance profile.
POINTS = 60
# Beside what runs record themselves.
LIBRARIES = ("rliable", "lifelines", "joblib", "scipy")


Runs = Mapping[tuple[str, str], Sequence[Record]]
"""All runs by environment and label, in the order of their seeds."""


def summarise(plan: Plan, known: Mapping[tuple[str, str, int], Record]) -> dict[str, Any]:
    """All that a comparison has found so far.

    Args:
        plan: The comparison.
        known: The finished runs, by environment, label and seed.
    """
    records: Runs = {
        (cell.env, cell.label): [record for seed in cell.seeds if (record := known.get((cell.env, cell.label, seed)))]
        for cell in plan.cells
    }
    origins: list[Mapping[str, Any]] = []
    environments = {env: _environment(plan, env, records, origins) for env in plan.environments}
    return {
        "format": FORMAT,
        "command": "\n".join(plan.commands),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "versions": merged(origin["versions"] for origin in origins) | libraries(),
        "hardware": merged(origin["machine"] for origin in origins) | {"load": _load(known.values())},
        "origins": origins,
        "not_applicable": plan.not_applicable,
        "failed": plan.failed,
        "missing": _missing(plan, records),
        "environments": {env: found for env, found in environments.items() if found["agents"]},
        "across": _across(plan, records),
    }


def _missing(plan: Plan, records: Runs) -> list[dict[str, Any]]:
    failed = {(entry["env"], entry["agent"], entry["seed"]) for entry in plan.failed}
    found = {(*cell, record.seed) for cell, runs in records.items() for record in runs}
    wanted = [(cell.env, cell.label, seed) for cell in plan.cells for seed in cell.seeds]
    missing = [run for run in wanted if run not in found and run not in failed]
    return [{"env": env, "agent": label, "seed": seed} for env, label, seed in missing]


def _environment(plan: Plan, env: str, records: Runs, origins: list[Mapping[str, Any]]) -> dict[str, Any]:
    cells = {cell.label: cell for cell in plan.cells if cell.env == env and records[env, cell.label]}
    threshold = next((cell.config.threshold for cell in cells.values()), None)
    runs = {label: records[env, label] for label in cells}
    scores = {label: _column(record.score for record in found) for label, found in runs.items()}
    scale = _scale(plan, env, threshold)
    return {
        "threshold": threshold,
        "random_return": plan.random_returns.get(env),
        "agents": _agents(cells, runs, scores, threshold, scale, origins),
        "improvement": _improvement(scores),
        "profiles": _profiles(scores, *_range(scores)),
    }


def _scale(plan: Plan, env: str, threshold: float | None) -> tuple[float, float] | None:
    """The returns of random actions and of the threshold, 0 and 1 of normalised scores."""
    random = plan.random_returns.get(env)
    return None if threshold is None or random is None or threshold <= random else (random, threshold)


def _column(values: Iterable[float]) -> NDArray[np.float64]:
    """Returns of one task, `[runs, 1]`."""
    return np.asarray(list(values), dtype=np.float64)[:, None]


def _agents(
    cells: Mapping[str, Cell],
    runs: Mapping[str, Sequence[Record]],
    scores: Mapping[str, NDArray[np.float64]],
    threshold: float | None,
    scale: tuple[float, float] | None,
    origins: list[Mapping[str, Any]],
) -> dict[str, Any]:
    stochastic = {
        label: _column(record.values["eval_return_stochastic_mean"] for record in found)
        for label, found in runs.items()
    }
    returns = _aggregates(scores, ("iqm", "median", "mean"))
    sampled = _aggregates(stochastic, ("iqm",))
    normalized = None
    if scale is not None:
        low, high = scale
        normalized = _aggregates({label: (values - low) / (high - low) for label, values in scores.items()})
    return {
        label: {
            "command": train_command(cells[label].config),
            "timesteps": cells[label].config.timesteps,
            "settings": cells[label].settings,
            "seeds": [record.seed for record in runs[label]],
            "return": {
                **returns[label],
                "min": float(scores[label].min()),
                "max": float(scores[label].max()),
            },
            "stochastic_return": sampled[label],
            "normalized": None if normalized is None else normalized[label],
            "solved": None if threshold is None else _solved(scores[label], threshold),
            "steps_to_threshold": None if threshold is None else _reaching(runs[label], "steps_to_threshold"),
            "seconds_to_threshold": None if threshold is None else _reaching(runs[label], "seconds_to_threshold"),
            "train_seconds": {"median": float(np.median([record.values["train_seconds"] for record in runs[label]]))},
            "curve": _curves([record.curve for record in runs[label]]),
            "runs": [to_entry(record, origins) for record in runs[label]],
        }
        for label in cells
    }


def _aggregates(scores: Mapping[str, NDArray[np.float64]], *names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = statistics.aggregates(scores, *names, confidence=CONFIDENCE, resamples=RESAMPLES)
    return {
        label: {name: listed(estimate) for name, estimate in estimates.items()} for label, estimates in found.items()
    }


def _solved(scores: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    count = int((scores >= threshold).sum())
    return {"count": count, "share": listed(statistics.share(count, len(scores), CONFIDENCE))}


def _reaching(runs: Sequence[Record], key: str) -> dict[str, Any]:
    end = {"steps_to_threshold": "timesteps", "seconds_to_threshold": "train_seconds"}[key]
    found = statistics.time_to_event(
        [record.values[key] for record in runs], [record.values[end] for record in runs], CONFIDENCE
    )
    return {"median": [found.median, found.low, found.high], "reached": found.reached}


def _curves(curves: Sequence[Curve]) -> dict[str, Any] | None:
    if any(len(curve.steps) == 0 for curve in curves):
        return None
    return {axis: _curve([(getattr(curve, axis), curve.returns) for curve in curves]) for axis in ("steps", "seconds")}


def _curve(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, list[float | None]]:
    """Curves over a common axis, from where all of them have begun to where the first one ends."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(start, max(start, end), POINTS if end > start else 1)
    returns = np.asarray([np.interp(grid, x, y) for x, y in curves])
    iqm, low, high = statistics.band(returns, confidence=CONFIDENCE)
    columns = {"x": grid, "iqm": iqm, "low": low, "high": high}
    return {name: _numbers(values) for name, values in columns.items()}


def _improvement(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, Any]]:
    """Of each over each; that of b over a is what is missing to 1 from that of a over b."""
    labels = list(scores)
    table: dict[str, dict[str, Any]] = {label: {} for label in labels}
    for number, one in enumerate(labels):
        for other in labels[number + 1 :]:
            found = probability_of_improvement(scores[one], scores[other], confidence=CONFIDENCE)
            table[one][other] = listed(found)
            table[other][one] = listed(Estimate(1 - found.value, 1 - found.high, 1 - found.low))
    return table


def _range(scores: Mapping[str, NDArray[np.float64]]) -> tuple[float, float]:
    values = np.concatenate(list(scores.values())) if scores else np.zeros(1)
    return float(values.min()), float(values.max())


def _profiles(scores: Mapping[str, NDArray[np.float64]], low: float, high: float) -> dict[str, Any]:
    margin = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, POINTS)
    found = statistics.profiles(scores, thresholds, confidence=CONFIDENCE) if scores else {}
    return {
        "thresholds": _numbers(thresholds),
        "agents": {
            label: {"share": _numbers(one.share), "low": _numbers(one.low), "high": _numbers(one.high)}
            for label, one in found.items()
        },
    }


def _across(plan: Plan, records: Runs) -> dict[str, Any] | None:
    """Normalised scores over all environments that have a scale, of the agents that were run in each of them."""
    thresholds = {cell.env: cell.config.threshold for cell in plan.cells}
    scales = {env: scale for env in thresholds if (scale := _scale(plan, env, thresholds[env]))}
    labels = [
        label
        for label in dict.fromkeys(cell.label for cell in plan.cells)
        if all(records.get((env, label)) for env in scales)
    ]
    if len(scales) < 2 or not labels:
        return None
    # A matrix of runs and tasks: as many runs as the task with the fewest has.
    seeds = min(len(records[env, label]) for env in scales for label in labels)
    scores = {
        label: np.asarray(
            [
                [(record.score - low) / (high - low) for record in records[env, label][:seeds]]
                for env, (low, high) in scales.items()
            ]
        ).T
        for label in labels
    }
    return {
        "environments": list(scales),
        "seeds": seeds,
        "agents": _aggregates(scores),
        "improvement": _improvement(scores),
        "profiles": _profiles(scores, *_range(scores)),
    }


def listed(estimate: Estimate) -> list[float | None]:
    """An estimate as JSON has it, which knows no NaN."""
    return [None if math.isnan(value) else float(value) for value in estimate]


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """With six digits, which is more than a figure shows; a single run has no interval."""
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]


def _load(records: Iterable[Record]) -> list[float] | None:
    """Lowest, median and highest load of the machine that runs met."""
    loads = [record.values["load"] for record in records if record.values["load"] is not None]
    return [float(value) for value in np.quantile(loads, (0.0, 0.5, 1.0))] if loads else None
