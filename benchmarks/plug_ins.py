"""Stock Stable-Baselines3 with the plug-in policies: does it learn, and what happens without them?

    python benchmarks/plug_ins.py                          # everything, 40 minutes on two cores
    python benchmarks/plug_ins.py --only sac ddpg --jobs 4
    python benchmarks/plug_ins.py --seeds 2 --only sac     # a quick look

Runs every setting on the seeds 0, 1, ... (none of them was used in tuning), and writes a table and
`benchmarks/results/plug_ins.json`. What the file holds already is not run again. A run's return is that of its final
policy over 100 episodes, taking the likeliest action, on episodes used for nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule

from agents.compare.fan_out import fan_out
from agents.compare.statistics import aggregates, share
from agents.machine import load_average, machine
from agents.run_directory import write_text_atomically
from agents.seeds import Purpose, episode_seed
from gumbel_rl.sb3 import (
    ActionMaskObservation,
    GumbelSACPolicy,
    GumbelTD3Policy,
    OneHotActions,
    TargetEntropyCallback,
    sac_defaults,
)

RESULT = Path(__file__).resolve().parent / "results" / "plug_ins.json"
CARTPOLE, COORDINATION = "CartPole-v1", "gumbel_rl/Coordination-v0"


@dataclass(frozen=True)
class Setting:
    """A way to train; `threshold` is the return that counts as solved, `target_entropy_ratio` a schedule."""

    says: str
    algorithm: type[SAC] | type[DDPG] = SAC
    env: str = CARTPOLE
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    timesteps: int = 20_000
    threshold: float = 475.0
    seeds: int = 5
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    target_entropy_ratio: str | None = None


# SAC's own settings, but for the networks' width and an entropy coefficient that is fixed.
STOCK: dict[str, Any] = {
    "learning_rate": 3e-4,
    "learning_starts": 100,
    "batch_size": 256,
    "tau": 0.005,
    "train_freq": 1,
    "gradient_steps": 1,
    "ent_coef": 0.1,
    "policy_kwargs": {"net_arch": [64, 64]},
}

SETTINGS = {
    "sac": Setting("SAC, `sac_defaults`", seeds=10),
    "mlp": Setting("an MLP critic on one-hots, no remedy", policy_kwargs={"critic": "mlp"}),
    "mlp-learnt": Setting(
        "the same, fitted between the one-hots too",
        policy_kwargs={"critic": "mlp", "critic_kwargs": {"interpolated_learning": True}},
    ),
    "interpolated": Setting("the same, interpolated between its one-hots", policy_kwargs={"critic": "interpolated"}),
    "action-linear": Setting("one output for each action", policy_kwargs={"critic": "action-linear"}),
    "stock-mlp": Setting(
        "SAC's own settings, an MLP critic on one-hots",
        timesteps=10_000,
        policy_kwargs={"critic": "mlp"},
        arguments=STOCK,
    ),
    "stock": Setting("SAC's own settings, the default critic", timesteps=10_000, arguments=STOCK),
    "ddpg": Setting("DDPG", DDPG, timesteps=30_000, threshold=400.0, seeds=10),
    "masked": Setting(
        "SAC, masked MultiDiscrete",
        env=COORDINATION,
        env_kwargs={"masked": True},
        timesteps=50_000,
        threshold=9.0,  # of 10, the optimum; what ignores the pairs or the future stays far below
        seeds=2,
    ),
}
SETTINGS["masked-annealed"] = replace(
    SETTINGS["masked"], says="the same, target entropy annealed", seeds=3, target_entropy_ratio="linear:0.7:0.05"
)


class InvalidActions(BaseCallback):
    """Counts the forbidden choices that were executed."""

    count = 0

    def _on_step(self) -> bool:
        self.count += sum(int(info.get("invalid_actions", 0)) for info in self.locals["infos"])
        return True


class Curve(BaseCallback):
    """Evaluates at `points` evenly spaced steps; the seconds this takes are not training's."""

    def __init__(self, setting: Setting, seed: int, points: int = 20) -> None:
        super().__init__()
        self.setting, self.seed = setting, seed
        self.every = setting.timesteps // points
        self.returns: list[float] = []
        self.seconds = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            start = time.perf_counter()
            mean, _ = evaluate(self.model, self.setting, Purpose.PERIODIC, self.seed, len(self.returns), episodes=5)
            self.returns.append(round(mean, 2))
            self.seconds += time.perf_counter() - start
        return True


def one_hot_env(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    import envs  # noqa: F401 - registers the coordination task, in every process

    env = gym.make(env_id, **kwargs)
    return OneHotActions(ActionMaskObservation(env) if kwargs.get("masked") else env)


def make_env(setting: Setting, seed: int) -> Any:
    return make_vec_env(lambda: one_hot_env(setting.env, **setting.env_kwargs), seed=seed)


def evaluate(
    model: BaseAlgorithm, setting: Setting, purpose: Purpose, seed: int, part: int = 0, episodes: int = 100
) -> tuple[float, float]:
    env = make_env(setting, episode_seed(purpose, seed, part))
    mean, std = evaluate_policy(model, env, episodes)
    env.close()
    assert isinstance(mean, float)
    assert isinstance(std, float)  # lists only where every episode is asked for
    return float(mean), float(std)


def run(item: tuple[str, int]) -> dict[str, Any]:
    """Train once; what is worth keeping of it."""
    name, seed = item
    setting = SETTINGS[name]
    torch.set_num_threads(1)
    env = make_env(setting, episode_seed(Purpose.TRAINING, seed))
    arguments = dict(setting.arguments)
    policy: type[Any] = GumbelSACPolicy
    if setting.algorithm is SAC:
        arguments = sac_defaults(env, **arguments)
    else:
        policy = GumbelTD3Policy
        arguments = DDPG_ARGUMENTS | arguments
    arguments["policy_kwargs"] = {**arguments.get("policy_kwargs", {}), **setting.policy_kwargs}
    model: Any = setting.algorithm(policy, env, seed=seed, device="cpu", **arguments)
    curve, invalid = Curve(setting, seed), InvalidActions()
    callbacks: list[BaseCallback] = [curve, invalid]
    if setting.target_entropy_ratio is not None:
        callbacks.append(TargetEntropyCallback(setting.target_entropy_ratio))
    load, start = load_average(), time.perf_counter()
    model.learn(setting.timesteps, callback=callbacks)
    seconds = time.perf_counter() - start - curve.seconds
    observations = model.replay_buffer.sample(1000).observations
    with torch.no_grad():
        entropy = float(model.actor.distribution(observations).entropy().mean())
    mean, std = evaluate(model, setting, Purpose.FINAL, seed)
    return {
        "return": round(mean, 2),
        "std": round(std, 2),
        "entropy_ratio": round(entropy / model.policy.factors.max_entropy, 3),
        "invalid_actions": invalid.count,
        "seconds": round(seconds, 1),
        "load": load,
        "curve": curve.returns,
    }


# With one critic, or without annealing the learning rate, it learns as quickly and now and then forgets.
DDPG_ARGUMENTS: dict[str, Any] = {
    "learning_rate": LinearSchedule(2e-3, 0.0, 1.0),
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "batch_size": 128,
    "tau": 0.02,
    "train_freq": 4,
    "gradient_steps": -1,
    "policy_kwargs": {"net_arch": [128, 128], "n_critics": 2, "ent_coef": 1.0},
}


def summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    setting = SETTINGS[name]
    returns = np.array([one["return"] for one in runs])
    iqm = aggregates({name: [returns]}, ["iqm"])[name]["iqm"]
    solved = share(int((returns >= setting.threshold).sum()), len(returns))
    return {
        "iqm": [round(float(value), 2) for value in (iqm.value, iqm.low, iqm.high)],
        "worst": float(returns.min()),
        "threshold": setting.threshold,
        "solved": [round(value, 3) for value in (solved.value, solved.low, solved.high)],
        "entropy_ratio": round(float(np.median([one["entropy_ratio"] for one in runs])), 3),
        "invalid_actions": sum(one["invalid_actions"] for one in runs),
        "seconds": round(float(np.median([one["seconds"] for one in runs])), 1),
    }


def table(settings: Mapping[str, dict[str, Any]]) -> Table:
    shown = Table("setting", "steps", "seeds", "return, IQM [95 %]", "worst", "solved", "H / max", "invalid", "s")
    for name, found in settings.items():
        iqm, setting = found["iqm"], SETTINGS[name]
        seeds = len(found["runs"])
        shown.add_row(
            setting.says,
            f"{setting.timesteps:,}",
            str(seeds),
            f"{iqm[0]:.1f} [{iqm[1]:.1f}, {iqm[2]:.1f}]",
            f"{found['worst']:.1f}",
            f"{round(found['solved'][0] * seeds)} of {seeds}",
            f"{found['entropy_ratio']:.2f}",
            str(found["invalid_actions"]),
            f"{found['seconds']:.0f}",
        )
    return shown


def written(results: dict[str, Any]) -> str:
    """JSON, a run on each line."""
    head = {key: value for key, value in results.items() if key != "settings"}
    parts = []
    for name, found in results["settings"].items():
        about = {key: value for key, value in found.items() if key != "runs"}
        runs = ",\n".join(f'   "{seed}": {json.dumps(one)}' for seed, one in found["runs"].items())
        parts.append(f'  "{name}": {json.dumps(about)[:-1]}, "runs": {{\n{runs}\n  }}}}')
    return f'{json.dumps(head)[:-1]}, "settings": {{\n' + ",\n".join(parts) + "\n}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="settings to run (all)")
    parser.add_argument("--seeds", type=int, help="of each setting (10, 5 or 3)")
    parser.add_argument("--jobs", type=int, help="processes (one for each core)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file to write, and to go on with")
    args = parser.parse_args()
    results: dict[str, Any] = {"settings": {}}
    if args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = results["settings"]
    items = [
        (name, seed)
        for name in args.only
        for seed in range(args.seeds or SETTINGS[name].seeds)
        if str(seed) not in found.get(name, {}).get("runs", {})
    ]
    names = ("gumbel-rl", "gymnasium", "stable-baselines3", "torch")
    results |= {"versions": {name: version(name) for name in names}, "machine": machine()}
    console = Console()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for done in track(fan_out(run, items, jobs=args.jobs), description="runs", total=len(items), console=console):
        name, seed = done.item
        if done.value is None:
            console.print(f"{name}, seed {seed}: {done.error}", style="red")
            continue
        runs = found.setdefault(name, {"runs": {}})["runs"]
        runs[str(seed)] = done.value
        ordered = dict(sorted(runs.items(), key=lambda pair: int(pair[0])))
        found[name] = {"says": SETTINGS[name].says, **summary(name, list(ordered.values())), "runs": ordered}
        results["settings"] = {name: found[name] for name in SETTINGS if name in found}
        text = written(results)
        write_text_atomically(args.out, text)
    console.print(table(results["settings"]))
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
