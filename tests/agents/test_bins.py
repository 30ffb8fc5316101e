"""Continuous actions in bins through the commands: what they are is kept wherever a run's environment is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from conftest import SHORT, short_run
from gymnasium import spaces

import agents.compare.__main__
import agents.evaluate
import agents.record
import agents.tune.__main__
import train_agent
from agents.compare import comparison
from agents.compare.applicability import random_return, sift
from agents.compare.fan_out import Finished, answer
from agents.compare.plan import Plan, make_plan
from agents.config import resolve
from agents.environments import make_evaluation_env, make_training_env
from agents.errors import UserError
from agents.evaluate import evaluate
from agents.run import resume
from agents.run_directory import RunDirectory

# Two dimensions from -1 to 1; five steps, and a reward of 1 wherever the first is exactly 0.
BOX = "tiny/ActBox-v0"
ALWAYS = [[0.0], [-1.0, 0.5, 1.0]]
FEW = {"timesteps": 48, "n_envs": 2, "eval_every": 24, "periodic_episodes": 2, "eval_episodes": 4, "net_arch": [8]}
ADDED = {
    "gumbel-ac": {"n_steps": 6},
    "gumbel-sac": {"learning_starts": 8, "buffer_size": 100, "batch_size": 8},
    "reinforce": {},
    "ppo": {"n_steps": 6, "batch_size": 6},
    "a2c": {},
}
QUICK = ("--timesteps", 300, "--n-envs", 4, "--eval-every", 150, "--eval-episodes", 4, "--no-progress")
REAL = ["Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3", "BipedalWalker-v3"]
MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"]


class Unbounded(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Box(np.array([-1.0, -np.inf], np.float32), np.ones(2, np.float32))


gym.register("tiny/ActUnbounded-v0", Unbounded)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Training, evaluating, recording, resuming


@pytest.mark.parametrize("agent", ADDED)
@pytest.mark.parametrize(("bins", "expected"), [(ALWAYS, 5.0), (2, 0.0), ([2, [0.0]], 0.0), ([1, 4], 5.0)], ids=str)
def test_every_environment_of_a_run_has_the_bins(agent, bins, expected, tmp_path):
    """A grid whose first dimension is always, or never, 0 gives every episode its return."""
    run = short_run(tmp_path / "run", env=BOX, agent=agent, bins=bins, **FEW, **ADDED[agent])
    told = json.loads(run.result.read_text())
    assert told["best_periodic_mean"] == expected
    assert told["eval_return_mean"] == told["eval_return_stochastic_mean"] == expected
    assert run.read_config().bins == bins
    progress = run.progress.read_text().splitlines()
    column = progress[0].split(",").index("rollout/ep_rew_mean")
    assert {float(row.split(",")[column]) for row in progress[1:] if row.split(",")[column]} == {expected}
    for score in evaluate(run, episodes=3).values():
        assert score.mean == expected


def test_by_the_command_line(command):
    outcome = command(train_agent.main, "--env", BOX, "--bins", 3, *QUICK, "--run-dir", "here")
    assert outcome.status == 0, outcome
    assert RunDirectory(Path("here")).read_config().bins == 3
    again = command(train_agent.main, "--config", "here/config.yaml", "--no-progress", "--run-dir", "again")
    assert again.status == 0
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("here", "again")]
    assert results[0]["eval_return_mean"] == results[1]["eval_return_mean"]
    assert command(agents.evaluate.main, "here", "--episodes", 2).status == 0
    assert command(agents.record.main, "here", "--out", "a.gif").out == "video: a.gif\n"


def test_resuming_goes_on_with_the_bins(tmp_path):
    run = short_run(tmp_path / "run", env=BOX, **SHORT, bins=ALWAYS, n_steps=6)
    for name in ("result.json", "model.zip"):
        (run.path / name).unlink()
    for checkpoint in sorted(run.checkpoints.iterdir())[1:]:
        shutil.rmtree(checkpoint)
    told = json.loads(resume(run).result.read_text())
    assert told["timesteps"] >= SHORT["timesteps"]
    assert told["eval_return_stochastic_mean"] == 5.0


def test_another_number_of_bins_does_not_fit_the_model(command):
    assert command(train_agent.main, "--env", BOX, "--bins", 3, *QUICK, "--run-dir", "here").status == 0
    config = Path("here/config.yaml")
    config.write_text(config.read_text().replace("bins: 3", "bins: 4"))
    assert "another agent's or environment's" in command(agents.evaluate.main, "here").complaint


@pytest.mark.parametrize("env", REAL)
def test_real_tasks(env):
    config = resolve({"env": env, "bins": 5, "n_envs": 2, "normalize": False})
    dimensions = gym.make(env).action_space.shape[0]
    for made in (make_training_env(config, 0), make_evaluation_env(config, 2, seed=0)):
        assert made.action_space == spaces.MultiDiscrete([5] * dimensions)
        made.reset()
        observation, reward, _, _ = made.step(np.full((2, dimensions), 4))
        assert np.isfinite(observation).all()
        assert np.isfinite(reward).all()


@pytest.mark.parametrize("env", [*REAL, *MUJOCO])
def test_real_tasks_are_trained_on(env, tmp_path):
    if env in MUJOCO:
        pytest.importorskip("mujoco")
    keys = {"timesteps": 64, "n_envs": 2, "n_steps": 32, "eval_every": 0, "eval_episodes": 1, "bins": 3}
    limit = {"env_kwargs": {"max_episode_steps": 50}}
    assert short_run(tmp_path / "run", env=env, **{**keys, **limit}).finished


REFUSED = {
    "discrete actions": (
        ["--env", "CartPole-v1", "--bins", 5],
        "--env CartPole-v1 with bins 5: only a Box action space can be divided into bins, got Discrete(2)",
    ),
    "actions that are discrete already": (
        ["--env", "tiny/ActMultiDiscrete-v0", "--bins", 5],
        "only a Box action space can be divided into bins, got MultiDiscrete([3 2])",
    ),
    "an unbounded dimension": (
        ["--env", "tiny/ActUnbounded-v0", "--bins", 5],
        "only a bounded action space can be divided into bins, but dimension 1 of Box(",
    ),
    "continuous actions": (
        ["--env", BOX],
        "supported are Discrete, MultiDiscrete, MultiBinary; --bins 5 lets each dimension choose from 5 values",
    ),
    "no bins": (["--env", BOX, "--bins", 0], "--bins: must be at least 1, got '0'"),
    "no bins in a list": (["--env", BOX, "--set", "bins=[3, 0]"], "at least one bin, got 0 for dimension 1"),
    "words": (["--env", BOX, "--bins", "few"], "--bins: must be a whole number, got 'few'"),
    "words for a list": (["--set", "bins=few"], "bins must be a whole number or a list or null, got 'few'"),
    "truth": (["--env", BOX, "--set", "bins=true"], "bins must be a whole number or a list or null, got True"),
    "another number of dimensions": (
        ["--env", BOX, "--set", "bins=[3, 3, 3]"],
        f"--env {BOX} with bins [3, 3, 3]: bins needs one entry a dimension, 2 in all, got 3",
    ),
    "values out of bounds": (
        ["--env", BOX, "--set", "bins=[3, [0, 2]]"],
        "the values of dimension 1 must be float32 from -1.0 to 1.0, got [0.0, 2.0]",
    ),
    "an agent for one choice": (
        ["--env", BOX, "--agent", "dqn", "--bins", 3],
        "dqn does not support the action space MultiDiscrete([3 3]); supported are Discrete, their choices counted",
    ),
    "bins with --resume": (["--resume", "x", "--bins", 3], "leave out --bins"),
}


@pytest.mark.parametrize(("argv", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_to_train(argv, message, command, elsewhere):
    assert message in command(train_agent.main, *argv).complaint
    assert not list(elsewhere.iterdir())


def test_bins_are_named_only_where_they_help(command):
    # Many choices are no more use to this one than continuous actions.
    assert "bins" not in command(train_agent.main, "--env", BOX, "--agent", "dqn").complaint
    # Choices that do not begin with 0 are no continuous actions.
    assert "bins" not in command(train_agent.main, "--env", "tiny/ActDiscreteFrom-v0", "--agent", "ppo").complaint


# Configuration


def test_a_block_of_the_configuration_has_bins_of_its_environment(tmp_path):
    blocks = {"default": {"timesteps": 9}, BOX: {"bins": 7}, "Pendulum-v1": {"bins": [[-2, "1e-1", 2]]}}
    (tmp_path / "gumbel-ac.yaml").write_text(yaml.safe_dump(blocks))

    def bins(**keys):
        return resolve(keys, configs=tmp_path).bins

    assert bins() is None
    assert bins(env=BOX) == 7
    assert bins(env=BOX, bins="3") == 3
    assert bins(env=BOX, bins=None) is None
    assert bins(env="Pendulum-v1") == [[-2.0, 0.1, 2.0]]


# Comparisons


def test_different_bins_are_not_compared():
    same = make_plan([BOX], ["gumbel-ac", "ppo"], 1, keys={"bins": 3})
    assert [cell.config.bins for cell in same.cells] == [3, 3]
    for other in ("ppo:bins=5", "ppo:bins=null", "ppo:bins=[3, 4]"):
        with pytest.raises(UserError, match=f"gumbel-ac and .* cannot be compared on {BOX}: their bins differ, 3 and"):
            make_plan([BOX], ["gumbel-ac", other], 1, keys={"bins": 3})
    # Nor when added later, under the same label or another.
    first = sift(make_plan([BOX], ["gumbel-ac"], 1, keys={"bins": 3}))
    with pytest.raises(
        UserError, match=r"--out holds another comparison: gumbel-ac on .* has bins=3 there, and bins=5"
    ):
        first.extended(sift(make_plan([BOX], ["gumbel-ac"], 1, keys={"bins": 5})))
    with pytest.raises(UserError, match="their bins differ, 3 and 5"):
        first.extended(sift(make_plan([BOX], ["ppo"], 1, keys={"bins": 5})))
    # Another environment is another matter.
    assert len(first.extended(sift(make_plan(["CartPole-v1"], ["gumbel-ac"], 1))).cells) == 2


def test_a_plan_on_disk_keeps_the_bins(tmp_path):
    plan = make_plan([BOX], ["gumbel-ac"], 1, keys={"bins": ALWAYS})
    plan.write(tmp_path / "plan.json")
    (cell,) = Plan.read(tmp_path / "plan.json").cells
    assert cell.config.bins == ALWAYS


def test_what_cannot_act_in_the_bins_is_not_applicable():
    plan = sift(make_plan([BOX], ["gumbel-ac", "ppo", "a2c", "dqn"], 1, keys={"bins": 3}))
    assert [cell.label for cell in plan.cells] == ["gumbel-ac", "ppo", "a2c"]
    (entry,) = plan.not_applicable
    assert entry["reason"].startswith(f"dqn does not support the action space MultiDiscrete([3 3]) of {BOX}; supported")
    with pytest.raises(UserError, match=f"the action space Box.* of {BOX}; supported are .*; --bins 5 lets each"):
        sift(make_plan([BOX], ["gumbel-ac"], 1))


def test_random_actions_are_drawn_from_the_bins():
    config = resolve({"env": BOX, "bins": ALWAYS})
    assert random_return(config, 4) == 5.0
    assert random_return(resolve({"env": BOX, "bins": 2}), 4) == 0.0


@pytest.fixture
def in_process(monkeypatch):
    """Do the runs here: other processes know nothing of the environments of the tests."""

    def here(function, items, *, jobs, cluster, started):
        for item in items:
            started(item)
            found = answer(function, item)
            yield Finished(item, found.value, found.error)

    monkeypatch.setattr(comparison, "fan_out", here)


def test_compares_in_bins(command, in_process):
    labels = ("gumbel-ac:n_steps=6", "a2c", "dqn")
    size = ("--seeds", 1, "--timesteps", 48, "--eval-every", 0, "--jobs", 1, "--out", "out")
    outcome = command(agents.compare.__main__.main, "--envs", BOX, "--agents", *labels, "--bins", 1, *size)
    assert outcome.status == 0, outcome
    assert "not applicable: dqn" in " ".join(outcome.err.split())
    results = [json.loads(path.read_text()) for path in Path("out").glob("runs/*/*/seed0/result.json")]
    assert [told["eval_return_mean"] for told in results] == [5.0, 5.0]
    told = command(agents.compare.__main__.main, "--envs", BOX, "--agents", "a2c", "--bins", 2, *size).complaint
    assert "a2c on tiny/ActBox-v0 has bins=1 there, and bins=2 here" in told


def test_refuses_to_compare_in_bins_what_is_discrete(command, elsewhere):
    argv = ("--envs", BOX, "CartPole-v1", "--agents", "a2c", "--bins", 3, "--seeds", 1, "--out", "out")
    told = command(agents.compare.__main__.main, *argv).complaint
    assert told == "--env CartPole-v1 with bins 3: only a Box action space can be divided into bins, got Discrete(2)"
    assert not list(elsewhere.glob("out/runs/*"))


# Tuning


TUNE = ("--env", BOX, "--agent", "a2c", "--timesteps", 64, "--seeds-per-trial", 1, "--jobs", 1, "--no-progress")


def test_tunes_in_bins(command, tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()

    def main(words):
        agents.tune.__main__.main(words, configs)

    argv = (*TUNE, "--trials", 2, "--confirm", 0)
    outcome = command(main, *argv, "--bins", 1, "--out", "block.yaml")
    assert outcome.status == 0, outcome
    text = Path("block.yaml").read_text()
    # The settings were found in these bins, and are to be used in them.
    assert yaml.safe_load(text)[BOX]["bins"] == 1
    assert f"# Tuned: python -m agents.tune --env {BOX} --agent a2c --trials 2 " in text
    assert " --bins 1\n" in text
    # Another number of bins is another study.
    told = command(main, *argv, "--bins", 2).complaint
    assert "bins 1, not 2: give another --study or --storage" in told


def test_tuning_refuses_bins_for_discrete_actions(command):
    told = command(agents.tune.__main__.main, *TUNE, "--env", "CartPole-v1", "--bins", 2).complaint
    assert told == "--env CartPole-v1 with bins 2: only a Box action space can be divided into bins, got Discrete(2)"
    assert "--bins 5" in command(agents.tune.__main__.main, *TUNE, "--agent", "reinforce").complaint
