"""Runs from beginning to end: what they leave, that it is true, and that they can be repeated and resumed."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import time
import weakref
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from conftest import SHORT, short_run

import agents.callbacks
import agents.run
from agents.callbacks import LogRows, Session
from agents.clock import Clock
from agents.config import resolve
from agents.environments import make_evaluation_env
from agents.errors import Interrupted, UserError
from agents.evaluate import evaluate
from agents.run import resume, train
from agents.run_directory import RunDirectory
from agents.scoring import play
from agents.seeds import Purpose, episode_seed
from agents.signals import Signals, terminating
from gumbel_rl import make_schedule

# Many small updates.
FEW = {"learning_starts": 50, "train_freq": 4, "gradient_steps": 1}
OFF_POLICY = {"dqn": FEW, "gumbel-sac": {**FEW, "buffer_size": 1000, "batch_size": 16, "n_steps": 3}}


def rows(run):
    """`progress.csv` without what depends on the clock."""
    with run.progress.open(newline="") as file:
        table = list(csv.DictReader(file))
    clock = ("time/fps", "time/time_elapsed", "eval/train_seconds")
    return [{key: value for key, value in row.items() if key not in clock} for row in table]


def result(run):
    return json.loads(run.result.read_text())


def outcome(run):
    """The result without what depends on the clock."""
    return {key: value for key, value in result(run).items() if "seconds" not in key and key != "load"}


def test_contents_of_the_run_directory(finished):
    names = {path.relative_to(finished.path).as_posix() for path in finished.path.rglob("*")}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    models = {f"{prefix}{part}" for prefix in ("", "best_") for part in ("model.zip", "vecnormalize.pkl")}
    kept = sorted(path.name for path in finished.checkpoints.iterdir())
    assert len(kept) == 3
    assert kept[-1] == "000000000600"
    parts = {
        f"checkpoints/{name}{part}"
        for name in kept
        for part in ("", "/model.zip", "/vecnormalize.pkl", "/milestones.json")
    }
    assert names - events == models | parts | {"checkpoints", "config.yaml", "progress.csv", "result.json"}


def test_the_result_is_true(finished):
    told = result(finished)
    assert told["agent"] == "gumbel-ac"
    assert told["env"] == "CartPole-v1"
    assert told["estimator"] == "st-gumbel-softmax"
    assert (told["seed"], told["timesteps"], told["eval_episodes"], told["threshold"]) == (0, 600, 4, 5.0)
    assert set(told["versions"]) == {"python", "gumbel_rl", "stable_baselines3", "torch", "gymnasium", "numpy"}
    scores = evaluate(finished, episodes=4)
    assert told["eval_return_mean"] == scores["deterministic"].mean
    assert told["eval_return_std"] == scores["deterministic"].std
    assert told["eval_length_mean"] == scores["deterministic"].lengths.mean()
    assert told["eval_return_stochastic_mean"] == scores["stochastic"].mean
    evaluations = {
        int(row["time/total_timesteps"]): float(row["eval/mean_reward"])
        for row in rows(finished)
        if row["eval/mean_reward"]
    }
    assert list(evaluations) == [384, 600]  # the first ends of an update from 300 on, and the end
    assert told["steps_to_threshold"] == 384
    assert told["best_periodic_mean"] == max(evaluations.values())
    assert 0 < told["seconds_to_threshold"] < told["train_seconds"]
    number = 2 if evaluations[600] > evaluations[384] else 1
    best = evaluate(finished, episodes=20, which="best", seed=episode_seed(Purpose.PERIODIC, 0, number))
    assert best["deterministic"].mean == told["best_periodic_mean"]


def test_a_threshold_that_is_not_reached(tmp_path):
    told = result(short_run(tmp_path, agent="reinforce", threshold=1e6))
    assert told["steps_to_threshold"] is told["seconds_to_threshold"] is None


def test_few_episodes_do_not_tell(tmp_path):
    assert result(short_run(tmp_path, threshold=0.0, periodic_episodes=19))["steps_to_threshold"] is None


def test_no_periodic_evaluation(tmp_path):
    run = short_run(tmp_path, eval_every=0, checkpoint_every=0)
    assert "eval/mean_reward" not in rows(run)[0]
    assert not (run.path / "best_model.zip").exists()
    assert len(list(run.checkpoints.iterdir())) == 1  # of the end, from which an interrupted final evaluation resumes


@pytest.mark.parametrize("agent", ["gumbel-ac", "gumbel-sac", "reinforce", "dqn"])
def test_the_same_seed_gives_the_same_run(agent, tmp_path):
    keys = {"normalize": True, "agent": agent, **OFF_POLICY.get(agent, {})}
    first = short_run(tmp_path / "first", **keys)
    # Its own configuration repeats a run exactly; how often it is evaluated changes nothing.
    again = train(resolve({"eval_every": 100}, first.config), tmp_path / "again")
    assert (tmp_path / "again" / "config.yaml").read_text() == first.config.read_text().replace(
        "eval_every: 300", "eval_every: 100"
    )
    same = train(first.read_config(), tmp_path / "same")
    assert rows(same) == rows(first)
    assert same.progress.read_text().splitlines()[0] == first.progress.read_text().splitlines()[0]
    assert outcome(same) == outcome(first)
    for key in ("eval_return_mean", "eval_return_stochastic_mean"):
        assert result(again)[key] == result(first)[key]
    other = short_run(tmp_path / "other", seed=1, **keys)
    assert rows(other) != rows(first)


@contextmanager
def signal_at(step, monkeypatch):
    """In here, a signal comes when a run has come to a step."""
    write = LogRows.between_updates

    def write_and_signal(self):
        write(self)
        if self.model.num_timesteps >= step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LogRows, "between_updates", write_and_signal)
        yield


TEMPERATURE = "exponential:1.0:0.3"


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    keys = {"temperature": TEMPERATURE, "timesteps": 2000, "normalize": True, "normalize_reward": True}
    message = r"interrupted after [\d,]+ of 2,000 steps"
    handler = signal.getsignal(signal.SIGINT)
    with signal_at(700, monkeypatch), pytest.raises(Interrupted, match=message) as caught:
        short_run(run.path, **keys)
    assert caught.value.run == run.path
    assert signal.getsignal(signal.SIGINT) is handler
    assert not run.finished
    assert not (run.path / "model.zip").exists()
    before = rows(run)
    stopped = int(run.last_checkpoint().name)
    assert 700 <= stopped < 900

    assert resume(run) == run
    assert result(run)["timesteps"] == 2000
    after = rows(run)
    assert [row | dict.fromkeys(after[0], "") | row for row in before] == after[: len(before)]
    steps = [int(row["time/total_timesteps"]) for row in after]
    assert all(earlier <= later for earlier, later in pairwise(steps))
    assert steps[-1] == 2000
    # Temperature and learning rate go on where they stopped.
    temperature = make_schedule(TEMPERATURE).over(2000)
    rate = make_schedule(run.read_config().hyperparameters.learning_rate).over(2000)
    for row in after:
        if row["train/temperature"]:
            step = int(row["time/total_timesteps"])
            assert float(row["train/temperature"]) == pytest.approx(temperature(step), rel=0.1), row
            assert float(row["train/learning_rate"]) == pytest.approx(rate(step), abs=4e-4), row
    with pytest.raises(UserError, match="is finished"):
        resume(run)


def test_a_resumed_run_can_be_interrupted_and_resumed(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    for step in (200, 900):
        with signal_at(step, monkeypatch), pytest.raises(Interrupted):
            short_run(run.path, timesteps=1500) if not run.config.exists() else resume(run)
    spent = json.loads((run.last_checkpoint() / "milestones.json").read_text())["train_seconds"]
    resume(run)
    assert result(run)["timesteps"] == 1500
    assert result(run)["train_seconds"] > spent > 0


@pytest.mark.parametrize("agent", OFF_POLICY)
def test_the_replay_buffer_is_resumed(agent, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    with signal_at(300, monkeypatch), pytest.raises(Interrupted):
        short_run(run.path, agent=agent, **OFF_POLICY[agent])
    stored = []
    learn = agents.run._learn

    def spy(session, model, *rest):
        stored.append((model.num_timesteps, model.replay_buffer.size() * model.n_envs))
        learn(session, model, *rest)

    monkeypatch.setattr(agents.run, "_learn", spy)
    resume(run)
    ((steps, transitions),) = stored
    assert steps - 4 <= transitions <= steps
    assert steps > 0


def test_an_evaluation_is_interrupted_at_once(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("went on after the signal")

    monkeypatch.setattr(agents.callbacks, "play", interrupted)
    with pytest.raises(Interrupted):
        short_run(run.path)
    monkeypatch.undo()
    # In the final evaluation, nothing remains to be learnt.
    monkeypatch.setattr(agents.run, "play", interrupted)
    with pytest.raises(Interrupted, match="600 of 600"):
        resume(run)
    monkeypatch.undo()
    assert not run.finished
    resume(run)
    assert result(run)["timesteps"] == 600


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_termination_that_python_swallows_stops_the_next_run():
    class Thing:
        pass

    def callback(_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)  # the handler raises in here

    with terminating():
        thing = Thing()
        reference = weakref.ref(thing, callback)
        del thing
        assert reference() is None  # and here we are
        signals = Signals()
        with signals.caught():
            assert signals.stop
    signals = Signals()
    with signals.caught():
        assert not signals.stop


def test_a_second_signal_kills():
    signals = Signals()
    with signals.caught():
        signal.raise_signal(signal.SIGINT)
        assert signals.stop
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_failed_run_does_not_look_finished(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(agents.run, "play", fail)
    with pytest.raises(ZeroDivisionError):
        short_run(tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    assert not run.finished
    with pytest.raises(UserError, match="unfinished run: go on with --resume"):
        short_run(run.path)


def test_the_clock_stands_still():
    clock = Clock(seconds=10.0)
    with clock.running():
        with clock.paused():
            before = clock.seconds
            time.sleep(0.01)
            assert clock.seconds == before >= 10.0
        time.sleep(0.01)
        assert clock.seconds >= before + 0.01
    stopped = clock.seconds
    time.sleep(0.01)
    assert clock.seconds == stopped


def test_evaluation_is_no_training_time(tmp_path, monkeypatch):
    slow = 0.3

    def slowly(*arguments, **options):
        time.sleep(slow)
        return play(*arguments, **options)

    monkeypatch.setattr(agents.callbacks, "play", slowly)
    checkpoint = Session.checkpoint

    def slow_checkpoint(*arguments):
        time.sleep(slow)
        return checkpoint(*arguments)

    monkeypatch.setattr(Session, "checkpoint", slow_checkpoint)
    began = time.perf_counter()
    run = short_run(tmp_path)
    took = time.perf_counter() - began
    # Two evaluations and as many checkpoints or more, of which the last is after training.
    assert result(run)["train_seconds"] < took - 4 * slow
    elapsed = [float(row["time/time_elapsed"]) for row in csv.DictReader(run.progress.open())]
    assert elapsed[-1] <= result(run)["train_seconds"]


def test_short_episodes_are_not_favoured(tmp_path):
    import gymnasium as gym

    made = []

    class Uneven(gym.Env):
        observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
        action_space = gym.spaces.Discrete(2)

        def __init__(self):
            self.length = 10 if len(made) % 2 else 1
            made.append(self)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.steps = 0
            return np.zeros(1, dtype=np.float32), {}

        def step(self, action):
            self.steps += 1
            return np.zeros(1, dtype=np.float32), 1.0, self.steps >= self.length, False, {}

    gym.register("tiny/Uneven-v0", Uneven)
    config = resolve({"env": "tiny/Uneven-v0"})
    env = make_evaluation_env(config, 4, seed=0)
    model = config.hyperparameters.build("MlpPolicy", env, timesteps=1, seed=0, device="cpu")
    score = play(model, env, 8, deterministic=True, seed=0)
    assert sorted(score.returns) == [1.0] * 4 + [10.0] * 4


def test_evaluation_leaves_the_statistics_alone(finished):
    from agents.saving import open_run

    model, env = open_run(finished, finished.read_config(), 2, which="final", device="cpu", seed=0)
    before = (env.obs_rms.mean.copy(), env.obs_rms.count)
    assert before[1] > 500  # those of training
    score = play(model, env, 4, deterministic=True, seed=0)
    np.testing.assert_array_equal(env.obs_rms.mean, before[0])
    assert env.obs_rms.count == before[1]
    np.testing.assert_array_equal(score.returns, score.lengths)  # CartPole's own rewards
    observations = np.concatenate([env.reset() for _ in range(50)])
    raw = env.unnormalize_obs(observations)
    assert np.abs(raw).max() <= 0.05 + 1e-6  # CartPole begins within
    assert not np.allclose(raw, observations)


def test_seeds_of_training_and_evaluations_are_apart(tmp_path, monkeypatch):
    from stable_baselines3.common.vec_env import VecEnv

    seeded = []
    seed = VecEnv.seed

    def spy(self, start=None):
        seeded.append((start, self.num_envs))
        return seed(self, start)

    monkeypatch.setattr(VecEnv, "seed", spy)
    played = []
    for run_seed in (7, 8):
        seeded.clear()
        short_run(tmp_path / f"run{run_seed}", seed=run_seed)
        # The last before learning, two periodic evaluations, and twice the final one.
        starts = dict.fromkeys(start for start, _ in seeded if start >= 1000)
        assert len(starts) == 4, seeded
        assert SHORT["n_envs"] in {n_envs for start, n_envs in seeded if start >= 1000}
        played += [set(range(start, start + n_envs)) for start, n_envs in dict(seeded).items() if start >= 1000]
    # Neighbouring runs too: seeds counted from the runs' own would be shared.
    for one, other in itertools.combinations(played, 2):
        assert not one & other


def test_default_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve({**SHORT, "env": "tiny/ObserveBox-v0", "seed": 5, "timesteps": 100})
    first, second = train(config), train(config)
    assert first.path != second.path
    for run in (first, second):
        assert run.finished
        assert run.path.parts[:3] == ("runs", "tiny-ObserveBox-v0", "gumbel-ac")
        assert "-seed5" in run.path.name
    shutil.rmtree(tmp_path / "runs")
