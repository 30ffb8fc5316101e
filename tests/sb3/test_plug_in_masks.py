"""Action masks off-policy: nothing invalid is executed, and the critic is fitted at what was executed."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plug_in_cases import ACTION_SPACES, OFF_POLICY, Matching, assert_vertices, blocks, make_env, make_model, one_hot
from plug_in_cases import stored_actions as stored
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from gumbel_rl.sb3 import ActionMaskObservation, OneHotActions

SPACES = ["discrete-start", "ragged", "matrix", "binary"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("algorithm", [SAC, DDPG])
def test_nothing_invalid_is_executed(algorithm: type[Any], space: str) -> None:
    n_envs, steps = 4, 600
    tasks: list[Matching] = []

    def task() -> gym.Env[Any, Any]:
        tasks.append(Matching(ACTION_SPACES[space], masked=True))
        return tasks[-1]

    env = make_vec_env(task, n_envs, seed=0, wrapper_class=OneHotActions)
    # Half of it warm-up, whose random actions know no masks; then the policy's own, while it learns.
    model = make_model(algorithm, env, learning_starts=steps // 2, train_freq=40, gradient_steps=2, buffer_size=4000)
    model.learn(steps)
    assert sum(task.steps for task in tasks) == model.num_timesteps >= steps
    assert sum(task.invalid for task in tasks) == 0
    assert_vertices(ACTION_SPACES[space], stored(model))
    # The masks did bite: many of the random actions were invalid, and none of the policy's.
    pos = model.replay_buffer.pos
    masks = model.replay_buffer.observations["action_mask"][:pos].reshape(pos * n_envs, -1)
    invalid = ((stored(model) == 1.0) & (masks < 0.5)).any(-1)
    assert invalid[: steps // 2].mean() > 0.2
    assert not invalid[steps // 2 + n_envs :].any()


@pytest.mark.parametrize("algorithm", OFF_POLICY)
@pytest.mark.parametrize("space", SPACES)
def test_the_critic_values_what_was_executed(algorithm: type[Any], space: str) -> None:
    executed: list[Any] = []

    def keep(local: dict[str, Any], _: dict[str, Any]) -> bool:
        executed.extend(info["executed"] for info in local["infos"])
        return True

    env = make_vec_env(partial(Matching, ACTION_SPACES[space], masked=True), 2, seed=0, wrapper_class=OneHotActions)
    model = make_model(algorithm, env, learning_starts=100, train_freq=2, policy_kwargs={"critic": "mlp"})
    model.learn(130, callback=keep)
    pos = model.replay_buffer.pos
    observations = {
        key: torch.as_tensor(rows[:pos].reshape(pos * 2, -1)) for key, rows in model.replay_buffer.observations.items()
    }
    actions = torch.as_tensor(stored(model))
    true = torch.as_tensor(np.array(executed))
    with torch.no_grad():
        features = model.critic.extract_features(observations, model.critic.features_extractor)
        for network, value in zip(model.critic.critics, model.critic(observations, actions), strict=True):
            torch.testing.assert_close(value.squeeze(-1), network(features, true))
            as_drawn = network(features, (actions + 1) / 2)
            assert (value.squeeze(-1) - as_drawn).abs().max() > 1e-3


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_the_policy_gives_no_probability_to_the_forbidden(algorithm: type[Any]) -> None:
    env = make_env("ragged", masked=True)
    model = make_model(algorithm, env).learn(40)
    observation, _ = env.reset(seed=3)
    batch = {key: np.repeat(value[None], 200, 0) for key, value in observation.items()}
    forbidden = observation["action_mask"] == 0
    assert forbidden.any()
    for deterministic in (False, True):
        actions, _ = model.predict(batch, deterministic=deterministic)
        assert actions.shape == (200, 10)
        assert_vertices(ACTION_SPACES["ragged"], actions)
        assert (actions[:, forbidden] == -1.0).all()
        single, _ = model.predict(observation, deterministic=deterministic)
        assert single.shape == (10,)
        assert (single[forbidden] == -1.0).all()


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_the_mask_is_no_feature(algorithm: type[Any]) -> None:
    env = make_env("discrete", masked=True)
    model = make_model(algorithm, env)
    assert model.actor.net[0].in_features == model.critic.critics[0].net[0].in_features == 3
    one = {"observation": torch.ones(1, 3), "action_mask": torch.tensor([[1, 1, 1, 1]], dtype=torch.int8)}
    other = {**one, "action_mask": torch.tensor([[1, 0, 1, 1]], dtype=torch.int8)}
    action = torch.tensor([[1.0, -1.0, -1.0, -1.0]])
    for value, again in zip(model.critic(one, action), model.critic(other, action), strict=True):
        torch.testing.assert_close(value, again, rtol=0, atol=0)


class ByMethod(Matching):
    """Offers its mask as sb3-contrib has it, by a method; observations are the vector alone."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        super().__init__(action_space, masked=True)
        self.observation_space = self.vector

    def _observation(self) -> Any:
        self.observation_space = spaces.Dict({"action_mask": spaces.MultiBinary(self.width)})
        parts = super()._observation()
        self.observation_space = self.vector
        return parts["observation"]

    def action_masks(self) -> Any:
        return self.mask


class ByInfo(ByMethod):
    """Offers its mask in the info, with an array for each factor."""

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "action_mask": [self.mask[block] for block in blocks(self.action_space)]}

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return observation, self._info(info)

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, self._info(info)

    action_masks = property()  # as if it were not there


@pytest.mark.parametrize("kind", [ByMethod, ByInfo])
def test_masks_that_are_offered_in_another_way(kind: type[ByMethod]) -> None:
    task = kind(ACTION_SPACES["ragged"])
    model = make_model(SAC, OneHotActions(ActionMaskObservation(task)), learning_starts=100).learn(140)
    assert task.steps == model.num_timesteps
    assert task.invalid == 0
    evaluate_policy(model, Monitor(OneHotActions(ActionMaskObservation(task))), 3)
    assert task.invalid == 0


@pytest.mark.parametrize("float_mask", [False, True])
def test_normalised_observations_and_raw_masks(float_mask: bool) -> None:
    make = partial(Matching, ACTION_SPACES["ragged"], masked=True, float_mask=float_mask)
    env = VecNormalize(make_vec_env(make, 2, seed=0, wrapper_class=OneHotActions), norm_obs_keys=["observation"])
    model = make_model(SAC, env, train_freq=2).learn(80)
    assert sum(env.get_attr("invalid")) == 0
    batch = model.replay_buffer.sample(32, env=env).observations
    assert set(batch["action_mask"].unique().tolist()) <= {0.0, 1.0}


def test_a_normalised_mask_is_refused() -> None:
    make = partial(Matching, ACTION_SPACES["ragged"], masked=True, float_mask=True)
    env = VecNormalize(make_vec_env(make, 1, seed=0, wrapper_class=OneHotActions))
    with pytest.raises(ValueError, match="norm_obs_keys"):
        make_model(SAC, env).learn(80)


def test_a_binary_mask_cannot_be_normalised() -> None:
    make = partial(Matching, ACTION_SPACES["ragged"], masked=True)
    with pytest.raises(ValueError, match=r"VecNormalize only supports.*norm_obs_keys"):
        VecNormalize(make_vec_env(make, 1, wrapper_class=OneHotActions))


def test_stacked_masks_are_stable_baselines3s_or_ours_to_refuse() -> None:
    stack = partial(make_vec_env, n_envs=1, wrapper_class=OneHotActions)
    with pytest.raises(TypeError, match=r"only supports Box and Dict as observation spaces\. MultiBinary"):
        VecFrameStack(stack(partial(Matching, ACTION_SPACES["ragged"], masked=True)), 2)
    env = VecFrameStack(stack(partial(Matching, ACTION_SPACES["ragged"], masked=True, float_mask=True)), 2)
    with pytest.raises(ValueError, match="need a mask of 10 entries"):
        make_model(SAC, env)


def test_a_masked_task_is_learnt() -> None:
    """The best allowed action is the last choice where it is allowed: the policy finds it on fresh masks."""
    env = make_env("discrete", masked=True)
    model = make_model(SAC, env, gamma=0.0, ent_coef=0.02, learning_rate=0.03).learn(200)
    last = one_hot(ACTION_SPACES["discrete"], 3) == 1.0
    hits = []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        action, _ = model.predict(observation, deterministic=True)
        if observation["action_mask"][last][0] == 1:
            hits.append(action[last][0] == 1.0)
    assert len(hits) > 50
    assert np.mean(hits) > 0.95
