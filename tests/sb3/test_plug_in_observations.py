"""The off-policy plug-ins on normalised, stacked, image, Dict and goal observations, and with hindsight replay."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plug_in_cases import ACTION_SPACES, OFF_POLICY, Matching, assert_vertices, make_model, parameters, same
from plug_in_cases import stored_actions as stored
from stable_baselines3 import DDPG, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, IdentityEnv, SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import (
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
    sync_envs_normalization,
)

from gumbel_rl.sb3 import OneHotActions


def moved(model: Any, steps: int) -> bool:
    before = parameters(model.actor), parameters(model.critic)
    model.learn(steps)
    return not same(before[0], parameters(model.actor)) and not same(before[1], parameters(model.critic))


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_normalised_observations_and_rewards(algorithm: type[Any]) -> None:
    make = partial(make_vec_env, partial(Matching, ACTION_SPACES["ragged"]), wrapper_class=OneHotActions, seed=0)
    env = VecNormalize(make(2), gamma=0.9)
    model = make_model(algorithm, env, train_freq=2)
    assert moved(model, 60)
    # The buffer holds what came from the environment, and normalises as it is sampled.
    raw = model.replay_buffer.observations[: model.replay_buffer.pos].reshape(-1, 3)
    sampled = model.replay_buffer.sample(200, env=env).observations.numpy()
    assert abs(raw.std() - 1) < 0.25
    assert np.abs(sampled).max() <= env.clip_obs
    np.testing.assert_allclose(np.abs(sampled[:, None] - env.normalize_obs(raw)).sum(-1).min(1), 0, atol=1e-4)
    evaluation = VecNormalize(make(1), training=False, norm_reward=False)
    sync_envs_normalization(env, evaluation)
    mean, _ = evaluate_policy(model, evaluation, 3)
    assert 0 <= mean <= 10


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_images_get_convolutions_by_themselves(algorithm: type[Any], channels_first: bool) -> None:
    task = FakeImageEnv(3, 36, 36, 1, discrete=True, channel_first=channels_first)
    model = make_model(
        algorithm,
        OneHotActions(task),
        {"features_extractor_kwargs": {"features_dim": 8}},
        buffer_size=60,
        learning_starts=8,
        batch_size=4,
    )
    assert isinstance(model.actor.features_extractor, NatureCNN)
    assert isinstance(model.critic.features_extractor, NatureCNN)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == (not channels_first)
    assert moved(model, 14)
    observation = model.get_env().reset()
    assert model.predict(observation, deterministic=True)[0].shape == (1, 3)
    # A single image may come as the environment gives it, its channels last.
    assert model.predict(task.reset()[0], deterministic=True)[0].shape == (3,)


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_stacked_frames(kind: str) -> None:
    task = partial(FakeImageEnv, 3, 36, 36, 1, True) if kind == "image" else partial(Matching, ACTION_SPACES["ragged"])
    env = VecFrameStack(make_vec_env(task, 2, seed=0, wrapper_class=OneHotActions), 3)
    extra = {"features_extractor_kwargs": {"features_dim": 8}} if kind == "image" else {}
    model = make_model(DDPG, env, extra, buffer_size=60, learning_starts=8, batch_size=4, train_freq=2)
    assert model.observation_space.shape == ((3, 36, 36) if kind == "image" else (9,))
    assert isinstance(model.actor.features_extractor, NatureCNN if kind == "image" else FlattenExtractor)
    assert moved(model, 20)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
@pytest.mark.parametrize("share", [False, True])
def test_dict_observations_with_images(algorithm: type[Any], share: bool) -> None:
    model = make_model(
        algorithm,
        OneHotActions(SimpleMultiObsEnv(discrete_actions=True)),
        {"share_features_extractor": share, "features_extractor_kwargs": {"cnn_output_dim": 8}},
        buffer_size=60,
        learning_starts=8,
        batch_size=4,
    )
    assert isinstance(model.actor.features_extractor, CombinedExtractor)
    assert (model.actor.features_extractor is model.critic.features_extractor) == share
    assert moved(model, 14)
    assert evaluate_policy(model, model.get_env(), 1, deterministic=False)[1] == 0


@pytest.mark.parametrize("space", list(ACTION_SPACES))
def test_integer_observations(space: str) -> None:
    """Stable-Baselines3's identity environment, whose observation is the action to take."""
    integers = ACTION_SPACES[space]
    env = OneHotActions(IdentityEnv(space=integers, ep_length=10))
    if space == "matrix":
        with pytest.raises(TypeError, match="a MultiDiscrete may have one dimension, this one has 2; flatten"):
            make_model(SAC, env)
        return
    model = make_model(SAC, env)
    assert moved(model, 40)
    assert_vertices(integers, stored(model))


def test_the_identity_is_learnt() -> None:
    env = Monitor(OneHotActions(IdentityEnv(space=spaces.MultiDiscrete([3, 2], seed=0), ep_length=10)))
    model = make_model(SAC, env, {"net_arch": [16]}, gamma=0.0, ent_coef=0.05, learning_rate=0.02, learning_starts=120)
    model.learn(250)
    assert evaluate_policy(model, env, 5)[0] > 9


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_hindsight_replay(algorithm: type[Any], n_envs: int) -> None:
    env = make_vec_env(partial(BitFlippingEnv, n_bits=3), n_envs, seed=0, wrapper_class=OneHotActions)
    model = make_model(
        algorithm,
        env,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2, "goal_selection_strategy": "future"},
        train_freq=2,
    )
    assert moved(model, 60)
    assert_vertices(spaces.Discrete(3), stored(model))
    # The goals of relabelled transitions are states that were reached later on; the task's own is all ones.
    goals = model.replay_buffer.sample(100).observations["desired_goal"]
    assert 0.2 < float((goals == 1).all(-1).float().mean()) < 0.9


def test_hindsight_replay_after_loading(tmp_path: Any) -> None:
    env = make_vec_env(partial(BitFlippingEnv, n_bits=3), 1, seed=0, wrapper_class=OneHotActions)
    model = make_model(TD3, env, replay_buffer_class=HerReplayBuffer).learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = TD3.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    np.testing.assert_array_equal(stored(loaded), stored(model))
    assert moved(loaded, 40)


def test_hindsight_needs_the_environment_at_loading(tmp_path: Any) -> None:
    env = make_vec_env(partial(BitFlippingEnv, n_bits=3), 1, wrapper_class=OneHotActions)
    make_model(SAC, env, replay_buffer_class=HerReplayBuffer).save(tmp_path / "model")
    with pytest.raises(AssertionError, match="You must pass an environment"):
        SAC.load(tmp_path / "model")


class Nested(gym.Env[Any, Any]):
    """A Dict in a Dict, which Stable-Baselines3 has no buffer for."""

    observation_space = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})})
    action_space = spaces.Discrete(2)


def test_nested_observations_are_refused() -> None:
    with pytest.raises((NotImplementedError, TypeError), match=r"(?i)nested|not supported"):
        make_model(SAC, OneHotActions(Nested()))


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_pixel_values_are_divided_once(algorithm: type[Any]) -> None:
    env = OneHotActions(FakeImageEnv(3, 36, 36, 1, discrete=True, channel_first=True))
    model = make_model(algorithm, env, {"features_extractor_kwargs": {"features_dim": 8}}, buffer_size=10)
    image = torch.randint(256, (2, 1, 36, 36), dtype=torch.uint8)
    extractor = model.actor.features_extractor
    torch.testing.assert_close(model.actor.extract_features(image, extractor), extractor(image.float() / 255))
    critics_own = model.critic.features_extractor
    torch.testing.assert_close(model.critic.extract_features(image, critics_own), critics_own(image.float() / 255))
