"""What stock SAC, TD3 and DDPG make of the plug-in policies: losses and targets against closed forms.

Observations are numbers of states and networks have no hidden layer, so that logits and values are tables; the learning
rate is 0, so that after `train` the tables are what they were and their gradients are those of the losses.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from gumbel_rl.sb3 import ActionMaskObservation, GumbelSACPolicy, GumbelTD3Policy, OneHotActions

Array = NDArray[np.float64]
STATES = 4
GAMMA = 0.9
SIZES = [(3,), (2, 3)]
TABLES = {"net_arch": {"pi": [], "qf": []}, "critic": "action-linear", "estimator": "exact"}


class Corridor(gym.Env[Any, Any]):
    """States 0, 1 and then, episode by episode in turn, 2 by truncation or 3 by termination; reward 1 + the state."""

    def __init__(self, sizes: tuple[int, ...], masks: Array | None = None) -> None:
        self.action_space = spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)
        self.observation_space = spaces.Discrete(STATES)
        self.masks = masks
        self.episodes = 0
        self.state = 0

    def info(self) -> dict[str, Any]:
        return {} if self.masks is None else {"action_mask": self.masks[self.state]}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        self.episodes += 1
        return np.int64(0), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before = self.state
        self.state = 1 if before == 0 else 2 + self.episodes % 2
        return np.int64(self.state), 1.0 + before, self.state == 3, self.state == 2, self.info()


def make_env(sizes: tuple[int, ...], masks: Array | None = None) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = Corridor(sizes, masks)
    return OneHotActions(env if masks is None else ActionMaskObservation(env))


def tables(sizes: tuple[int, ...], seed: int) -> Array:
    """Numbers `[N, STATES]`, exact in float32."""
    return np.random.default_rng(seed).normal(size=(sum(sizes), STATES)).astype(np.float32).astype(np.float64)


def fill(linear: Any, table: Array) -> None:
    linear.weight.data.copy_(torch.as_tensor(table))
    linear.bias.data.zero_()


class Setup:
    """An algorithm with known tables: logits, values of two critics, and those of their targets."""

    def __init__(
        self, cls: Any, sizes: tuple[int, ...], masks: Array | None = None, n_envs: int = 1, **options: Any
    ) -> None:
        self.sizes = sizes
        self.masks = np.ones((STATES, sum(sizes)), dtype=bool) if masks is None else masks.astype(bool)
        policy_class = GumbelSACPolicy if cls is SAC else GumbelTD3Policy
        kwargs = TABLES | options.pop("policy_kwargs", {})
        settings: dict[str, Any] = {"learning_rate": 0.0, "gamma": GAMMA, "buffer_size": 200, "seed": 0} | options
        env = make_vec_env(lambda: make_env(sizes, masks), n_envs)
        self.model = cls(policy_class, env, policy_kwargs=kwargs, **settings)
        self.model.set_logger(Logger(None, []))
        self.logits, self.target_logits = tables(sizes, 1), tables(sizes, 2)
        fill(self.model.actor.net[-1], self.logits)
        if cls is not SAC:
            fill(self.model.actor_target.net[-1], self.target_logits)
        critics = list(self.model.critic.critics)
        self.q = [tables(sizes, 3 + i) for i in range(len(critics))]
        self.target_q = [tables(sizes, 13 + i) for i in range(len(critics))]
        for critic, target, q, target_q in zip(
            critics, self.model.critic_target.critics, self.q, self.target_q, strict=True
        ):
            fill(critic.net[-1], q)
            fill(target.net[-1], target_q)

    def blocks(self, row: Array) -> list[Array]:
        return np.split(row, np.cumsum(self.sizes)[:-1])

    def probs(self, state: int, logits: Array | None = None) -> Array:
        scores = np.where(self.masks[state], (self.logits if logits is None else logits)[:, state], -np.inf)
        exponentials = [np.exp(block - block.max()) for block in self.blocks(scores)]
        return np.concatenate([block / block.sum() for block in exponentials])

    def entropy(self, state: int, logits: Array | None = None) -> float:
        p = self.probs(state, logits)
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    def value_slope(self, state: int, values: Array) -> Array:
        """`d <pi, values> / d logits`, `[N]`: `p_k (v_k - <p, v>)` in each block."""
        pairs = zip(self.blocks(self.probs(state)), self.blocks(values), strict=True)
        return np.concatenate([p * (v - p @ v) for p, v in pairs])

    def entropy_slope(self, state: int) -> Array:
        """`d H / d logits`, `[N]`: `-p_k (log p_k + H_d)` in each block."""
        result = []
        for p in self.blocks(self.probs(state)):
            log_p = np.log(np.where(p > 0, p, 1.0))
            result.append(-p * (log_p - p @ log_p))
        return np.concatenate(result)

    def train_on(self, batch: ReplayBufferSamples) -> None:
        self.model.replay_buffer.sample = lambda *args, **kwargs: batch
        self.model.train(gradient_steps=1, batch_size=len(batch.rewards))

    def batch(self, states: list[int], next_states: list[int], dones: list[int], seed: int = 5) -> ReplayBufferSamples:
        """Transitions with random actions, allowed or not, and random rewards."""
        self.model.action_space.seed(seed)
        actions = np.stack([self.model.action_space.sample() for _ in states])
        rewards = np.random.default_rng(seed).normal(size=(len(states), 1)).astype(np.float32)
        return ReplayBufferSamples(
            observations=self.observe(states),
            actions=torch.as_tensor(actions),
            next_observations=self.observe(next_states),
            dones=torch.tensor(dones, dtype=torch.float32)[:, None],
            rewards=torch.as_tensor(rewards),
        )

    def observe(self, states: list[int]) -> Any:
        numbers = torch.tensor(states)[:, None]
        if isinstance(self.model.observation_space, spaces.Dict):
            return {"observation": numbers, "action_mask": torch.as_tensor(self.masks[states].astype(np.int8))}
        return numbers

    def executed(self, batch: ReplayBufferSamples, states: list[int]) -> Array:
        """One-hots `[B, N]` of what the environment does when asked for the batch's actions."""
        rows = []
        for action, state in zip(batch.actions.numpy(), states, strict=True):
            for block, mask in zip(self.blocks(action), self.blocks(self.masks[state]), strict=True):
                k, allowed = int(block.argmax()), np.flatnonzero(mask)
                rows.append(np.eye(len(block))[k if mask[k] else allowed[k % len(allowed)]])
        return np.concatenate(rows).reshape(len(states), -1)


def assert_close(actual: Any, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=2e-4, atol=2e-6)


NOW, NEXT, DONES = [0, 1, 2, 3, 1, 0, 2, 2], [1, 3, 0, 2, 2, 1, 3, 1], [0, 1, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_actors_gradient_in_sac(sizes: tuple[int, ...]) -> None:
    alpha = 0.37
    setup = Setup(SAC, sizes, ent_coef=alpha, target_entropy=0.1)
    setup.train_on(setup.batch(NOW, NEXT, DONES))
    expected = np.zeros_like(setup.logits)
    chosen = set()
    for state in NOW:
        # d/dlogits [alpha (-H) - min_i <pi, q_i>]
        values = [setup.probs(state) @ q[:, state] for q in setup.q]
        lower = int(np.argmin(values))
        chosen.add(lower)
        slope = -alpha * setup.entropy_slope(state) - setup.value_slope(state, setup.q[lower][:, state])
        expected[:, state] += slope / len(NOW)
    assert chosen == {0, 1}
    assert_close(setup.model.actor.net[-1].weight.grad, expected)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("ent_coef", [0.37, "auto_0.37"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_critics_target_in_sac(sizes: tuple[int, ...], ent_coef: Any) -> None:
    setup = Setup(SAC, sizes, ent_coef=ent_coef, target_entropy=0.1)
    batch = setup.batch(NOW, NEXT, DONES)
    setup.train_on(batch)
    # y = r + gamma (1 - done) (min_i <pi(s'), q_i'(s')> + alpha H(s')): the minimum of the expectations.
    y, of_minima = [], []
    for reward, state, done in zip(batch.rewards[:, 0].tolist(), NEXT, DONES, strict=True):
        p = setup.probs(state)
        bonus = 0.37 * setup.entropy(state)
        y.append(reward + GAMMA * (1 - done) * (min(p @ q[:, state] for q in setup.target_q) + bonus))
        of_minima.append(p @ np.minimum(*(q[:, state] for q in setup.target_q)))
    assert not np.allclose(of_minima, [min(setup.probs(s) @ q[:, s] for q in setup.target_q) for s in NEXT])
    check_critic_gradients(setup, batch, NOW, y, factor=1.0)


def check_critic_gradients(
    setup: Setup, batch: ReplayBufferSamples, states: list[int], y: list[float], factor: float
) -> None:
    """The gradient of `factor / 2 * sum_i mean (q_i(s, a) - y)^2`."""
    actions = setup.executed(batch, states)
    for critic, q in zip(setup.model.critic.critics, setup.q, strict=True):
        expected = np.zeros_like(q)
        for state, action, target in zip(states, actions, y, strict=True):
            expected[:, state] += factor * (action @ q[:, state] - target) * action / len(states)
        assert_close(critic.net[-1].weight.grad, expected)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_entropy_coefficients_gradient_in_sac(sizes: tuple[int, ...]) -> None:
    setup = Setup(SAC, sizes, ent_coef="auto_0.37", target_entropy=0.6)
    setup.train_on(setup.batch(NOW, NEXT, DONES))
    # d/dlog alpha of -log alpha (-H + target): alpha falls as long as the entropy is above its target.
    assert_close(setup.model.log_ent_coef.grad, np.array([np.mean([setup.entropy(s) for s in NOW]) - 0.6]))


# Masks: states with all, some and one choice left.
MASKS = {
    (3,): np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]]),
    (2, 3): np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 1], [1, 1, 0, 1, 1]]),
}


@pytest.mark.parametrize("ent_coef", [0.37, "auto_0.37"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sac_with_masks(sizes: tuple[int, ...], ent_coef: Any) -> None:
    ratio = 0.4
    maximum = float(np.log(sizes).sum())
    setup = Setup(SAC, sizes, MASKS[sizes], ent_coef=ent_coef, target_entropy=ratio * maximum)
    batch = setup.batch(NOW, NEXT, DONES)
    setup.train_on(batch)
    executed = setup.executed(batch, NOW)
    assert not np.array_equal(executed, (batch.actions.numpy() + 1) / 2)  # some were forbidden
    # The critic's target holds the entropy as it is.
    y = [
        reward + GAMMA * (1 - done) * (min(setup.probs(s) @ q[:, s] for q in setup.target_q) + 0.37 * setup.entropy(s))
        for reward, s, done in zip(batch.rewards[:, 0].tolist(), NEXT, DONES, strict=True)
    ]
    check_critic_gradients(setup, batch, NOW, y, factor=1.0)
    expected = np.zeros_like(setup.logits)
    for state in NOW:
        lower = int(np.argmin([setup.probs(state) @ q[:, state] for q in setup.q]))
        slope = -0.37 * setup.entropy_slope(state) - setup.value_slope(state, setup.q[lower][:, state])
        expected[:, state] += slope / len(NOW)
    gradient = setup.model.actor.net[-1].weight.grad
    assert_close(gradient, expected)
    assert (gradient.numpy().T[~setup.masks] == 0).all()
    if ent_coef != 0.37:
        # The entropy coefficient compares with a share of the largest entropy that each state's mask leaves.
        allowed = [np.log([block.sum() for block in setup.blocks(setup.masks[s])]).sum() for s in NOW]
        gaps = [setup.entropy(s) - ratio * largest for s, largest in zip(NOW, allowed, strict=True)]
        assert_close(setup.model.log_ent_coef.grad, np.array([np.mean(gaps)]))


# TD3 and DDPG


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cls", [TD3, DDPG])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_td3_and_ddpg(sizes: tuple[int, ...], cls: Any, masked: bool) -> None:
    weight = 0.23
    options: dict[str, Any] = {"target_policy_noise": 0.0, "policy_delay": 1} if cls is TD3 else {}
    masks = MASKS[sizes] if masked else None
    setup = Setup(cls, sizes, masks, policy_kwargs={"ent_coef": weight}, **options)
    batch = setup.batch(NOW, NEXT, DONES)
    setup.train_on(batch)
    assert len(setup.q) == (2 if cls is TD3 else 1)
    y = [
        reward + GAMMA * (1 - done) * min(setup.probs(s, setup.target_logits) @ q[:, s] for q in setup.target_q)
        for reward, s, done in zip(batch.rewards[:, 0].tolist(), NEXT, DONES, strict=True)
    ]
    check_critic_gradients(setup, batch, NOW, y, factor=2.0)
    expected = np.zeros_like(setup.logits)
    for state in NOW:
        slope = -setup.value_slope(state, setup.q[0][:, state]) - weight * setup.entropy_slope(state)
        expected[:, state] += slope / len(NOW)
    assert_close(setup.model.actor.net[-1].weight.grad, expected)


@pytest.mark.parametrize("critic", ["mlp", "interpolated"])
def test_targets_of_td3_are_hard_samples_where_no_expectation_is_exact(critic: str) -> None:
    kwargs = {"net_arch": [4], "critic": critic}
    model = TD3(GumbelTD3Policy, make_env((2, 3)), target_policy_noise=0.0, policy_kwargs=kwargs, seed=0)
    with torch.no_grad():
        actions = model.actor_target(torch.zeros(50, 1).long())
    assert set(actions.unique().tolist()) == {-1.0, 1.0}
    assert len(actions.unique(dim=0)) > 1


# Ends of episodes


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("cls", [SAC, DDPG])
def test_terminal_transitions_are_not_bootstrapped_and_truncated_ones_are(cls: Any, n_envs: int) -> None:
    options = {"ent_coef": 0.0, "target_entropy": 0.1} if cls is SAC else {}
    setup = Setup(cls, (3,), n_envs=n_envs, learning_starts=1000, **options)
    model = setup.model
    model.learn(24)
    model.set_logger(Logger(None, []))
    batch = model.replay_buffer.sample(64)
    states, next_states = (part.flatten().tolist() for part in (batch.observations, batch.next_observations))
    assert {(s, n) for s, n in zip(states, next_states, strict=True)} == {(0, 1), (1, 2), (1, 3)}
    assert batch.dones.flatten().tolist() == [float(n == 3) for n in next_states]
    assert batch.rewards.flatten().tolist() == [1.0 + s for s in states]
    setup.train_on(batch)
    logits = setup.logits if cls is SAC else setup.target_logits
    y = [
        1.0 + s + (0.0 if n == 3 else GAMMA * min(setup.probs(n, logits) @ q[:, n] for q in setup.target_q))
        for s, n in zip(states, next_states, strict=True)
    ]
    check_critic_gradients(setup, batch, states, y, factor=1.0 if cls is SAC else 2.0)
