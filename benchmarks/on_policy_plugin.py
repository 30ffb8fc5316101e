"""Stock PPO with `GumbelActorCriticPolicy` against stock PPO with "MlpPolicy": time of a step, and learning curves.

    python benchmarks/on_policy_plugin.py                            # 5 minutes on one core
    python benchmarks/on_policy_plugin.py --seeds 3 --repeats 3      # a quick look

Times are CPU seconds of `learn()` in one thread, on an environment that costs next to nothing, the two policies in
turns; their ratio is the interquartile mean over the turns with its 95 % interval. Learning is on CartPole-v1 with the
settings of rl-baselines3-zoo, which were tuned for "MlpPolicy": at each checkpoint the return of the likeliest actions
over 20 episodes, its mean over seeds, and the difference of the means with Welch's 95 % interval. Without masks both
policies are the same distribution for the same weights: no difference is expected, and what differs is the noise that
draws the actions. Writes `benchmarks/results/on_policy_plugin.json` and prints two tables.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.compare.fan_out import fan_out
from agents.compare.statistics import CONFIDENCE, aggregates
from agents.machine import load_average, machine
from agents.result import versions
from agents.scoring import play
from agents.seeds import Purpose, episode_seed
from gumbel_rl.sb3 import GumbelActorCriticPolicy

RESULT = Path(__file__).resolve().parent / "results" / "on_policy_plugin.json"
POLICIES: dict[str, Any] = {"stock": "MlpPolicy", "plug-in": GumbelActorCriticPolicy}
SPACES: dict[str, spaces.Space[Any]] = {
    **{f"MultiDiscrete([4] * {n})": spaces.MultiDiscrete([4] * n) for n in (1, 4, 32, 128)},
    "Discrete(4)": spaces.Discrete(4),
    "MultiBinary(32)": spaces.MultiBinary(32),
}
# Of the timing: 8 environments, 256 steps and 4 epochs an update, minibatches of 64.
TIMED: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 4}
TIMED_ENVIRONMENTS = 8
TIMED_STEPS = 512
# hyperparams/ppo.yml of rl-baselines3-zoo, commit 22e3ff2.
ZOO: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": LinearSchedule(0.001, 0.0, 1.0),
    "clip_range": LinearSchedule(0.2, 0.0, 1.0),
}
ZOO_ENVIRONMENTS = 8
CHECKPOINTS = (5_000, 10_000, 15_000, 20_000, 30_000, 40_000, 50_000)
EPISODES = 20


class Matches(gym.Env[Any, Any]):
    """Eight numbers are observed; the reward is the share of the action's factors that match a fixed target."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space = spaces.Box(-1, 1, (8,), np.float32)
        self.action_space = action_space
        self.target = np.random.default_rng(0).integers(2, size=action_space.shape)
        self.observation = np.linspace(-1, 1, 8, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return self.observation, {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.observation, float(np.mean(action == self.target)), False, self.time == 100, {}


def step_times(space: spaces.Space[Any], repeats: int) -> dict[str, list[float]]:
    """CPU seconds a step of the environments, turn by turn."""
    models = {
        name: PPO(policy, make_vec_env(lambda: Matches(space), TIMED_ENVIRONMENTS), seed=0, device="cpu", **TIMED)
        for name, policy in POLICIES.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):
        for name in list(models)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            models[name].learn(TIMED_STEPS, reset_num_timesteps=False)
            if turn:  # the first is to warm up
                times[name].append((time.process_time() - start) / TIMED_STEPS)
    return times


def speed(space: str, repeats: int) -> dict[str, Any]:
    """A row of the first table: medians in microseconds, and how many times faster the plug-in is."""
    times = step_times(SPACES[space], repeats)
    ratios = np.asarray(times["stock"]) / np.asarray(times["plug-in"])
    medians = {name: round(1e6 * float(np.median(values)), 1) for name, values in times.items()}
    return {
        "space": space,
        "microseconds_a_step": medians,
        "stock_over_plug_in": rounded(aggregates({"": [ratios]}, ("iqm",))[""]["iqm"]),
    }


@dataclass(frozen=True)
class Run:
    """A run of learning."""

    policy: str
    seed: int


class Checkpoints(BaseCallback):
    """Plays episodes of evaluation whenever a checkpoint is passed."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        super().__init__()
        self.env, self.seed = env, seed
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        part = len(self.returns)
        if part < len(CHECKPOINTS) and self.num_timesteps >= CHECKPOINTS[part]:
            seed = episode_seed(Purpose.PERIODIC, self.seed, part)
            # The likeliest actions draw no random numbers: training goes on as if nobody had looked.
            self.returns.append(play(self.model, self.env, EPISODES, deterministic=True, seed=seed).mean)
        return True


def learning_curve(run: Run) -> list[float]:
    """Mean return at each checkpoint."""
    torch.set_num_threads(1)
    env = make_vec_env("CartPole-v1", ZOO_ENVIRONMENTS, seed=episode_seed(Purpose.TRAINING, run.seed))
    # PPO seeds its environments again, from its own seed.
    model = PPO(POLICIES[run.policy], env, seed=episode_seed(Purpose.TRAINING, run.seed), device="cpu", **ZOO)
    callback = Checkpoints(make_vec_env("CartPole-v1", EPISODES), run.seed)
    model.learn(CHECKPOINTS[-1], callback=callback)
    return callback.returns


def learning(seeds: int, jobs: int) -> dict[str, Any]:
    """The second table: returns of every run, their means, and the difference."""
    runs = [Run(policy, seed) for seed in range(seeds) for policy in POLICIES]
    found: dict[Run, list[float]] = {}
    with closing(fan_out(learning_curve, runs, jobs=jobs)) as finished:
        for one in track(finished, description="learning", total=len(runs)):
            if one.value is None:
                raise SystemExit(f"{one.item}: {one.error}")
            found[one.item] = one.value
    returns = {name: np.asarray([found[Run(name, seed)] for seed in range(seeds)]) for name in POLICIES}
    means = {name: aggregates({str(c): [x] for c, x in enumerate(r.T)}, ("mean",)) for name, r in returns.items()}
    return {
        "checkpoints": CHECKPOINTS,
        "seeds": seeds,
        "episodes": EPISODES,
        "mean": {name: [rounded(mean["mean"]) for mean in values.values()] for name, values in means.items()},
        "plug_in_minus_stock": [
            difference(own, stock) for own, stock in zip(returns["plug-in"].T, returns["stock"].T, strict=True)
        ],
        "plug_in_minus_stock_over_checkpoints": difference(returns["plug-in"].mean(1), returns["stock"].mean(1)),
        "returns": {name: r.round(2).tolist() for name, r in returns.items()},
    }


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[float | None]:
    """Difference of the means, and Welch's interval: none where all runs of both are equal."""
    value = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2 or not a.std() + b.std():
        return [round(value, 3), None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all runs of one of the two are equal, which is no harm
        interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(CONFIDENCE)
    return rounded((value, interval.low, interval.high))


def rounded(numbers: Any) -> list[float | None]:
    """To 4 digits; NaN, which JSON has not, becomes null."""
    return [float(f"{number:.4g}") if np.isfinite(number) else None for number in numbers]


def shown(interval: list[float | None], digits: int) -> str:
    value, *ends = (f"{number:.{digits}f}" if number is not None else "?" for number in interval)
    return f"{value} [{', '.join(ends)}]"


def tables(result: dict[str, Any]) -> list[Table]:
    first = Table("action space", "stock, μs a step", "plug-in, μs a step", "stock / plug-in", title="Time of learn()")
    for row in result["speed"]:
        times = (f"{row['microseconds_a_step'][name]:.0f}" for name in POLICIES)
        first.add_row(row["space"], *times, shown(row["stock_over_plug_in"], 2))
    found = result["learning"]
    second = Table("step", *POLICIES, "difference", title=f"Return on CartPole-v1, {found['seeds']} seeds")
    for number, steps in enumerate(CHECKPOINTS):
        means = (shown(found["mean"][name][number], 0) for name in POLICIES)
        second.add_row(f"{steps:,}", *means, shown(found["plug_in_minus_stock"][number], 0))
    second.add_row("mean of these", "", "", shown(found["plug_in_minus_stock_over_checkpoints"], 0))
    return [first, second]


def written(result: dict[str, Any]) -> str:
    """JSON, a line for each key of the two levels above the numbers."""
    lines = []
    for key, value in result.items():
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if parts is None:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        named = isinstance(value, dict)
        rows = ",\n".join("  " + (f"{json.dumps(name)}: " if named else "") + json.dumps(part) for name, part in parts)
        lines.append(f"{json.dumps(key)}: {'{['[not named]}\n{rows}\n{'}]'[not named]}")
    return "{" + ",\n".join(lines) + "}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="runs of learning of each policy (10)")
    parser.add_argument("--repeats", type=int, default=12, help="turns of the timing (12)")
    parser.add_argument("--jobs", type=int, default=1, help="runs of learning at a time (1)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file to write")
    args = parser.parse_args()
    if min(args.seeds, args.repeats, args.jobs) < 1:
        parser.error("--seeds, --repeats and --jobs: at least 1")
    start = time.perf_counter()
    torch.set_num_threads(1)
    rows = [speed(space, args.repeats) for space in track(SPACES, description="speed")]
    result: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "confidence": CONFIDENCE,
        "versions": versions(),
        "machine": machine() | {"load": load_average()},
        "speed": rows,
        "learning": learning(args.seeds, args.jobs),
    }
    result["seconds"] = round(time.perf_counter() - start)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(written(result), encoding="utf-8")
    console = Console()
    for table in tables(result):
        console.print(table)
    console.print(f"{result['seconds']} s; written to {args.out}")


if __name__ == "__main__":
    main()
