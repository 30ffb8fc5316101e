"""`comparison.json`: all runs of a comparison and what they come to; reports are made from it alone.

Every estimate is a list `[value, low, high]` with the ends of its interval, null where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from agents.callbacks import EPISODES_THAT_COUNT
from agents.compare import statistics
from agents.compare.across import Runs, across, scale
from agents.compare.entries import POINTS, aggregates, improvement, listed, numbers, profiles
from agents.compare.origin import libraries, merged, train_command
from agents.compare.plan import Cell, Plan
from agents.compare.records import Curve, Record, to_entry
from agents.compare.statistics import CONFIDENCE, RESAMPLES, Scores, Tasks
from agents.compare.survival import time_to_event
from agents.config import RunConfig

FORMAT = 1


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
        "across": across(plan, records),
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
    scores = {label: _task(record.score for record in found) for label, found in runs.items()}
    return {
        "threshold": threshold,
        "random_return": plan.random_returns.get(env),
        "agents": _agents(cells, runs, scores, threshold, scale(plan, env), origins),
        "improvement": improvement(scores),
        "profiles": profiles(scores),
    }


def _task(values: Iterable[float]) -> Tasks:
    """Returns on one environment."""
    return [np.asarray(list(values), dtype=np.float64)]


def _agents(
    cells: Mapping[str, Cell],
    runs: Mapping[str, Sequence[Record]],
    scores: Mapping[str, Tasks],
    threshold: float | None,
    ends: tuple[float, float] | None,
    origins: list[Mapping[str, Any]],
) -> dict[str, Any]:
    stochastic = {
        label: _task(record.values["eval_return_stochastic_mean"] for record in found) for label, found in runs.items()
    }
    returns = aggregates(scores, ("iqm", "median", "mean"))
    sampled = aggregates(stochastic, ("iqm",))
    normalized = None
    if ends is not None:
        low, high = ends
        normalized = aggregates({label: [(task - low) / (high - low)] for label, (task,) in scores.items()})
    return {
        label: {
            "command": train_command(cells[label].config),
            "timesteps": cells[label].config.timesteps,
            "settings": cells[label].settings,
            "seeds": [record.seed for record in runs[label]],
            "return": {
                **returns[label],
                "min": float(min(scores[label][0])),
                "max": float(max(scores[label][0])),
            },
            "stochastic_return": sampled[label],
            "normalized": None if normalized is None else normalized[label],
            "solved": None if threshold is None else _solved(scores[label][0], threshold),
            "steps_to_threshold": _reaching(cells[label].config, runs[label], "steps_to_threshold"),
            "seconds_to_threshold": _reaching(cells[label].config, runs[label], "seconds_to_threshold"),
            "train_seconds": {"median": float(np.median([record.values["train_seconds"] for record in runs[label]]))},
            "curve": _curves([record.curve for record in runs[label]]),
            "runs": [to_entry(record, origins) for record in runs[label]],
        }
        for label in cells
    }


def _solved(scores: Scores, threshold: float) -> dict[str, Any]:
    count = int((scores >= threshold).sum())
    return {"count": count, "share": listed(statistics.share(count, len(scores), CONFIDENCE))}


def _reaching(config: RunConfig, runs: Sequence[Record], key: str) -> dict[str, Any] | None:
    """Nothing where nobody looked: a threshold that was not looked for is not one that was never reached."""
    if config.threshold is None or not config.eval_every or config.periodic_episodes < EPISODES_THAT_COUNT:
        return None
    end = {"steps_to_threshold": "timesteps", "seconds_to_threshold": "train_seconds"}[key]
    found = time_to_event([record.values[key] for record in runs], [record.values[end] for record in runs], CONFIDENCE)
    return {"median": [found.median, found.low, found.high], "reached": found.reached}


def _curves(curves: Sequence[Curve]) -> dict[str, Any] | None:
    """Of the runs that were evaluated along the way."""
    known = [curve for curve in curves if curve.steps]
    if not known:
        return None
    return {axis: _curve([(getattr(curve, axis), curve.returns) for curve in known]) for axis in ("steps", "seconds")}


def _curve(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, list[float | None]]:
    """Curves over a common axis, from where all of them have begun to where the first one ends."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(start, max(start, end), POINTS if end > start else 1)
    returns = np.asarray([np.interp(grid, x, y) for x, y in curves])
    iqm, low, high = statistics.band(returns, confidence=CONFIDENCE, resamples=RESAMPLES)
    columns = {"x": grid, "iqm": iqm, "low": low, "high": high}
    return {name: numbers(values) for name, values in columns.items()}


def _load(records: Iterable[Record]) -> list[float] | None:
    """Lowest, median and highest load of the machine that runs met."""
    loads = [record.values["load"] for record in records if record.values["load"] is not None]
    return [float(value) for value in np.quantile(loads, (0.0, 0.5, 1.0))] if loads else None
