"""The algorithms in Stable-Baselines3's world: evaluation, callbacks, wrappers, saving and loading."""

from __future__ import annotations

import copy
import multiprocessing

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted import Memory, Scripted, vectorised
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from torch import nn

from envs import make_vec_env
from gumbel_rl import GumbelActorCritic, GumbelSAC, Reinforce, make_estimator
from gumbel_rl.algorithms import ActorCriticPolicy, CnnPolicy, MultiInputPolicy

ON_POLICY = {GumbelActorCritic: {"n_steps": 8, "n_epochs": 1}, Reinforce: {"value_epochs": 1}}
OFF_POLICY = {GumbelSAC: {"learning_starts": 4, "batch_size": 8, "train_freq": 8, "gradient_steps": 1}}
ALGORITHMS = ON_POLICY | OFF_POLICY

each_algorithm = pytest.mark.parametrize("cls", ALGORITHMS)
each_on_policy = pytest.mark.parametrize("cls", ON_POLICY)


def cart_poles(cls, n_envs: int = 2, **options):
    env = make_vec_env("CartPole-v1", n_envs, engine="dummy")
    return cls("MlpPolicy", env, **{"seed": 0} | ALGORITHMS[cls] | options)


def vector(policy) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach()


def observations(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


@each_algorithm
@pytest.mark.parametrize("kind", ["id", "environment", "vectorised"])
def test_kinds_of_environment(cls, kind):
    env = {
        "id": lambda: "CartPole-v1",
        "environment": lambda: gym.make("CartPole-v1"),
        "vectorised": lambda: make_vec_env("CartPole-v1", 5),
    }[kind]()
    model = cls("MlpPolicy", env, **ALGORITHMS[cls]).learn(600)
    assert model._n_updates > 0
    assert len(model.ep_info_buffer) > 0
    assert model.n_envs == (5 if kind == "vectorised" else 1)


@each_algorithm
def test_evaluate_policy(cls):
    model = cart_poles(cls).learn(64)
    for deterministic in (True, False):
        rewards, lengths = evaluate_policy(
            model, make_vec_env("CartPole-v1", 3), 5, deterministic=deterministic, return_episode_rewards=True
        )
        assert rewards == lengths
        assert len(rewards) == 5


@each_algorithm
def test_eval_callback(cls, tmp_path):
    model = cart_poles(cls)
    memory = Memory.of(model)
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=10_000)
    evaluation = EvalCallback(
        make_vec_env("CartPole-v1", 2),
        n_eval_episodes=2,
        eval_freq=16,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        callback_after_eval=stop,
        verbose=0,
    )
    model.learn(96, callback=evaluation)
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [32, 64, 96]
    assert memory.values("eval/mean_reward") == pytest.approx(results["results"].mean(1).tolist())
    best = cls.load(tmp_path / "best_model.zip")
    assert best.num_timesteps in (32, 64, 96)


@each_algorithm
def test_training_stops_on_a_reward_threshold(cls):
    stop = StopTrainingOnRewardThreshold(reward_threshold=1.0)
    evaluation = EvalCallback(make_vec_env("CartPole-v1", 1), callback_on_new_best=stop, eval_freq=4, verbose=0)
    assert cart_poles(cls).learn(1000, callback=evaluation).num_timesteps == 8


@each_algorithm
@pytest.mark.parametrize("episodes", [1, 7])
def test_training_stops_after_a_number_of_episodes(cls, episodes):
    # Episodes of 4 and 6 steps, side by side. SB3 counts `max_episodes` for each environment.
    env = vectorised(Scripted([(4, "terminated")]), Scripted([(6, "truncated")]))
    model = cls("MlpPolicy", env, **ALGORITHMS[cls])
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(max_episodes=episodes))
    if cls is Reinforce:  # which resets both when the longer one is over: 2 episodes in 6 steps
        expected = 6 * episodes
    else:
        ends = sorted([*range(4, 1000, 4), *range(6, 1000, 6)])
        expected = ends[2 * episodes - 1]
    assert model.num_timesteps == 2 * expected


@each_algorithm
def test_checkpoints_and_lists_of_callbacks(cls, tmp_path):
    seen = []

    def note(arguments, _):
        seen.append((arguments["self"].num_timesteps, arguments["rewards"].shape, len(arguments["infos"])))
        return True

    checkpoint = CheckpointCallback(save_freq=20, save_path=str(tmp_path), name_prefix="m", save_vecnormalize=True)
    cart_poles(cls).learn(120, callback=[checkpoint, EveryNTimesteps(n_steps=30, callback=ConvertCallback(note))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m_120_steps.zip", "m_40_steps.zip", "m_80_steps.zip"]
    assert cls.load(tmp_path / "m_80_steps.zip").num_timesteps == 80
    assert seen == [(steps, (2,), 2) for steps in (30, 60, 90, 120)]


class Order(BaseCallback):
    """Notes when it is called, and ends training after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.calls = steps, []

    def _on_training_start(self) -> None:
        self.calls.append("start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout")

    def _on_step(self) -> bool:
        self.calls.append("step")
        return self.n_calls < self.steps

    def _on_rollout_end(self) -> None:
        self.calls.append("over")

    def _on_training_end(self) -> None:
        self.calls.append("end")


@each_algorithm
def test_a_callback_that_returns_false_ends_training(cls):
    env = vectorised(Scripted([(8, "terminated")]))
    model = cls("MlpPolicy", env, **ALGORITHMS[cls])
    callback = Order(11)
    model.learn(100, callback=callback)
    steps = ["step"] * 8
    assert callback.calls == ["start", "rollout", *steps, "over", "rollout", *["step"] * 3, "end"]
    assert model.num_timesteps == 11
    assert model._n_updates == 1
    if cls in ON_POLICY:  # what was last observed is what the environment is in
        assert model._last_obs[0, 2] == 3


@each_on_policy
def test_saved_and_loaded_predictions_are_equal(cls, tmp_path):
    model = cart_poles(cls, policy_kwargs={"net_arch": {"pi": [7], "vf": [5, 6]}, "activation_fn": torch.nn.ReLU})
    model.learn(64).save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model")  # without an environment
    assert loaded.env is None
    assert loaded.num_timesteps == 64
    states = observations()
    for deterministic in (True, False):
        predictions = []
        for each in (model, loaded):
            torch.manual_seed(0)
            predictions.append(each.predict(states, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*predictions)
    torch.testing.assert_close(
        loaded.policy.predict_values(torch.as_tensor(states)),
        model.policy.predict_values(torch.as_tensor(states)),
        rtol=0,
        atol=0,
    )
    with pytest.raises(AssertionError):
        loaded.learn(10)


@each_on_policy
def test_a_loaded_model_goes_on_like_the_one_that_was_saved(cls, tmp_path):
    model = cart_poles(cls).learn(64)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=make_vec_env("CartPole-v1", 2, engine="dummy"))
    model.set_env(make_vec_env("CartPole-v1", 2, engine="dummy"))
    for each in (model, loaded):  # the optimiser's moments count too
        each.set_random_seed(5)
        each.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == loaded.num_timesteps == 164
    assert torch.equal(vector(model.policy), vector(loaded.policy))


@each_algorithm
def test_loading_with_another_number_of_environments(cls, tmp_path):
    cart_poles(cls, 3).learn(96).save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert loaded.n_envs == 1
    loaded.learn(64)


def test_a_model_with_rloo_can_be_loaded_with_one_environment_to_predict(tmp_path):
    cart_poles(Reinforce, baseline="rloo").learn(64).save(tmp_path / "model")
    loaded = Reinforce.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    evaluate_policy(loaded, loaded.get_env(), 1)
    with pytest.raises(ValueError, match="at least 2 environments"):
        loaded.learn(64)


def test_an_estimator_is_saved(tmp_path):
    estimator = make_estimator("rloo", samples=3)
    cart_poles(GumbelActorCritic, estimator=estimator).save(tmp_path / "model")
    assert GumbelActorCritic.load(tmp_path / "model").estimator.samples == 3


@each_on_policy
def test_parameters_can_be_copied(cls):
    source, target = cart_poles(cls).learn(64), cart_poles(cls, seed=9)
    assert not torch.equal(vector(source.policy), vector(target.policy))
    target.set_parameters(source.get_parameters())
    assert torch.equal(vector(source.policy), vector(target.policy))
    assert float(target.policy.critic.value_std) == float(source.policy.critic.value_std) != 1.0
    twin = copy.deepcopy(source.policy)
    assert {id(p) for p in twin.actor_parameters} <= {id(p) for p in twin.parameters()}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("policy", [ActorCriticPolicy, CnnPolicy, MultiInputPolicy])
def test_a_policy_can_be_saved_alone(policy, shared, tmp_path):
    box, image = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (1, 36, 36), np.uint8)
    space = {ActorCriticPolicy: box, CnnPolicy: image, MultiInputPolicy: spaces.Dict({"a": box, "b": image})}[policy]
    original = policy(
        space,
        spaces.MultiDiscrete([2, 3]),
        lambda _: 1e-3,
        net_arch=[5],
        share_features_extractor=shared,
        ortho_init=False,
    )
    original.save(tmp_path / "policy")
    loaded = policy.load(tmp_path / "policy")
    assert isinstance(loaded, policy)
    for _ in range(5):
        state = space.sample()
        np.testing.assert_array_equal(*(each.predict(state, deterministic=True)[0] for each in (original, loaded)))
    assert torch.equal(vector(original), vector(loaded))


def normalised(episodes, **options) -> VecNormalize:
    """Scripted environments with fixed statistics."""
    env = VecNormalize(vectorised(*map(Scripted, episodes)), clip_obs=1e6, clip_reward=1e6, epsilon=0.0, **options)
    env.obs_rms.mean, env.obs_rms.var = np.array([0.5, 1.0, 2.0]), np.array([4.0, 9.0, 16.0])
    env.ret_rms.var = np.array(25.0)
    env.training = False
    return env


def test_everything_is_normalised_alike():
    class Keeping(GumbelActorCritic):
        def train(self):
            pass

    env = normalised([[(3, "truncated"), (2, "terminated")]])
    model = Keeping("MlpPolicy", env, n_steps=4).learn(4)
    rollout = model.rollout
    raw = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 2], [1, 1, 0]])
    scaled = lambda states: (states - env.obs_rms.mean) / [2, 3, 4]  # noqa: E731
    np.testing.assert_allclose(rollout.observations[:, 0], scaled(raw), rtol=1e-6)
    np.testing.assert_allclose(rollout.last_observations[0], scaled(np.array([1, 1, 1])), rtol=1e-6)
    ((step, _, last),) = rollout.truncations
    assert step == 2
    np.testing.assert_allclose(last, scaled(np.array([1, 0, 3])), rtol=1e-6)
    rewards = (1 + raw[:, 2] + 0.1 * raw[:, 1] - 0.5 * rollout.indices[:, 0, 0].numpy()) / 5
    np.testing.assert_allclose(rollout.rewards[:, 0], rewards, rtol=1e-6)


@each_algorithm
def test_learning_with_normalisation(cls):
    env = VecNormalize(make_vec_env("CartPole-v1", 2, engine="dummy"))
    model = cls("MlpPolicy", env, seed=0, **ALGORITHMS[cls])
    assert model.get_vec_normalize_env() is env
    model.learn(200)
    assert model._n_updates > 0
    assert env.obs_rms.count > 200
    # What is reported is not normalised.
    assert all(info["r"] == info["l"] for info in model.ep_info_buffer)


@each_on_policy
def test_stacked_frames(cls):
    env = VecFrameStack(vectorised(Scripted([(5, "terminated")]), Scripted([(3, "truncated")])), n_stack=3)
    seen = []

    class Noting(cls):
        def train(self):
            seen.append(self.rollout.observations[:5, :, 2::3].numpy())
            super().train()

    Noting("MlpPolicy", env, **ALGORITHMS[cls]).learn(16)
    times = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    np.testing.assert_array_equal(seen[0][:, 0], times)
    np.testing.assert_array_equal(seen[0][:, 1], [*times[:3], [0, 0, 0], [0, 0, 1]])


@each_algorithm
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="other start methods take seconds")
def test_processes_give_the_same_run(cls):
    makers = [lambda: Monitor(gym.make("CartPole-v1"))] * 2
    results = []
    for env in (DummyVecEnv(makers), SubprocVecEnv(makers, start_method="fork")):
        results.append(vector(cls("MlpPolicy", env, seed=0, **ALGORITHMS[cls]).learn(128).policy))
        env.close()
    assert torch.equal(*results)


@each_algorithm
def test_evaluation_mode_while_acting_and_for_targets(cls):
    # A layer that drops everything while training: behaviour and values must not see it.
    class Dropping(nn.Tanh):
        def forward(self, inputs):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(inputs)

    modes = []
    cart_poles(cls, policy_kwargs={"activation_fn": Dropping}).learn(100)
    # Gradients and training mode come together, but for the targets off-policy, which are computed amid an update.
    assert {(True, True), (False, False)} == set(modes) - ({(True, False)} if cls in OFF_POLICY else set())
