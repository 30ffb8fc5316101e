"""Stock SAC, TD3 and DDPG run with the plug-in policies on every space, critic, estimator and way of collecting."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import gymnasium as gym
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
    stored_actions,
)
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan, VecMonitor

from gumbel_rl import ESTIMATORS
from gumbel_rl.critics import CRITICS
from gumbel_rl.sb3 import GumbelActorCriticPolicy, GumbelSACPolicy, GumbelTD3Policy, OneHotActions
from gumbel_rl.sb3.off_policy import GumbelOffPolicyMixin

CRITIC_OPTIONS: list[dict[str, Any]] = [
    {"critic": "action-linear"},
    {"critic": "additive"},
    {"critic": "multilinear", "critic_kwargs": {"rank": 2}},
    {"critic": "chain"},
    {"critic": "interpolated"},
    {"critic": "mlp"},
    {"critic": "ordinal"},
    {"critic": "mlp", "critic_kwargs": {"interpolated_learning": True}},
]


def sparse_cases() -> list[tuple[type[Any], str, dict[str, Any], str]]:
    """Every space, critic and estimator with every algorithm, in ever other pairs."""
    estimators, names = list(ESTIMATORS), list(ACTION_SPACES)
    count = max(len(estimators), len(names), len(CRITIC_OPTIONS)) + 2
    return [
        (
            algorithm,
            names[k % len(names)],
            CRITIC_OPTIONS[(k + shift) % len(CRITIC_OPTIONS)],
            estimators[(k + 2 * shift) % len(estimators)],
        )
        for shift, algorithm in enumerate(OFF_POLICY)
        for k in range(count)
    ]


def test_the_cases_leave_nothing_out() -> None:
    assert {options["critic"] for options in CRITIC_OPTIONS} == set(CRITICS)
    for algorithm in OFF_POLICY:
        mine = [case for case in sparse_cases() if case[0] is algorithm]
        assert {case[1] for case in mine} == set(ACTION_SPACES)
        assert {str(case[2]) for case in mine} == {str(options) for options in CRITIC_OPTIONS}
        assert {case[3] for case in mine} == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("algorithm", "space", "critic", "estimator"),
    sparse_cases(),
    ids=lambda value: (
        getattr(value, "__name__", None) or ("-".join(map(str, value.values())) if isinstance(value, dict) else None)
    ),
)
def test_learns_a_step_on_every_space(algorithm: type[Any], space: str, critic: dict[str, Any], estimator: str) -> None:
    model = make_model(algorithm, make_env(space), {**critic, "estimator": estimator})
    before = {name: parameters(getattr(model, name)) for name in ("actor", "critic", "critic_target")}
    model.learn(30)
    model.train(4, 16)
    losses = {name: value for name, value in model.logger.name_to_value.items() if name.endswith("loss")}
    assert {"train/actor_loss", "train/critic_loss"} <= set(losses)
    assert np.isfinite(list(losses.values())).all(), losses
    for name, old in before.items():
        new = parameters(getattr(model, name))
        assert all(np.isfinite(array).all() for array in new), name
        assert not same(old, new), f"{name} did not move"
    assert_vertices(ACTION_SPACES[space], stored_actions(model))


@pytest.mark.parametrize(
    ("algorithm", "estimator"),
    [*((SAC, name) for name in ESTIMATORS), *((DDPG, name) for name in ("exact", "rloo", "st-gumbel-softmax"))],
)
def test_every_estimator_follows_the_reward(algorithm: type[Any], estimator: str) -> None:
    model = make_model(
        algorithm,
        make_env("ragged-start"),
        {"estimator": estimator, "critic": "action-linear"},
        gamma=0.0,
        learning_rate=0.03,
        learning_starts=50,
        **({"ent_coef": 0.02} if algorithm is SAC else {}),
    )
    model.learn(150)
    with torch.no_grad():
        probs = model.actor.distribution(torch.zeros(1, 3)).probs[0].numpy()
    # The last choice of each factor is the rewarded one; the first policy was uniform: .33 and .5.
    assert probs[2] > 0.6, probs
    assert probs[4] > 0.7, probs


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("space", ACTION_SPACES)
def test_warm_up_stores_vertices_and_draws_every_choice(space: str, n_envs: int) -> None:
    env = make_vec_env(partial(Matching, ACTION_SPACES[space]), n_envs, seed=0, wrapper_class=OneHotActions)
    model = make_model(SAC, env, learning_starts=150, train_freq=4)
    model.learn(150)
    warm_up = stored_actions(model).copy()
    assert len(warm_up) == model.num_timesteps < 150 + 4 * n_envs
    assert_vertices(ACTION_SPACES[space], warm_up)
    assert (warm_up == 1.0).any(0).all(), "a choice that was never drawn"
    model.learn(60, reset_num_timesteps=False)
    assert_vertices(ACTION_SPACES[space], stored_actions(model))
    assert len(stored_actions(model)) == model.num_timesteps >= 210


def test_what_is_stored_is_what_the_environment_executed() -> None:
    env = make_vec_env(partial(Matching, ACTION_SPACES["matrix"]), 2, seed=0, wrapper_class=OneHotActions)
    executed: list[Any] = []

    def keep(local: dict[str, Any], _: dict[str, Any]) -> bool:
        executed.extend(info["executed"] for info in local["infos"])
        return True

    model = make_model(DDPG, env, train_freq=2).learn(80, callback=keep)
    np.testing.assert_array_equal(stored_actions(model), 2 * np.array(executed) - 1)


@pytest.mark.parametrize(
    ("algorithm", "vec_env"), [(SAC, DummyVecEnv), (TD3, DummyVecEnv), (DDPG, DummyVecEnv), (SAC, SubprocVecEnv)]
)
def test_several_environments(algorithm: type[Any], vec_env: type[Any]) -> None:
    env = make_vec_env(
        partial(Matching, ACTION_SPACES["ragged"]), 2, seed=0, wrapper_class=OneHotActions, vec_env_cls=vec_env
    )
    model = make_model(algorithm, env, train_freq=2, gradient_steps=-1)
    model.learn(60)
    assert model.num_timesteps == 60
    assert int(model.policy.env_steps) == 60
    # As many updates as environment steps since the last: -1, from the first step after the warm-up on.
    assert model._n_updates == pytest.approx(60 - 20, abs=4)
    assert_vertices(ACTION_SPACES["ragged"], stored_actions(model))
    env.close()


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 3},
        {"gradient_steps": -1, "train_freq": 3},
        {"train_freq": (1, "episode")},
        {"train_freq": (1, "episode"), "gradient_steps": -1, "n_steps": 3},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"policy_kwargs": {"share_features_extractor": True}},
        {"policy_kwargs": {"net_arch": {"pi": [4], "qf": [8, 8]}, "activation_fn": torch.nn.Tanh}},
        {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}},
        {"policy_kwargs": {"n_critics": 3}},
        {"policy_kwargs": {"net_arch": []}},
    ],
    ids=str,
)
@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_settings_of_the_algorithm(algorithm: type[Any], options: dict[str, Any]) -> None:
    model = make_model(algorithm, make_env("ragged", length=7), **options)
    before = parameters(model.actor)
    model.learn(60)
    model.train(2, 16)
    assert not same(before, parameters(model.actor))
    assert_vertices(ACTION_SPACES["ragged"], stored_actions(model))
    assert isinstance(model.replay_buffer, NStepReplayBuffer) == (options.get("n_steps", 1) > 1)
    if "n_critics" in options.get("policy_kwargs", {}):
        assert len(model.critic.critics) == 3


def test_memory_cannot_be_saved_where_timeouts_are_told_apart() -> None:
    with pytest.raises(ValueError, match="optimize_memory_usage = True"):
        make_model(SAC, make_env(), optimize_memory_usage=True)


def test_n_step_returns_of_dict_observations_are_stable_baselines3s_to_refuse() -> None:
    with pytest.raises(AssertionError, match="N-step returns are not supported for Dict observation"):
        make_model(SAC, make_env(masked=True), n_steps=3)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_shared_features_are_trained_by_the_actor_alone(algorithm: type[Any]) -> None:
    extractor = {"features_extractor_class": LinearFeatures, "share_features_extractor": True}
    model = make_model(algorithm, make_env(), extractor)
    assert model.actor.features_extractor is model.critic.features_extractor
    before = parameters(model.actor.features_extractor)
    model.learn(30)
    learnt = parameters(model.actor.features_extractor)
    assert not same(before, learnt)
    # Updates of the critic alone: its optimiser gets no gradient of the features.
    actions, critic = model.replay_buffer.sample(16), parameters(model.critic.critics)
    loss = sum(q.square().mean() for q in model.critic(actions.observations, actions.actions))
    model.critic.optimizer.zero_grad()
    loss.backward()
    model.critic.optimizer.step()
    assert same(learnt, parameters(model.actor.features_extractor))
    assert not same(critic, parameters(model.critic.critics))


class LinearFeatures(torch.nn.Module):
    """Features extractor with weights, batch normalisation and dropout, which act differently in training."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__()
        self.features_dim = 5
        self.net = torch.nn.Sequential(
            torch.nn.Linear(observation_space.shape[0], 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.5)
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(observations)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_batch_statistics_change_in_training_only(algorithm: type[Any]) -> None:
    model = make_model(algorithm, make_env(), {"features_extractor_class": LinearFeatures}, learning_starts=40)
    norms = [model.actor.features_extractor.net[1], model.critic.features_extractor.net[1]]
    model.learn(39)
    assert all(torch.equal(norm.running_mean, torch.zeros(5)) for norm in norms)
    model.learn(20, reset_num_timesteps=False)
    assert all(not torch.equal(norm.running_mean, torch.zeros(5)) for norm in norms)
    means = [norm.running_mean.clone() for norm in norms]
    observation = np.ones((4, 3), np.float32)
    actions = [model.predict(observation, deterministic=True)[0] for _ in range(5)]
    assert all(np.array_equal(actions[0], action) for action in actions)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means, strict=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("space", ACTION_SPACES)
def test_the_environment_checker_has_nothing_to_say(space: str, masked: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make_env(space, masked=masked), skip_render_check=True)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "FrozenLake-v1", "Taxi-v4", "Blackjack-v1"])
def test_environments_of_gymnasium(env_id: str) -> None:
    env = OneHotActions(gym.make(env_id))
    if isinstance(env.observation_space, spaces.Tuple):
        with pytest.raises((TypeError, NotImplementedError), match=r"not supported|cannot convert"):
            make_model(SAC, env)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    model = make_model(SAC, env, learning_starts=10).learn(20)
    assert env.action_space.contains(model.predict(env.reset()[0])[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("algorithm", OFF_POLICY)
@pytest.mark.parametrize("masked", [False, True])
def test_on_a_cuda_device(algorithm: type[Any], masked: bool) -> None:
    env = make_env("ragged", masked=masked)
    model = make_model(algorithm, env, device="cuda").learn(40)
    assert isinstance(model.policy, GumbelOffPolicyMixin)
    assert {parameter.device.type for parameter in model.policy.parameters()} == {"cuda"}
    assert env.action_space.contains(model.predict(env.reset()[0])[0])


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_delayed_updates_and_targets(algorithm: type[Any]) -> None:
    """Target networks follow: of the actor too, which SAC has not."""
    model = make_model(algorithm, make_env(), tau=1.0, gradient_steps=2)
    model.learn(40)
    model.train(2, 16)  # an even number of updates, so that the last of them was one of the actor and the targets
    assert same(parameters(model.actor), parameters(model.actor_target))
    assert same(parameters(model.critic), parameters(model.critic_target))


@pytest.mark.parametrize(
    ("algorithm", "policy", "remedy"),
    [
        (SAC, GumbelTD3Policy, "GumbelTD3Policy is not for SAC; give that algorithm GumbelSACPolicy"),
        (TD3, GumbelSACPolicy, "GumbelSACPolicy is not for TD3; give that algorithm GumbelTD3Policy"),
        (DDPG, GumbelSACPolicy, "GumbelSACPolicy is not for DDPG; give that algorithm GumbelTD3Policy"),
        (PPO, GumbelSACPolicy, "give that algorithm GumbelActorCriticPolicy, and leave OneHotActions out"),
        (A2C, GumbelTD3Policy, "give that algorithm GumbelActorCriticPolicy, and leave OneHotActions out"),
        (SAC, GumbelActorCriticPolicy, "leave OneHotActions out, which is for SAC, TD3 and DDPG"),
    ],
)
def test_a_policy_of_another_algorithm_is_refused(algorithm: type[Any], policy: type[Any], remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        algorithm(policy, make_env())


@pytest.mark.parametrize(("algorithm", "policy"), [(SAC, GumbelSACPolicy), (TD3, GumbelTD3Policy)])
def test_algorithms_derived_from_the_stock_ones_are_welcome(algorithm: type[Any], policy: type[Any]) -> None:
    class Derived(algorithm):  # type: ignore[misc]
        pass

    class DerivedPolicy(policy):  # type: ignore[misc]
        pass

    options = {"target_entropy": 0.5} if algorithm is SAC else {"target_policy_noise": 0.0}
    assert Derived(DerivedPolicy, make_env(), learning_starts=5, **options).learn(12).num_timesteps == 12


def test_checked_and_monitored_vector_environments() -> None:
    env = VecMonitor(VecCheckNan(DummyVecEnv([partial(make_env, "ragged")] * 2), raise_exception=True))
    model = make_model(SAC, env, train_freq=2).learn(60)
    assert len(model.ep_info_buffer) == 6


def test_updates_by_the_episode_need_one_environment() -> None:
    with pytest.raises(AssertionError, match="only one env when doing episodic training"):
        make_model(SAC, DummyVecEnv([make_env] * 2), train_freq=(1, "episode")).learn(60)
