"""The continuous peer of a discretised task: stock Stable-Baselines3 SAC, default settings, on the task as it is.

    python benchmarks/continuous_peer.py                  # HalfCheetah-v5, 3 seeds of 100k steps: an hour on one core
    python benchmarks/continuous_peer.py --env Hopper-v5 --seeds 5

A return is that of the final policy, its mean action, over as many episodes as the agents of the comparison are
evaluated on, on the same episodes. Runs that `benchmarks/results/continuous_peer.json` holds are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env

from agents.machine import load_average, machine
from agents.result import versions
from agents.run_directory import write_text_atomically
from agents.scoring import play
from agents.seeds import Purpose, episode_seed

RESULT = Path(__file__).resolve().parent / "results" / "continuous_peer.json"


def run(env_id: str, timesteps: int, seed: int, episodes: int) -> dict[str, Any]:
    """Train and evaluate one agent."""
    load, start = load_average(), time.perf_counter()
    training = make_vec_env(env_id, 1, seed=episode_seed(Purpose.TRAINING, seed))
    model = SAC("MlpPolicy", training, seed=seed, device="cpu").learn(timesteps)
    seconds = time.perf_counter() - start
    evaluation = make_vec_env(env_id, min(episodes, 10))
    score = play(model, evaluation, episodes, deterministic=True, seed=episode_seed(Purpose.FINAL, seed))
    return {
        "env": env_id,
        "timesteps": timesteps,
        "seed": seed,
        "return": round(score.mean, 2),
        "episodes": episodes,
        "train_seconds": round(seconds, 1),
        "load": load,
        "versions": versions(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5", help="an environment with continuous actions")
    parser.add_argument("--timesteps", type=int, default=100_000, help="of a run (100000)")
    parser.add_argument("--seeds", type=int, default=3, help="runs, with seeds from 0 on (3)")
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation (100)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file to add to")
    args = parser.parse_args()
    if not isinstance(gym.make(args.env).action_space, gym.spaces.Box):
        parser.error(f"{args.env} has no continuous actions")
    torch.set_num_threads(1)
    console = Console()

    runs: list[dict[str, Any]] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else []
    held = {(found["env"], found["timesteps"], found["seed"]) for found in runs}
    for seed in track(range(args.seeds), description="runs", console=console):
        if (args.env, args.timesteps, seed) in held:
            continue
        runs.append(run(args.env, args.timesteps, seed, args.episodes))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(runs, indent=1) + "\n"
        write_text_atomically(args.out, text)  # runs are long

    table = Table("env", "steps", "seed", "return", "training, s", title="SAC, continuous actions")
    for found in runs:
        cells = (found["timesteps"], found["seed"], found["return"], found["train_seconds"])
        table.add_row(found["env"], *map(str, cells))
    console.print(table)


if __name__ == "__main__":
    main()
