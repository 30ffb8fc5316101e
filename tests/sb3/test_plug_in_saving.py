"""Saving, loading, resuming, predicting and repeating with the off-policy plug-ins."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plug_in_cases import (
    ACTION_SPACES,
    OFF_POLICY,
    Matching,
    assert_vertices,
    make_env,
    make_model,
    parameters,
    same,
)
from plug_in_cases import stored_actions as stored
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from gumbel_rl import make_estimator
from gumbel_rl.sb3 import GumbelSACPolicy, OneHotActions, TemperatureCallback

SCHEDULE = "linear:1:0.2:100"
SETTINGS = {
    "estimator": "gumbel-softmax",
    "estimator_kwargs": {"samples": 2},
    "critic": "multilinear",
    "critic_kwargs": {"rank": 2},
    "temperature": SCHEDULE,
    "share_features_extractor": True,
}


def state(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def observations(count: int = 50) -> Any:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_a_model_is_the_same_after_loading(algorithm: type[Any], device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = make_model(algorithm, make_env("ragged"), SETTINGS).learn(50)
    chosen = model.predict(observations(), deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = algorithm.load(tmp_path / "model.zip", env=make_env("ragged"), device=device)
    assert_same_state({k: v.cpu() for k, v in state(loaded).items()}, state(model))
    np.testing.assert_array_equal(loaded.predict(observations(), deterministic=True)[0], chosen)
    assert float(loaded.policy.temperature) == pytest.approx(0.6)
    assert loaded.policy.estimator.temperature == pytest.approx(0.6)
    assert loaded.policy.estimator is loaded.actor.estimator
    assert loaded.policy.estimator.samples == 2
    assert loaded.num_timesteps == 50
    # It goes on from there: steps, temperature and updates.
    loaded.learn(25, reset_num_timesteps=False)
    assert loaded.num_timesteps == int(loaded.policy.env_steps) == 75
    assert float(loaded.policy.temperature) == pytest.approx(0.4)
    assert not same(parameters(loaded.actor), parameters(model.actor))


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_a_model_is_saved_to_a_stream_and_loaded_without_environment(algorithm: type[Any]) -> None:
    model = make_model(algorithm, make_env("binary")).learn(40)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    loaded = algorithm.load(stream)
    assert loaded.env is None
    assert loaded.action_space == model.action_space
    chosen, _ = loaded.predict(observations(), deterministic=True)
    np.testing.assert_array_equal(chosen, model.predict(observations(), deterministic=True)[0])
    with pytest.raises((AssertionError, ValueError, AttributeError)):
        loaded.learn(10)
    loaded.set_env(make_env("binary"))
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.num_timesteps == 50


def test_a_model_is_not_loaded_on_other_actions(tmp_path: Path) -> None:
    model = make_model(SAC, make_env("ragged")).learn(25)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Action spaces do not match.*OneHotBox\(2, 5, 3\).*OneHotBox\(2, 2, 2\)"):
        SAC.load(tmp_path / "model", env=make_env("binary"))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        model.set_env(make_env("binary"))


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_a_policy_is_saved_by_itself(algorithm: type[Any], tmp_path: Path) -> None:
    estimator = make_estimator("st-gumbel-softmax", samples=2)
    model = make_model(algorithm, make_env("ragged"), SETTINGS | {"estimator": estimator, "estimator_kwargs": None})
    model.learn(40)
    model.policy.save(tmp_path / "policy.pt")
    loaded = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    assert_same_state(dict(loaded.state_dict()), state(model))
    np.testing.assert_array_equal(
        loaded.predict(observations(), deterministic=True)[0], model.predict(observations(), deterministic=True)[0]
    )
    assert float(loaded.temperature) == loaded.estimator.temperature == pytest.approx(0.68)
    assert loaded.share_features_extractor
    assert loaded.actor.features_extractor is loaded.critic.features_extractor
    if algorithm is not SAC:
        assert loaded.ent_coef == model.policy.ent_coef == loaded.actor.ent_coef


@pytest.mark.parametrize("critic", ["multilinear", "mlp"])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_an_actor_acts_and_is_saved_by_itself(algorithm: type[Any], critic: str, tmp_path: Path) -> None:
    model = make_model(algorithm, make_env("ragged"), {"critic": critic}).learn(40)
    chosen, _ = model.predict(observations(), deterministic=True)
    model.actor.save(tmp_path / "actor.pt")
    loaded = type(model.actor).load(tmp_path / "actor.pt", device="cpu")
    for actor in (model.actor, loaded):
        np.testing.assert_array_equal(actor.predict(observations(), deterministic=True)[0], chosen)
        assert_vertices(ACTION_SPACES["ragged"], actor.predict(observations())[0])


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_parameters_are_taken_out_and_put_back(algorithm: type[Any]) -> None:
    model = make_model(algorithm, make_env("ragged"), SETTINGS).learn(40)
    kept = copy.deepcopy(model.get_parameters())
    assert {"policy", "actor.optimizer", "critic.optimizer"} <= set(kept)
    before = state(model)
    model.learn(30, reset_num_timesteps=False)
    assert not torch.equal(before["temperature"], model.policy.temperature)
    model.set_parameters(kept, exact_match=True)
    assert_same_state(state(model), before)
    assert model.policy.estimator.temperature == pytest.approx(0.68)
    other = make_model(algorithm, make_env("ragged"), SETTINGS, seed=7)
    other.set_parameters(kept)
    assert_same_state(state(other), before)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
@pytest.mark.parametrize("masked", [False, True])
def test_a_replay_buffer_is_saved(algorithm: type[Any], masked: bool, tmp_path: Path) -> None:
    model = make_model(algorithm, make_env("ragged", masked=masked)).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    fresh = make_model(algorithm, make_env("ragged", masked=masked), learning_starts=0)
    fresh.load_replay_buffer(tmp_path / "buffer.pkl")
    np.testing.assert_array_equal(stored(fresh), stored(model))
    assert_vertices(ACTION_SPACES["ragged"], stored(fresh))
    fresh.learn(10)
    assert len(stored(fresh)) == 50


def test_normalisation_is_saved(tmp_path: Path) -> None:
    make = partial(make_vec_env, partial(Matching, ACTION_SPACES["ragged"]), 1, seed=0, wrapper_class=OneHotActions)
    env = VecNormalize(make())
    model = make_model(SAC, env).learn(40)
    model.save(tmp_path / "model")
    env.save(tmp_path / "normalise.pkl")
    again = VecNormalize.load(tmp_path / "normalise.pkl", make())
    assert again.action_space == env.action_space
    loaded = SAC.load(tmp_path / "model", env=again)
    np.testing.assert_array_equal(again.obs_rms.mean, env.obs_rms.mean)
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.get_vec_normalize_env() is again


@pytest.mark.parametrize("algorithm", OFF_POLICY)
@pytest.mark.parametrize("space", ACTION_SPACES)
def test_predictions(algorithm: type[Any], space: str) -> None:
    env = make_env(space)
    model = make_model(algorithm, env)
    single, batch = observations()[0], observations()
    for deterministic in (True, False):
        action, hidden = model.predict(single, deterministic=deterministic)
        assert hidden is None
        assert isinstance(action, np.ndarray)
        assert action.shape == env.action_space.shape
        assert env.action_space.contains(action)
        actions, _ = model.predict(batch, deterministic=deterministic)
        assert actions.shape == (50, *env.action_space.shape)
        assert_vertices(ACTION_SPACES[space], actions)
        # What it predicts is a point of the space that the environment takes as it is.
        env.reset(seed=0)
        env.step(action)
    first = model.predict(batch, deterministic=True)[0]
    np.testing.assert_array_equal(first, model.predict(batch, deterministic=True)[0])
    np.testing.assert_array_equal(first[0], model.predict(single, deterministic=True)[0])
    drawn = model.predict(np.repeat(batch[:1], 200, 0))[0]
    # The first policy is nearly uniform: every choice is drawn.
    assert (drawn == 1.0).any(0).all()


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_the_deterministic_action_is_the_most_probable(algorithm: type[Any]) -> None:
    model = make_model(algorithm, make_env("ragged")).learn(60)
    probs = model.actor.distribution(torch.as_tensor(observations())).probs.detach().numpy()
    chosen, _ = model.predict(observations(), deterministic=True)
    start = 0
    for size in (2, 5, 3):
        np.testing.assert_array_equal(
            chosen[:, start : start + size].argmax(-1), probs[:, start : start + size].argmax(-1)
        )
        start += size


def test_observations_of_gymnasium_and_of_vec_envs_are_told_apart() -> None:
    env = make_env()
    with pytest.raises(ValueError, match="mixing Gym API"):
        make_model(SAC, env).predict(env.reset())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_a_seed_repeats_a_run(algorithm: type[Any], masked: bool) -> None:
    runs = []
    for seed in (3, 3, 4):
        make = partial(Matching, ACTION_SPACES["ragged"], masked=masked)
        env = make_vec_env(make, 2, wrapper_class=OneHotActions)
        critic = {"critic": "mlp", "critic_kwargs": {"interpolated_learning": True}}
        model = make_model(algorithm, env, critic, seed=seed, train_freq=2).learn(60)
        drawn = model.predict(model.get_env().reset())[0]
        runs.append((state(model), stored(model), drawn))
    assert_same_state(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    np.testing.assert_array_equal(runs[0][2], runs[1][2])
    assert not np.array_equal(runs[0][1], runs[2][1])


def test_a_schedule_given_to_the_callback_spans_what_is_left_when_resumed(tmp_path: Path) -> None:
    model = make_model(SAC, make_env()).learn(50, callback=TemperatureCallback("linear:1:0.5:100"))
    assert float(model.policy.temperature) == pytest.approx(0.75)
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model", env=make_env())
    assert float(loaded.policy.temperature) == pytest.approx(0.75)
    loaded.learn(25, reset_num_timesteps=False, callback=TemperatureCallback("linear:1:0.5:100"))
    assert float(loaded.policy.temperature) == pytest.approx(0.625)
    assert loaded.policy.estimator.temperature == pytest.approx(0.625)


def test_the_one_hot_space_survives_pickling_and_copying() -> None:
    for space in (make_env("ragged").action_space, make_env("discrete-start").action_space):
        for again in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
            assert again == space
            assert again.factors == space.factors
            assert again.contains(again.sample())
            assert again.sample().dtype == np.float32
        assert space != spaces.Box(-1, 1, space.shape, np.float32)
    sampler = make_env("ragged").action_space
    sampler.seed(5)
    one = [sampler.sample() for _ in range(5)]
    sampler.seed(5)
    np.testing.assert_array_equal(one, [sampler.sample() for _ in range(5)])


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG])
def test_continuing_adds_up(algorithm: type[Any]) -> None:
    model = make_model(algorithm, make_env()).learn(30)
    model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == int(model.policy.env_steps) == len(stored(model)) == 60
    model.learn(10)
    assert model.num_timesteps == 10
    assert int(model.policy.env_steps) == 70


def test_a_policy_is_copied_with_its_estimator() -> None:
    policy = make_model(SAC, make_env(), {"temperature": SCHEDULE}).learn(30).policy
    assert isinstance(policy, GumbelSACPolicy)
    clone = copy.deepcopy(policy)
    assert clone.estimator is clone.actor.estimator
    assert clone.estimator is not policy.estimator
    clone.set_temperature(0.1)
    assert float(policy.temperature) == policy.estimator.temperature == pytest.approx(0.76)


# Stable-Baselines3 takes the buffer class that it chose itself, and saved, for a custom one; it is set up all the same.
@pytest.mark.filterwarnings("ignore:.*n_steps=3. is ignored because a custom")
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_n_step_returns_survive_loading(algorithm: type[Any], tmp_path: Path) -> None:
    make_model(algorithm, make_env("ragged"), n_steps=3, gamma=0.9).learn(40).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=make_env("ragged"))
    assert loaded.replay_buffer.n_steps == 3
    assert loaded.replay_buffer.gamma == 0.9
    loaded.learn(40, reset_num_timesteps=False)
    # Full returns of three steps are discounted thrice; those that an episode's end cuts short, less.
    discounts = loaded.replay_buffer.sample(200).discounts
    assert float(discounts.min()) == pytest.approx(0.9**3)
