"""The figures of the README: our agents and their peers on classic control, many seeds, one process a run.

    python benchmarks/foundation.py                        # everything, about an hour on two cores
    python benchmarks/foundation.py cartpole --seeds 5     # one part, fewer seeds

Every run is a plain `train_agent.py` command in a process of its own, one at a time, the agents of a part in turn for
each seed, so that a change of the machine's load falls on all of them. Finished runs are kept under `benchmarks/runs`
and not repeated. The seeds (0, 1, 2, ...) were never used for tuning, which used seeds from 1000 on.

Writes `benchmarks/results/<part>.json` and `docs/assets/learning-curves.png`, and prints a table.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import bootstrap, trim_mean

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benchmarks" / "runs"
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "assets" / "learning-curves.png"


@dataclass(frozen=True)
class Entry:
    """One agent in one part: a row of the table."""

    agent: str
    timesteps: int
    options: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return " ".join((self.agent, *self.options))


@dataclass(frozen=True)
class Part:
    """Agents on one environment."""

    env: str
    seeds: int
    eval_every: int
    entries: tuple[Entry, ...]


PARTS = {
    "cartpole": Part(
        "CartPole-v1",
        seeds=20,
        eval_every=1000,
        entries=(
            Entry("gumbel-ac", 50_000),
            Entry("a2c", 50_000),
            Entry("ppo", 100_000),
        ),
    ),
    "estimators": Part(
        "CartPole-v1",
        seeds=20,
        eval_every=1000,
        entries=(
            Entry("gumbel-ac", 50_000, ("--estimator", "exact")),
            Entry("gumbel-ac", 50_000, ("--estimator", "score-function")),
        ),
    ),
    "reinforce": Part("CartPole-v1", seeds=20, eval_every=2500, entries=(Entry("reinforce", 150_000),)),
    "acrobot": Part("Acrobot-v1", seeds=10, eval_every=10_000, entries=(Entry("gumbel-ac", 100_000),)),
}


def command(part: Part, entry: Entry, seed: int) -> tuple[list[str], Path]:
    """The command line of a run and its run directory."""
    run_dir = RUNS / part.env / entry.label.replace(" ", "") / f"seed{seed}"
    options = {"--env": part.env, "--agent": entry.agent, "--timesteps": entry.timesteps, "--seed": seed}
    options |= {"--eval-every": part.eval_every, "--run-dir": run_dir}
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "train_agent.py", *words, *entry.options, "--no-progress"], run_dir


def run(part: Part, entry: Entry, seed: int) -> dict[str, Any]:
    """The result of a run, made now unless it is already there."""
    words, run_dir = command(part, entry, seed)
    result = run_dir / "result.json"
    timing = run_dir / "process.json"
    if not (result.exists() and timing.exists()):
        load, begin = os.getloadavg()[0], time.perf_counter()
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\nended with status {done.returncode}:\n{done.stderr}")
        timing.write_text(json.dumps({"process_seconds": time.perf_counter() - begin, "load_before": load}))
    return {**json.loads(result.read_text()), **json.loads(timing.read_text()), "curve": curve(run_dir)}


def curve(run_dir: Path) -> list[tuple[int, float]]:
    """Environment steps and mean return of every periodic evaluation."""
    with (run_dir / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("eval/mean_reward")]
    return [(int(float(row["time/total_timesteps"])), round(float(row["eval/mean_reward"]), 1)) for row in rows]


def help_seconds(repeats: int = 7) -> float:
    """Median seconds of `train_agent.py --help`, as a process."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "train_agent.py", "--help"], cwd=ROOT, capture_output=True, check=True)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def censored_median(values: list[float | None]) -> float:
    """Median with runs that never got there counted as infinitely late."""
    return float(np.median([np.inf if value is None else value for value in values]))


def interval(values: list[float], statistic: Any) -> list[float]:
    """95 % bootstrap interval over seeds."""
    if len(set(values)) < 2:
        return [values[0], values[0]]
    rng = np.random.default_rng(0)
    found = bootstrap((np.asarray(values),), statistic, method="percentile", rng=rng).confidence_interval
    return [float(found.low), float(found.high)]


def iqm(values: Any, axis: int = -1) -> NDArray[np.float64]:
    """Interquartile mean."""
    return np.asarray(trim_mean(values, 0.25, axis=axis))


def summarise(part: Part, entry: Entry, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What is reported of one agent."""
    returns = [result["eval_return_mean"] for result in results]
    threshold = results[0]["threshold"]
    seconds = [result["seconds_to_threshold"] for result in results]
    finite = [np.inf if value is None else value for value in seconds]
    return {
        "command": " ".join(["python", *command(part, entry, 0)[0][1:]]).replace(str(ROOT) + "/", ""),
        "seeds": [result["seed"] for result in results],
        "returns": returns,
        "stochastic_returns": [result["eval_return_stochastic_mean"] for result in results],
        "return_iqm": float(iqm(returns)),
        "return_iqm_95": interval(returns, iqm),
        "threshold": threshold,
        "seeds_at_threshold": sum(value >= threshold for value in returns),
        "steps_to_threshold": [result["steps_to_threshold"] for result in results],
        "steps_to_threshold_median": censored_median([result["steps_to_threshold"] for result in results]),
        "seconds_to_threshold": seconds,
        "seconds_to_threshold_median": censored_median(seconds),
        "seconds_to_threshold_median_95": interval(finite, np.median) if np.isfinite(finite).all() else None,
        "train_seconds_median": float(np.median([result["train_seconds"] for result in results])),
        "process_seconds_median": float(np.median([result["process_seconds"] for result in results])),
        "process_seconds_max": max(result["process_seconds"] for result in results),
        "load_before_median": float(np.median([result["load_before"] for result in results])),
        "curves": [result["curve"] for result in results],
    }


def table(part: Part, summaries: dict[str, dict[str, Any]]) -> Table:
    """The figures for a reader."""
    view = Table(title=f"{part.env}, {len(next(iter(summaries.values()))['seeds'])} seeds")
    for column in ("agent", "return, IQM [95 %]", "worst", "at threshold", "steps", "seconds", "process, s"):
        view.add_column(column, justify="left" if column == "agent" else "right")
    for label, row in summaries.items():
        low, high = row["return_iqm_95"]
        view.add_row(
            label,
            f"{row['return_iqm']:.1f} [{low:.1f}, {high:.1f}]",
            f"{min(row['returns']):.1f}",
            f"{row['seeds_at_threshold']}/{len(row['seeds'])}",
            f"{row['steps_to_threshold_median']:.0f}",
            f"{row['seconds_to_threshold_median']:.2f}",
            f"{row['process_seconds_median']:.1f}",
        )
    return view


def draw(parts: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Learning curves on CartPole: the median over seeds and the band from the first to the third quartile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {
        "gumbel-ac": "gumbel-ac (straight-through Gumbel-softmax)",
        "reinforce": "reinforce (value baseline)",
        "a2c": "SB3 A2C",
        "ppo": "SB3 PPO",
    }
    summaries = {**parts.get("reinforce", {}), **parts.get("cartpole", {})}
    figure, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
    for colour, (agent, label) in zip(("C3", "C7", "C0", "C2"), shown.items(), strict=True):
        if agent not in summaries:
            continue
        curves = summaries[agent]["curves"]
        # Evaluations fall between updates, so each run has steps of its own.
        steps = np.arange(0, 50_001, 1000)
        returns = np.asarray([np.interp(steps, *zip(*one, strict=True), left=np.nan) for one in curves])
        low, middle, high = np.quantile(returns, [0.25, 0.5, 0.75], axis=0)  # nan before every run has been evaluated
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, middle, color=colour, label=f"{label}, {len(curves)} seeds")
    axes.axhline(475, color="0.6", linewidth=0.8, linestyle="--")
    axes.text(50_000, 468, "solved: 475", ha="right", va="top", color="0.4", fontsize="small")
    axes.set(xlabel="environment steps", ylabel="return of 20 deterministic episodes", xlim=(0, 50_000), ylim=(0, 510))
    axes.set_title("CartPole-v1: median over seeds, quartiles shaded", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize="small")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


def main() -> None:
    """Run the chosen parts and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if omitted")
    parser.add_argument("--seeds", type=int, help="seeds of each agent, instead of the part's own number")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; known are {', '.join(PARTS)}")
    console = Console()
    console.print(f"train_agent.py --help: median {help_seconds():.2f} s of 7")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in arguments.parts or PARTS:
        part = PARTS[name]
        jobs = [(entry, seed) for seed in range(arguments.seeds or part.seeds) for entry in part.entries]
        results: dict[Entry, list[dict[str, Any]]] = {entry: [] for entry in part.entries}
        for entry, seed in track(jobs, f"{name}", console=console):
            results[entry].append(run(part, entry, seed))
        found[name] = {entry.label: summarise(part, entry, results[entry]) for entry in part.entries}
        report = {
            "env": part.env,
            "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
            "versions": results[part.entries[0]][0]["versions"],
            "agents": found[name],
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(report, separators=(",", ":")) + "\n")
        console.print(table(part, found[name]))
    if "cartpole" in found:
        draw(found)


if __name__ == "__main__":
    main()
