"""Comparisons made up from random numbers, in the layout of `comparison.json`, for tests of what is shown of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import trim_mean


@dataclass(frozen=True)
class Task:
    """An environment: how good agents get on it, `scale` being from random to perfect."""

    threshold: float | None = 475.0
    random_return: float | None = 22.0
    lowest: float = 8.0
    highest: float = 500.0


@dataclass(frozen=True)
class Player:
    """An agent: the share of the scale that it reaches, its spread over seeds, its speed and its training."""

    skill: float = 0.9
    spread: float = 0.1
    speed: float = 0.25
    timesteps: int = 50_000
    seconds: float = 5.0
    settings: dict[str, Any] = field(default_factory=lambda: {"learning_rate": "linear:5e-3:0", "n_steps": 32})


def comparison(
    tasks: dict[str, Task], players: dict[str, Player], *, seeds: int = 5, points: int = 12, **keys: Any
) -> dict[str, Any]:
    """A whole comparison; `keys` replace what stands at the top of it."""
    rng = np.random.default_rng(0)
    environments = {name: environment(name, task, players, seeds, points, rng) for name, task in tasks.items()}
    labels = " ".join(players)
    return {
        "format": 1,
        "command": f"python -m agents.compare --envs {' '.join(tasks)} --agents {labels} --seeds {seeds} --out out",
        "date": "2026-03-01T12:00:00+00:00",
        "confidence": 0.95,
        "resamples": 2000,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": {
            "cpu": "Some CPU @ 2.5 GHz",
            "cores": 2,
            "memory_gb": 15.6,
            "os": "Linux 6.1",
            "load": [0.25, 1.5, 2.75],
        },
        "not_applicable": [],
        "failed": [],
        "missing": [],
        "environments": environments,
        "across": across(environments, list(players)),
    } | keys


def environment(
    name: str, task: Task, players: dict[str, Player], seeds: int, points: int, rng: np.random.Generator
) -> dict[str, Any]:
    agents = {label: agent(name, task, label, player, seeds, points, rng) for label, player in players.items()}
    finals = {label: scores(entry) for label, entry in agents.items()}
    levels = np.linspace(task.lowest, task.highest, 41)
    return {
        "threshold": task.threshold,
        "random_return": task.random_return,
        "agents": agents,
        "improvement": improvement(finals, rng),
        "profiles": profiles(finals, levels),
    }


def agent(
    env: str, task: Task, label: str, player: Player, seeds: int, points: int, rng: np.random.Generator
) -> dict[str, Any]:
    steps = np.linspace(player.timesteps / points, player.timesteps, points).round().astype(int)
    seconds = steps / player.timesteps * player.seconds
    levels = np.clip(rng.normal(player.skill, player.spread, seeds), 0, 1)
    middles = player.speed * np.exp(rng.normal(0, 0.3, seeds))
    progress = 1 / (1 + np.exp(-(steps / player.timesteps - middles[:, None]) / 0.06))
    noise = rng.normal(0, 0.03, progress.shape)
    curves = task.lowest + (task.highest - task.lowest) * np.clip(levels[:, None] * progress + noise, 0, 1)
    runs = []
    for seed, curve in enumerate(curves):
        passed = np.flatnonzero(curve >= task.threshold) if task.threshold is not None else np.zeros(0, int)
        first = int(passed[0]) if len(passed) else None
        final = float(
            np.clip(curve[-1] + rng.normal(0, 0.01) * (task.highest - task.lowest), task.lowest, task.highest)
        )
        runs.append(
            {
                "seed": seed,
                "eval_return_mean": final,
                "eval_return_std": 1.0,
                "eval_return_stochastic_mean": final * 0.98,
                "timesteps": player.timesteps,
                "train_seconds": player.seconds,
                "steps_to_threshold": None if first is None else int(steps[first]),
                "seconds_to_threshold": None if first is None else float(seconds[first]),
                "curve": {"steps": steps.tolist(), "seconds": seconds.tolist(), "returns": curve.tolist()},
            }
        )
    final = np.array([run["eval_return_mean"] for run in runs])
    entry: dict[str, Any] = {
        "command": f"python train_agent.py --env {env} --agent {label} --timesteps {player.timesteps} --seed 0",
        "timesteps": player.timesteps,
        "settings": player.settings,
        "seeds": list(range(seeds)),
        "return": aggregates(final, rng) | {"min": final.min().item(), "max": final.max().item()},
        "stochastic_return": {"iqm": estimate(final * 0.98, iqm, rng)},
        "normalized": None,
        "solved": None,
        "steps_to_threshold": None,
        "seconds_to_threshold": None,
        "train_seconds": {"median": player.seconds},
        "curve": {"steps": band(steps, curves), "seconds": band(seconds, curves)},
        "runs": runs,
    }
    if task.threshold is not None:
        solved = final >= task.threshold
        entry["solved"] = {"count": int(solved.sum()), "share": estimate(solved.astype(float), np.mean, rng)}
        for unit in ("steps", "seconds"):
            entry[f"{unit}_to_threshold"] = to_threshold([run[f"{unit}_to_threshold"] for run in runs])
        if task.random_return is not None:
            normal = (final - task.random_return) / (task.threshold - task.random_return)
            entry["normalized"] = aggregates(normal, rng) | {"optimality_gap": estimate(normal, gap, rng)}
    return entry


def across(environments: dict[str, Any], labels: list[str]) -> dict[str, Any] | None:
    rng = np.random.default_rng(1)
    normal: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    names = [name for name, entry in environments.items() if entry["threshold"] and entry["random_return"] is not None]
    if len(names) < 2:
        return None
    for name in names:
        entry = environments[name]
        low, span = entry["random_return"], entry["threshold"] - entry["random_return"]
        for label in labels:
            normal[label].append((scores(entry["agents"][label]) - low) / span)
    stacked = {label: np.concatenate(values) for label, values in normal.items()}
    return {
        "environments": {name: {"seeds": [len(normal[labels[0]][0])] * 2} for name in names},
        "left_out": [],
        "agents": {
            label: aggregates(values, rng) | {"optimality_gap": estimate(values, gap, rng)}
            for label, values in stacked.items()
        },
        "improvement": improvement(stacked, rng),
        "profiles": profiles(stacked, np.linspace(0, 1.2, 41)),
    }


def scores(entry: dict[str, Any]) -> np.ndarray:
    return np.array([run["eval_return_mean"] for run in entry["runs"]])


def iqm(values: np.ndarray) -> float:
    return float(trim_mean(values, 0.25))


def gap(values: np.ndarray) -> float:
    return float(1 - np.minimum(values, 1).mean())


def estimate(values: np.ndarray, statistic, rng: np.random.Generator, resamples: int = 20) -> list[float | None]:
    value = float(statistic(values))
    if len(values) == 1:
        return [value, None, None]
    drawn = [float(statistic(rng.choice(values, len(values)))) for _ in range(resamples)]
    return [value, *np.quantile(drawn, (0.025, 0.975)).tolist()]


def aggregates(values: np.ndarray, rng: np.random.Generator) -> dict[str, list[float | None]]:
    return {
        name: estimate(values, statistic, rng)
        for name, statistic in {"iqm": iqm, "median": np.median, "mean": np.mean}.items()
    }


def to_threshold(times: list[float | None]) -> dict[str, Any]:
    def at(share: float) -> float | None:
        value = np.quantile([np.inf if time is None else time for time in times], share, method="higher")
        return None if np.isinf(value) else float(value)

    return {"median": [at(0.5), at(0.2), at(0.8)], "reached": sum(time is not None for time in times)}


def band(x: np.ndarray, curves: np.ndarray) -> dict[str, list[float]]:
    middle = trim_mean(curves, 0.25, axis=0)
    half = 2 * curves.std(axis=0) / np.sqrt(len(curves))
    return {"x": x.tolist(), "iqm": middle.tolist(), "low": (middle - half).tolist(), "high": (middle + half).tolist()}


def improvement(values: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
    def chance(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a[:, None] > b) + 0.5 * (a[:, None] == b)).mean())

    def one(a: np.ndarray, b: np.ndarray) -> list[float]:
        drawn = [chance(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(20)]
        return [chance(a, b), *np.quantile(drawn, (0.025, 0.975)).tolist()]

    return {a: {b: one(values[a], values[b]) for b in values if b != a} for a in values}


def profiles(values: dict[str, np.ndarray], levels: np.ndarray) -> dict[str, Any]:
    def one(scores: np.ndarray) -> dict[str, list[float]]:
        share = (scores[:, None] > levels).mean(axis=0)
        half = 2 * np.sqrt(share * (1 - share) / len(scores))
        low, high = np.clip(share - half, 0, 1), np.clip(share + half, 0, 1)
        return {"share": share.tolist(), "low": low.tolist(), "high": high.tolist()}

    return {"thresholds": levels.tolist(), "agents": {label: one(scores) for label, scores in values.items()}}
