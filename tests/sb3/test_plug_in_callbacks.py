"""Stable-Baselines3's callbacks, evaluation and logging with the off-policy plug-ins, and our own two callbacks."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plug_in_cases import ACTION_SPACES, OFF_POLICY, Matching, assert_vertices, make_env, make_model, parameters, same
from plug_in_cases import stored_actions as stored
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gumbel_rl.sb3 import DiscreteReplayBuffer, GradientDiagnosticsCallback, OneHotActions, TemperatureCallback


def vec_env(n_envs: int = 1, space: str = "ragged", **options: Any) -> DummyVecEnv:
    return make_vec_env(partial(Matching, ACTION_SPACES[space], **options), n_envs, seed=0, wrapper_class=OneHotActions)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_evaluation_keeps_the_best_model(algorithm: type[Any], masked: bool, tmp_path: Path) -> None:
    model = make_model(algorithm, vec_env(masked=masked))
    callback = EvalCallback(
        vec_env(2, masked=masked),
        eval_freq=20,
        n_eval_episodes=4,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of environments that are not of the same type
        model.learn(60, callback=callback)
    results = np.load(tmp_path / "evaluations.npz")
    np.testing.assert_array_equal(results["timesteps"], [20, 40, 60])
    assert results["results"].shape == (3, 4)
    assert np.isfinite(results["results"]).all()
    best = algorithm.load(tmp_path / "best_model.zip")
    observation = vec_env(3, masked=masked).reset()
    assert_vertices(ACTION_SPACES["ragged"], best.predict(observation, deterministic=True)[0])


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_evaluation_does_not_count_as_training(algorithm: type[Any]) -> None:
    """Temperature and steps are those of the environment that is learnt from."""
    model = make_model(algorithm, vec_env(), {"temperature": "linear:1:0.5:100"})
    model.learn(40, callback=EvalCallback(vec_env(), eval_freq=10, n_eval_episodes=3, verbose=0, warn=False))
    assert int(model.policy.env_steps) == 40
    assert float(model.policy.temperature) == pytest.approx(0.8)
    before = parameters(model.policy)
    evaluate_policy(model, vec_env(), 5, deterministic=False)
    assert int(model.policy.env_steps) == 40
    assert same(before, parameters(model.policy))


def test_evaluation_of_policies_whose_return_is_known() -> None:
    model = make_model(SAC, vec_env(space="discrete"))
    with torch.no_grad():
        for weights in model.actor.parameters():
            weights.zero_()
        model.actor.net[-1].bias[3] = 8.0
    assert evaluate_policy(model, Monitor(make_env("discrete")), 5) == (10.0, 0.0)
    with torch.no_grad():
        model.actor.net[-1].bias[3] = -0.001
    assert evaluate_policy(model, Monitor(make_env("discrete")), 5) == (0.0, 0.0)
    # As good as uniform when it draws: a quarter of the reward. 1000 draws, 6 standard deviations.
    mean, _ = evaluate_policy(model, vec_env(2, "discrete"), 100, deterministic=False)
    assert abs(mean / 10 - 0.25) < 6 * (0.25 * 0.75 / 1000) ** 0.5


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_checkpoints_go_on_where_they_stopped(algorithm: type[Any], tmp_path: Path) -> None:
    env = VecNormalize(vec_env(2))
    model = make_model(algorithm, env, {"temperature": "linear:1:0.5:100"}, train_freq=2)
    callback = CheckpointCallback(20, str(tmp_path), name_prefix="run", save_replay_buffer=True, save_vecnormalize=True)
    model.learn(80, callback=callback)
    names = {path.name for path in tmp_path.iterdir()}
    for step in (40, 80):
        assert {
            f"run_{step}_steps.zip",
            f"run_replay_buffer_{step}_steps.pkl",
            f"run_vecnormalize_{step}_steps.pkl",
        } <= names
    again = VecNormalize.load(tmp_path / "run_vecnormalize_40_steps.pkl", vec_env(2))
    loaded = algorithm.load(tmp_path / "run_40_steps.zip", env=again)
    loaded.load_replay_buffer(tmp_path / "run_replay_buffer_40_steps.pkl")
    # Stable-Baselines3 calls its callbacks before it stores the step's transition.
    assert len(stored(loaded)) == 38
    assert loaded.num_timesteps == int(loaded.policy.env_steps) == 40
    assert float(loaded.policy.temperature) == pytest.approx(0.8)
    loaded.learn(40, reset_num_timesteps=False)
    assert float(loaded.policy.temperature) == pytest.approx(0.6)
    assert_vertices(ACTION_SPACES["ragged"], stored(loaded))


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_callbacks_in_a_list_and_by_events(algorithm: type[Any], tmp_path: Path) -> None:
    inner = CheckpointCallback(1, str(tmp_path), name_prefix="event")
    every = EveryNTimesteps(25, inner)
    stop = StopTrainingOnMaxEpisodes(8)
    model = make_model(algorithm, vec_env())
    model.learn(500, callback=CallbackList([every, stop, TemperatureCallback(), GradientDiagnosticsCallback(30)]))
    assert model.num_timesteps == 80, "8 episodes of 10 steps"
    assert {path.name for path in tmp_path.iterdir()} == {f"event_{step}_steps.zip" for step in (25, 50, 75)}
    assert every.n_calls == model.num_timesteps
    model.learn(20, callback=[TemperatureCallback()])
    model.learn(20, callback=lambda local, _: local["num_collected_steps"] < 5)


def test_training_stops_on_the_reward_or_without_improvement() -> None:
    threshold = StopTrainingOnRewardThreshold(-1.0)
    evaluation = EvalCallback(vec_env(), callback_on_new_best=threshold, eval_freq=30, n_eval_episodes=2, verbose=0)
    assert make_model(DDPG, vec_env()).learn(200, callback=evaluation).num_timesteps == 30
    stale = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=0)
    evaluation = EvalCallback(vec_env(), callback_after_eval=stale, eval_freq=10, n_eval_episodes=1, verbose=0)
    assert make_model(SAC, vec_env(), learning_starts=300).learn(250, callback=evaluation).num_timesteps < 250


@pytest.mark.parametrize("critic", ["multilinear", "mlp"])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_tensorboard_has_the_tags(algorithm: type[Any], critic: str, tmp_path: Path) -> None:
    model = make_model(algorithm, vec_env(2), {"critic": critic}, train_freq=2, tensorboard_log=str(tmp_path))
    callbacks = [TemperatureCallback("exponential:1:0.5"), GradientDiagnosticsCallback(every=20, repeats=4)]
    evaluation = EvalCallback(vec_env(), eval_freq=40, n_eval_episodes=1, verbose=0)
    model.learn(160, callback=[*callbacks, evaluation], tb_log_name="run", log_interval=2)
    events = EventAccumulator(str(tmp_path / "run_1")).Reload()
    expected = {
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "eval/mean_reward", "eval/mean_ep_length"),
        *("train/actor_loss", "train/critic_loss", "train/learning_rate"),
        *("train/temperature", "train/entropy", "train/entropy_ratio", "train/zero_grad_frac"),
        *("grad/bias", "grad/variance", "grad/cosine"),
    }
    tags = events.Tags()
    assert expected <= set(tags["scalars"])
    assert all(len(tag) <= 30 for tag in tags["scalars"])
    assert "dist/action_probs" in tags["histograms"]
    for tag in expected:
        assert np.isfinite([event.value for event in events.Scalars(tag)]).all(), tag
    temperatures = events.Scalars("train/temperature")
    for event in temperatures:
        assert event.value == pytest.approx(0.5 ** (event.step / 160), abs=0.02)
    assert temperatures[-1].value < temperatures[0].value
    ratios = [event.value for event in events.Scalars("train/entropy_ratio")]
    assert all(0 < ratio <= 1.0001 for ratio in ratios)


@pytest.mark.parametrize(
    "buffer",
    [{}, {"replay_buffer_class": DiscreteReplayBuffer, "replay_buffer_kwargs": {"gamma": 0.99}}],
    ids=["stock", "discrete"],
)
def test_the_diagnostics_do_not_change_the_run(buffer: dict[str, Any]) -> None:
    runs = []
    for callback in (None, GradientDiagnosticsCallback(every=10, repeats=2)):
        model = make_model(SAC, vec_env(2), train_freq=2, **buffer).learn(80, callback=callback)
        runs.append((parameters(model.policy), model.replay_buffer.actions[: model.replay_buffer.pos].copy()))
    assert same(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_entropy_counts_as_a_share_of_what_is_allowed() -> None:
    model = make_model(SAC, vec_env(masked=True), learning_starts=10)
    with torch.no_grad():
        for parameter in model.policy.actor.net[-1].parameters():
            parameter.zero_()  # a policy that is uniform over what is allowed
    model.learning_rate = model.lr_schedule = lambda _: 0.0
    model.learn(40, callback=GradientDiagnosticsCallback(every=10, repeats=2), log_interval=1000)
    assert model.logger.name_to_value["train/entropy_ratio"] == pytest.approx(1.0, abs=1e-4)


def test_logs_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(SAC, vec_env(), verbose=1)
    model.learn(100, callback=[TemperatureCallback(), GradientDiagnosticsCallback(20, repeats=2)], log_interval=2)
    printed = capsys.readouterr().out
    for name in ("temperature", "entropy_ratio", "cosine", "ep_rew_mean", "ent_coef"):
        assert f" {name} " in printed, name


def test_the_progress_bar() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rich is experimental.*")
        model = make_model(SAC, vec_env()).learn(30, progress_bar=True, callback=TemperatureCallback())
    assert model.num_timesteps == 30


def test_evaluation_in_other_processes() -> None:
    env = make_vec_env(
        partial(Matching, ACTION_SPACES["ragged"], masked=True),
        2,
        seed=0,
        wrapper_class=OneHotActions,
        vec_env_cls=SubprocVecEnv,
    )
    model = make_model(DDPG, vec_env(masked=True)).learn(30)
    mean, _ = evaluate_policy(model, env, 4)
    assert 0 <= mean <= 10
    assert env.get_attr("invalid") == [0, 0]
    env.close()
