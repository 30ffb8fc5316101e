"""RL Baselines3 Zoo: the example files are right, and the real rl_zoo3 trains, evaluates and resumes with them."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import DDPG, PPO, SAC

import envs  # noqa: F401 - registers the bandit
from gumbel_rl.sb3 import GumbelSACPolicy, OneHotActions, sac_defaults

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "rl_zoo3"
ALGORITHMS = {"sac": SAC, "ddpg": DDPG, "ppo": PPO}
ENVS = ["CartPole-v1", "gumbel_rl/FactoredBandit-v0"]
# What the zoo takes for itself before the rest goes to the algorithm.
ZOO_KEYS = {"policy", "env_wrapper", "callback", "n_envs", "n_timesteps"}
BLOCKS = [(algo, env_id) for algo in ALGORITHMS for env_id in ENVS]


def block(algo: str, env_id: str) -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / f"{algo}.yml").read_text())[env_id]


def by_name(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def settings(algo: str, env_id: str) -> dict[str, Any]:
    """What remains for the algorithm, its linear schedules replaced by their first value."""
    rest = {key: value for key, value in block(algo, env_id).items() if key not in ZOO_KEYS}
    return {key: float(v.removeprefix("lin_")) if str(v).startswith("lin_") else v for key, v in rest.items()}


@pytest.mark.parametrize(("algo", "env_id"), BLOCKS)
def test_every_block_names_what_exists_and_is_accepted(algo: str, env_id: str) -> None:
    entry = block(algo, env_id)
    env = gym.make(env_id)
    if "env_wrapper" in entry:
        env = by_name(entry["env_wrapper"])(env)
    callbacks = []
    for item in entry.get("callback", []):
        name, options = next(iter(item.items())) if isinstance(item, dict) else (item, {})
        callbacks.append(by_name(name)(**options))
    options = settings(algo, env_id) | (
        {"learning_starts": 20, "batch_size": 8} if algo != "ppo" else {"n_epochs": 1, "batch_size": 16}
    )
    model = ALGORITHMS[algo](by_name(entry["policy"]), env, seed=0, **options).learn(40, callback=callbacks)
    assert model.num_timesteps >= 40
    assert entry["n_timesteps"] == int(entry["n_timesteps"])


@pytest.mark.parametrize("env_id", ENVS)
def test_sac_has_the_defaults_of_the_library(env_id: str) -> None:
    env = OneHotActions(gym.make(env_id))
    written, defaults = settings("sac", env_id), sac_defaults(env)
    assert written.pop("target_entropy") == pytest.approx(defaults.pop("target_entropy"), abs=1e-5)
    assert defaults.pop("policy_kwargs").items() <= written.pop("policy_kwargs").items()
    assert written == defaults


def test_the_commands_of_the_readme_name_what_there_is() -> None:
    commands = re.findall(r"^python -m (rl_zoo3\.\w+) (.*)$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert {module for module, _ in commands} == {"rl_zoo3.train", "rl_zoo3.enjoy"}
    for _, arguments in commands:
        algo = re.search(r"--algo (\S+)", arguments)
        env_id = re.search(r"--env (\S+)", arguments)
        assert algo is not None
        assert env_id is not None
        assert block(algo[1], env_id[1])
        assert ("--gym-packages envs" in arguments) == env_id[1].startswith("gumbel_rl/")
        for conf_file in re.findall(r"--conf-file (\S+)", arguments):
            assert ROOT / conf_file == EXAMPLES / f"{algo[1]}.yml"


def zoo(module: str, *arguments: str) -> str:
    """Run a command of the zoo as a user does, and return what it prints."""
    run = subprocess.run(
        [sys.executable, "-m", f"rl_zoo3.{module}", *arguments, "--gym-packages", "envs", "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "target_entropy='auto'" not in run.stderr
    return run.stdout


needs_zoo = pytest.mark.skipif(
    importlib.util.find_spec("rl_zoo3") is None, reason="needs rl_zoo3 (pip install rl_zoo3)"
)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize(("algo", "env_id"), [("sac", ENVS[0]), ("ddpg", ENVS[1]), ("ppo", ENVS[1])])
def test_the_zoo_trains_evaluates_and_loads(algo: str, env_id: str, tmp_path: Path) -> None:
    conf = str(EXAMPLES / f"{algo}.yml")
    common = ["--algo", algo, "--env", env_id]
    short = ["-params", "n_steps:16", "batch_size:16"] if algo == "ppo" else ["-params", "learning_starts:50"]
    budget = ["-n", "256", "--eval-freq", "100", "--eval-episodes", "2", "--save-freq", "128", "--seed", "1"]
    train = [*common, "--conf-file", conf, "-f", str(tmp_path), *budget, *short]
    zoo("train", *train, "--save-replay-buffer")
    name = env_id.replace("/", "-")
    run = tmp_path / algo / f"{name}_1"
    assert {f"{name}.zip", "best_model.zip", "evaluations.npz", "rl_model_256_steps.zip"} <= {
        p.name for p in run.iterdir()
    }
    saved = yaml.unsafe_load((run / name / "config.yml").read_text())
    assert saved["policy"] == block(algo, env_id)["policy"]
    assert np.isfinite(np.load(run / "evaluations.npz")["results"]).all()

    printed = zoo("enjoy", *common, "-f", str(tmp_path), "-n", "300", "--no-render", "--load-best")
    reward = re.search(r"Mean reward: (\S+)", printed)
    assert reward is not None, printed[-2000:]
    assert math.isfinite(float(reward[1]))

    model = ALGORITHMS[algo].load(run / f"{name}.zip", device="cpu")
    assert model.num_timesteps == 256
    if algo == "sac":
        assert isinstance(model.policy, GumbelSACPolicy)
        zoo("train", *train, "--trained-agent", str(run / f"{name}.zip"))
        resumed = SAC.load(tmp_path / algo / f"{name}_2" / f"{name}.zip", device="cpu")
        assert isinstance(resumed.policy, GumbelSACPolicy)
        assert int(resumed.policy.env_steps) == 512
