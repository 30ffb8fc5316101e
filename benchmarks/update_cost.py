"""What an update of `GumbelSAC` costs as actions get larger: D factors of 10 choices, D from 4 to 256.

    python benchmarks/update_cost.py                # 2 minutes on one core
    python benchmarks/update_cost.py --repeats 3    # a quick look

Times are CPU seconds in one thread on batches of the coordination task, all sizes in turns; a cost is the median over
the turns. The slope is that of the logarithm of the cost over the logarithm of `D * K`, by least squares over all
sizes: below 1, an update grows more slowly than the action. Writes
`benchmarks/results/update_cost.json` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env

import envs  # noqa: F401 - registers the task
from agents.machine import load_average, machine
from agents.result import versions
from gumbel_rl import GumbelSAC

RESULT = Path(__file__).resolve().parent / "results" / "update_cost.json"
FACTORS = (4, 8, 16, 32, 64, 128, 256)
CHOICES = 10
UPDATES = 10  # a turn
SETTINGS: dict[str, dict[str, Any]] = {
    "multilinear, exact": {"estimator": "exact"},
    "multilinear, st-gumbel-softmax": {"estimator": "st-gumbel-softmax"},
    "additive, exact": {"estimator": "exact", "policy_kwargs": {"critic": "additive"}},
    "mlp, rloo of 4": {"estimator": "rloo", "policy_kwargs": {"critic": "mlp"}},
}


def make(factors: int, settings: dict[str, Any]) -> GumbelSAC:
    """An agent whose replay buffer holds a few random episodes, with a logger."""
    env = make_vec_env("gumbel_rl/Coordination-v0", 1, seed=0, env_kwargs={"factors": factors, "choices": CHOICES})
    agent = GumbelSAC("MlpPolicy", env, seed=0, device="cpu", diagnostics_interval=0, **settings)
    return agent.learn(500)  # fewer steps than it has before its first update


def seconds(agent: GumbelSAC) -> float:
    """CPU seconds of an update."""
    start = time.process_time()
    agent.train(UPDATES, agent.batch_size)
    return (time.process_time() - start) / UPDATES


def slope(costs: list[float]) -> float:
    """Of the logarithm of the cost, over that of the action's width."""
    return float(np.polyfit(np.log(np.array(FACTORS) * CHOICES), np.log(costs), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns (15)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    agents = {(name, size): make(size, settings) for name, settings in SETTINGS.items() for size in FACTORS}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in agents}
    load = load_average()
    for turn in track(range(args.repeats + 1), description="turns", console=console):
        for key, agent in agents.items():
            cost = seconds(agent)
            if turn:  # the first warms up
                times[key].append(cost)
    found = {}
    shown = Table(title="ms an update with D factors")
    shown.add_column("critic, estimator", no_wrap=True)
    for size in FACTORS:
        shown.add_column(str(size), justify="right")
    shown.add_column("slope", justify="right")
    for name in SETTINGS:
        costs = [float(np.median(times[name, size])) for size in FACTORS]
        found[name] = {"ms": [round(1000 * cost, 3) for cost in costs], "slope": round(slope(costs), 3)}
        shown.add_row(name, *(f"{1000 * cost:.2f}" for cost in costs), f"{slope(costs):.2f}")
    about = {"versions": versions(), "machine": machine(), "load": load, "repeats": args.repeats}
    result = {**about, "factors": FACTORS, "choices": CHOICES, "settings": found}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(shown)
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
