"""The commands in this process: what they print, and what bad input comes to."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
from conftest import SHORT

import agents.evaluate
import agents.lineup
import agents.record
import train_agent
from agents.callbacks import LogRows
from agents.run_directory import RunDirectory

QUICK = ("--timesteps", 300, "--n-envs", 4, "--eval-every", 0, "--eval-episodes", 4, "--no-progress")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands are run from any directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of the finished run that was interrupted before its end."""
    path = tmp_path / "unfinished"
    shutil.copytree(finished.path, path)
    for name in ("result.json", "model.zip"):
        (path / name).unlink()
    shutil.rmtree(path / "checkpoints" / "000000000600")
    return RunDirectory(path)


def test_trains(command, elsewhere):
    outcome = command(
        train_agent.main, "--env", "CartPole-v1", *QUICK, "--run-dir", "here", "--seed", 3, "--threshold", 1e6
    )
    assert outcome.status == 0
    assert (elsewhere / "here" / "result.json").exists()
    told = json.loads((elsewhere / "here" / "result.json").read_text())
    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"return         {told['eval_return_mean']:.1f} ± ")
    assert "4 episodes" in lines[0]
    assert "threshold      1e+06, not reached" in lines
    assert lines[-2:] == ["run directory  here", "curves         tensorboard --logdir here"]
    assert told["seed"] == 3
    assert "steps/s" in outcome.err


def test_options_reach_the_run(command, elsewhere):
    options = (
        "--estimator",
        "gumbel-softmax",
        "--temperature",
        "linear:1:0.5",
        "--set",
        "estimator_kwargs={samples: 3}",
    )
    more = ("--set", "gamma=0.5", "--device", "cpu", "--threads", 1, "--engine", "dummy", "--eval-episodes", 3)
    assert command(train_agent.main, *QUICK, *options, *more, "--run-dir", "here").status == 0
    mapping = RunDirectory(elsewhere / "here").read_config().to_mapping()
    expected = {
        "estimator": "gumbel-softmax",
        "temperature": "linear:1:0.5",
        "estimator_kwargs": {"samples": 3},
        "gamma": 0.5,
        "device": "cpu",
        "threads": 1,
        "engine": "dummy",
        "eval_episodes": 3,
        "timesteps": 300,
        "n_envs": 4,
        "eval_every": 0,
    }
    assert {key: mapping[key] for key in expected} == expected


def test_an_environment_of_ones_own(command, elsewhere):
    (elsewhere / "my_task.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('Mine-v0', CartPoleEnv, max_episode_steps=20)\n"
    )
    outcome = command(train_agent.main, "--env", "my_task:Mine-v0", *QUICK)
    assert outcome.status == 0
    (run,) = elsewhere.glob("runs/my_task-Mine-v0/gumbel-ac/*")
    assert command(agents.evaluate.main, run, "--episodes", 2).status == 0


TRAINING = {
    "an unknown environment": (
        ["--env", "CartPol-v1"],
        "unknown environment 'CartPol-v1' (did you mean 'CartPole-v1'?)",
    ),
    "a missing module": (["--env", "absent_module:X-v0"], "cannot import 'absent_module'"),
    "an unsupported action space": (
        ["--env", "Pendulum-v1"],
        "action space Box(-2.0, 2.0, (1,), float32); supported are Discrete, MultiDiscrete, MultiBinary",
    ),
    "an unknown agent": (["--agent", "gumble-ac"], "unknown agent 'gumble-ac' (did you mean 'gumbel-ac'?)"),
    "an unknown estimator": (["--estimator", "st-gumbel"], "unknown estimator 'st-gumbel' (did you mean"),
    "an estimator for another agent": (["--agent", "reinforce", "--estimator", "exact"], "use 'score-function'"),
    "an agent without estimators": (["--agent", "ppo", "--estimator", "exact"], "ppo has no key 'estimator'"),
    "an unknown key": (["--set", "n_step=3"], "gumbel-ac has no key 'n_step' (did you mean 'n_steps'?)"),
    "a value of another type": (["--set", "n_steps=few"], "n_steps must be a whole number, got 'few'"),
    "a value out of range": (["--set", "gamma=1.1"], "gamma must be between 0 and 1, got 1.1"),
    "no assignment": (["--set", "gamma"], "--set 'gamma' must be written key=value, for example --set gamma=0.99"),
    "an unknown schedule": (["--temperature", "lineer:1:0.5"], "(did you mean 'linear'?)"),
    "temperature 0": (["--temperature", "0"], "a temperature must stay above 0"),
    "a negative temperature": (["--temperature", "-1"], "a temperature must stay above 0"),
    "a temperature that reaches 0": (["--temperature", "linear:1:0"], "a temperature must stay above 0"),
    "a temperature that is none": (["--temperature", "nan"], "nan"),
    "a number without end": (["--set", "max_grad_norm=.inf"], "max_grad_norm must be a number, got inf"),
    "no number": (["--set", "ent_coef=.nan"], "ent_coef must be a number, got nan"),
    "no module": (["--env", "./mine.py:Mine-v0"], "cannot import './mine.py'"),
    "two runs to resume": (["--resume", "one", "two"], "one path is enough, got one two"),
    "no steps": (["--timesteps", 0], "--timesteps: must be at least 1, got '0'"),
    "negative steps": (["--timesteps", -5], "--timesteps: must be at least 1, got '-5'"),
    "words for steps": (["--timesteps", "many"], "--timesteps: must be a whole number, got 'many'"),
    "no environments": (["--n-envs", 0], "--n-envs: must be at least 1, got '0'"),
    "a negative interval": (["--eval-every", -1], "--eval-every: must be at least 0, got '-1'"),
    "a negative seed": (["--seed", -1], "seed must be between 0 and 100,000,000, got -1"),
    "an unknown engine": (["--engine", "warp"], "unknown engine 'warp'"),
    "an unknown device": (["--device", "abacus"], "--device abacus cannot be used here"),
    "an unknown activation": (["--set", "activation=rely"], "unknown activation 'rely' (did you mean 'relu'?)"),
    "an unknown argument of the policy": (["--set", "policy_kwargs={widths: 3}"], "widths"),
    "an unknown argument of the environment": (["--set", "env_kwargs={gravity: 3}"], "gravity"),
    "an unknown option": (["--timestep", 5], "there is no option '--timestep' (did you mean '--timesteps'?)"),
    "a stray word": (["CartPole-v1"], "there is no option 'CartPole-v1'"),
    "an option without its value": (["--env"], "Missing value for argument '--env'"),
    "a missing configuration": (["--config", "none.yaml"], "cannot read none.yaml: No such file or directory"),
    "a directory for a run": (
        ["--run-dir", "file/below"],
        "cannot write the run directory file/below: Not a",
    ),
    "a file for a run": (["--run-dir", "file"], "cannot write the run directory file: File exists"),
    "options with --resume": (["--resume", "x", "--seed", 1, "--env", "y"], "leave out --env, --seed"),
    "nothing to resume": (["--resume"], "there is no interrupted run under runs"),
    "no run to resume": (["--resume", "none"], "none is no run directory: it has no config.yaml"),
}


@pytest.mark.parametrize(("argv", "message"), TRAINING.values(), ids=TRAINING)
def test_refuses_to_train(argv, message, command, elsewhere):
    (elsewhere / "file").touch()
    assert message in command(train_agent.main, *argv).complaint
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["- a list\n", "just text\n", "a: [\n", ""])
def test_refuses_a_configuration(content, command, elsewhere):
    (elsewhere / "file.yaml").write_text(content)
    assert "file.yaml" in command(train_agent.main, "--config", "file.yaml").complaint
    assert not (elsewhere / "runs").exists()


def test_refuses_the_directory_of_another_run(command, finished, unfinished):
    before = finished.result.read_text()
    assert "holds a finished run" in command(train_agent.main, *QUICK, "--run-dir", finished.path).complaint
    assert finished.result.read_text() == before
    assert f"--resume {unfinished.path}" in command(train_agent.main, *QUICK, "--run-dir", unfinished.path).complaint


def test_refuses_to_resume_what_is_finished(command, finished):
    assert "is finished" in command(train_agent.main, "--resume", finished.path).complaint


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("part", ["model.zip", "vecnormalize.pkl", "milestones.json"])
@pytest.mark.parametrize("harm", [damage, lambda path: path.unlink(), lambda path: path.write_text("{}")])
def test_refuses_a_damaged_checkpoint(part, harm, command, unfinished):
    harm(unfinished.last_checkpoint() / part)
    complaint = command(train_agent.main, "--resume", unfinished.path).complaint
    assert str(unfinished.last_checkpoint()) in complaint
    assert not unfinished.finished


def test_refuses_another_agents_checkpoint(command, unfinished, tmp_path):
    other = tmp_path / "other"
    assert command(train_agent.main, "--agent", "a2c", *QUICK, "--run-dir", other).status == 0
    shutil.copy(other / "model.zip", unfinished.last_checkpoint())
    assert "another agent's" in command(train_agent.main, "--resume", unfinished.path).complaint


def test_refuses_another_environments_checkpoint(command, unfinished, tmp_path):
    other = tmp_path / "other"
    assert command(train_agent.main, "--env", "tiny/ObserveBox-v0", *QUICK, "--run-dir", other).status == 0
    shutil.copy(other / "model.zip", unfinished.last_checkpoint())
    assert "environment's" in command(train_agent.main, "--resume", unfinished.path).complaint


def test_refuses_to_resume_without_a_checkpoint(command, unfinished):
    shutil.rmtree(unfinished.checkpoints)
    complaint = command(train_agent.main, "--resume", unfinished.path).complaint
    assert complaint.endswith(f"has no checkpoint: start the run anew with --config {unfinished.config}")


def test_a_partial_checkpoint_is_none(command, unfinished):
    # As a crash leaves one that was being written.
    (unfinished.checkpoints / ".000000000500.partial").mkdir()
    assert command(train_agent.main, "--resume", unfinished.path, "--no-progress").status == 0
    assert json.loads(unfinished.result.read_text())["timesteps"] == SHORT["timesteps"]


def test_resumes_the_newest(command, unfinished, elsewhere):
    there = elsewhere / "runs" / "CartPole-v1" / "gumbel-ac"
    there.mkdir(parents=True)
    unfinished.path.rename(there / "newest")
    outcome = command(train_agent.main, "--resume", "--no-progress")
    assert outcome.status == 0
    assert "run directory  runs/CartPole-v1/gumbel-ac/newest" in outcome.out


def test_an_interruption_says_how_to_go_on(command, monkeypatch, elsewhere):
    monkeypatch.setattr(LogRows, "between_updates", lambda self: signal.raise_signal(signal.SIGINT))
    outcome = command(train_agent.main, *QUICK, "--run-dir", "with space")
    assert outcome.status == 130
    assert outcome.out == ""
    last = outcome.err.splitlines()[-1]
    assert last.startswith("interrupted after ")
    assert last.endswith("; go on with: python train_agent.py --resume 'with space'")
    monkeypatch.undo()
    monkeypatch.chdir(elsewhere)
    assert command(train_agent.main, "--resume", "with space", "--no-progress").status == 0


def test_evaluates(command, finished):
    outcome = command(agents.evaluate.main, finished.path, "--episodes", 4)
    told = json.loads(finished.result.read_text())
    assert f"deterministic  {told['eval_return_mean']:.2f} ± {told['eval_return_std']:.2f}" in outcome.out
    assert f"stochastic     {told['eval_return_stochastic_mean']:.2f} ± " in outcome.out


def test_evaluates_an_unfinished_run(command, unfinished):
    complaint = command(agents.evaluate.main, unfinished.path).complaint
    assert "has no model.zip; give --model best or --model checkpoint" in complaint
    for which in ("best", "checkpoint"):
        assert command(agents.evaluate.main, unfinished.path, "--model", which, "--episodes", 2).status == 0


@pytest.mark.parametrize("main", [agents.evaluate.main, agents.record.main])
def test_refuses_to_evaluate_or_record(main, command, finished, tmp_path):
    assert "none is no run directory" in command(main, "none").complaint
    assert "RUN_DIR" in command(main).complaint
    assert "must be at least 1" in command(main, finished.path, "--episodes", 0).complaint
    assert "must be one of final, best, checkpoint" in command(main, finished.path, "--model", "last").complaint
    harmed = RunDirectory(tmp_path / "harmed")
    shutil.copytree(finished.path, harmed.path)
    damage(harmed.path / "model.zip")
    assert "model.zip" in command(main, harmed.path).complaint
    harmed.config.write_text("- 1")
    assert "must hold a mapping" in command(main, harmed.path).complaint


def test_records(command, elsewhere):
    import imageio.v3 as imageio

    assert command(train_agent.main, "--env", "tiny/ObserveBox-v0", *QUICK, "--run-dir", "here").status == 0
    for name, episodes in (("a.gif", 1), ("new/b.mp4", 2)):
        outcome = command(agents.record.main, "here", "--out", name, "--episodes", episodes)
        assert outcome.out == f"video: {name}\n"
        frames = imageio.imread(elsewhere / name)
        assert frames.shape[1:] == (20, 30, 3)  # of 21 by 31: sides are made even
        assert len(frames) == 5 * episodes
        # Frame by frame as the environment drew it: brighter with every step, and dark again with the next episode.
        assert frames[:, 10, 10, 0] == pytest.approx([40 * step for step in range(5)] * episodes, abs=8)
    assert "must end in .mp4 or .gif" in command(agents.record.main, "here", "--out", "c.avi").complaint
    (elsewhere / "file").touch()
    assert "cannot write" in command(agents.record.main, "here", "--out", "file/d.gif").complaint


def test_refuses_to_record_what_cannot_be_rendered(command):
    assert command(train_agent.main, "--env", "gumbel_rl/TabularMDP-v0", *QUICK, "--run-dir", "here").status == 0
    assert "cannot be recorded" in command(agents.record.main, "here").complaint


def test_lists_agents_and_hyperparameters(command):
    assert command(agents.lineup.main).out.count("\n") >= 5
    assert "gae_lambda" in command(agents.lineup.main, "gumbel-ac").out
    assert "did you mean 'ppo'" in command(agents.lineup.main, "pp").complaint
    assert command(agents.lineup.main, "--help").out.startswith("usage: python -m agents.lineup [AGENT]")
    assert "one agent at a time" in command(agents.lineup.main, "ppo", "a2c").complaint
