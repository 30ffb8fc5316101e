"""TabularMDP: a random finite Markov decision process with exact values, policy gradients and optimum.

After every step the episode terminates with a fixed probability, whatever the state and action, so that the return is
finite under every policy even without discounting.

Shapes: `S` states, `A` actions, `n` sub-environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor


class TabularMDP:
    """The decision process itself: its dynamics, and exact answers about policies.

    A policy is given by its logits `[S, A]`: `pi(.|s) = softmax(logits[s])`. With `P` the transitions, `q` the
    probability of termination and `g = gamma (1 - q)` the effective discount, the value function solves
    `V(s) = sum_a pi(a|s) (r(s,a) + g sum_t P(t|s,a) V(t))`. Everything is computed in float64, by linear systems.

    Args:
        states: `S`.
        actions: `A`.
        termination: `q`, probability that the episode ends after a step; the mean length of an episode is `1/q` steps.
        one_hot: Observe the state as a one-hot vector (`Box`) instead of an integer (`Discrete`).
        table_seed: Seed of the dynamics: transitions and start from uniform Dirichlets, rewards standard normal.

    Attributes:
        transitions: `P(t|s,a)`, `[S, A, S]`.
        rewards: `r(s,a)`, `[S, A]`; rewards have no noise.
        start: Distribution of the first state, `[S]`.

    Raises:
        ValueError: `states` or `actions` below 1, or `termination` outside of `(0, 1]`.
    """

    def __init__(
        self,
        states: int = 6,
        actions: int = 3,
        termination: float = 0.1,
        one_hot: bool = False,
        table_seed: int = 0,
    ) -> None:
        if states < 1 or actions < 1:
            raise ValueError(f"states and actions must be positive, got {states} and {actions}")
        if not 0 < termination <= 1:
            raise ValueError(f"termination must be a probability above 0, got {termination}")
        generator = np.random.default_rng(table_seed)
        self.states = int(states)
        self.actions = int(actions)
        self.termination = float(termination)
        self.one_hot = bool(one_hot)
        self.transitions: NDArray[np.float64] = generator.dirichlet(np.ones(states), size=(states, actions))
        self.rewards: NDArray[np.float64] = generator.standard_normal((states, actions))
        self.start: NDArray[np.float64] = generator.dirichlet(np.ones(states))

    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Observation and action space of one environment."""
        observation = spaces.Box(0, 1, (self.states,), np.float32) if self.one_hot else spaces.Discrete(self.states)
        return observation, spaces.Discrete(self.actions)

    def _observe(self, state: NDArray[np.int64] | int) -> Any:
        """States `[...]` to observations, `[...]` or one-hot `[..., S]`."""
        return np.eye(self.states, dtype=np.float32)[state] if self.one_hot else state

    def _draw(self, probabilities: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
        """States `[...]` from distributions `[..., S]`, by inversion."""
        uniform = np.asarray(generator.random(probabilities.shape[:-1]))
        # The last sum may fall short of 1 by rounding, and is not needed.
        return np.asarray((probabilities.cumsum(-1)[..., :-1] <= uniform[..., None]).sum(-1), dtype=np.int64)

    def _check(self, gamma: float, logits: Tensor | None = None) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie between 0 and 1, got {gamma}")
        if logits is not None and logits.shape != (self.states, self.actions):
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} do not fit {self.states} states and {self.actions} actions"
            )

    def _chain(self, logits: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Policy `[S, A]`, expected rewards `[S]` and `I - g P_pi` `[S, S]`, all float64."""
        self._check(gamma, logits)
        policy = logits.double().softmax(-1)
        reward = (policy * self._tensor(self.rewards, logits)).sum(-1)
        step = torch.einsum("sa,sat->st", policy, self._tensor(self.transitions, logits))
        identity = torch.eye(self.states, dtype=torch.float64, device=logits.device)
        return policy, reward, identity - gamma * (1 - self.termination) * step

    def _tensor(self, array: NDArray[np.float64], like: Tensor) -> Tensor:
        return torch.as_tensor(array, device=like.device)

    def state_values(self, logits: Tensor, gamma: float = 1.0) -> Tensor:
        """`V(s)`, the expected discounted return from each state: `[S]` float64, differentiable in the logits.

        Args:
            logits: `[S, A]`.
            gamma: Discount a step, between 0 and 1.

        Raises:
            ValueError: Logits of another shape, or gamma out of range; so do all methods here.
        """
        _, reward, system = self._chain(logits, gamma)
        values: Tensor = torch.linalg.solve(system, reward)
        return values

    def action_values(self, logits: Tensor, gamma: float = 1.0) -> Tensor:
        """`Q(s,a) = r(s,a) + g sum_t P(t|s,a) V(t)`: `[S, A]` float64, differentiable in the logits `[S, A]`."""
        next_value = self._tensor(self.transitions, logits) @ self.state_values(logits, gamma)
        return self._tensor(self.rewards, logits) + gamma * (1 - self.termination) * next_value

    def occupancy(self, logits: Tensor, gamma: float = 1.0) -> Tensor:
        """`d(s) = sum_k gamma^k P(s_k = s, episode still on)`: `[S]` float64, not normalised, differentiable.

        The expected return is `sum_s d(s) sum_a pi(a|s) r(s,a)`.
        """
        _, _, system = self._chain(logits, gamma)
        visits: Tensor = torch.linalg.solve(system.T, self._tensor(self.start, logits))
        return visits

    def expected_return(self, logits: Tensor, gamma: float = 1.0) -> Tensor:
        """`J = sum_s start(s) V(s)`, a float64 scalar that is differentiable in the logits `[S, A]`."""
        return self._tensor(self.start, logits) @ self.state_values(logits, gamma)

    def policy_gradient(self, logits: Tensor, gamma: float = 1.0) -> Tensor:
        """The exact gradient of `expected_return` with respect to the logits, `[S, A]` in their dtype.

        By the policy gradient theorem it is `d(s) pi(a|s) (Q(s,a) - V(s))`, with the discounted `d`: most algorithms
        sample states without the factor `gamma^k`, and follow this gradient only for gamma = 1.
        """
        logits = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.expected_return(logits, gamma), logits)
        return gradient

    def _policy_iteration(self, gamma: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best action in each state and the value of each state under them, both `[S]`."""
        self._check(gamma)
        discount = gamma * (1 - self.termination)
        rows = np.arange(self.states)
        policy = np.zeros(self.states, dtype=np.int64)
        while True:
            system = np.eye(self.states) - discount * self.transitions[rows, policy]
            value: NDArray[Any] = np.linalg.solve(system, self.rewards[rows, policy])
            action_value = self.rewards + discount * self.transitions @ value
            # Only a real improvement counts: a tie that rounding decides could go round in circles.
            better = action_value.max(-1) > action_value[rows, policy] + 1e-10
            if not better.any():
                return policy, value
            policy = np.where(better, action_value.argmax(-1), policy)

    def optimal_return(self, gamma: float = 1.0) -> float:
        """Largest expected discounted return of any policy, by policy iteration."""
        return float(self.start @ self._policy_iteration(gamma)[1])

    def optimal_actions(self, gamma: float = 1.0) -> NDArray[np.int64]:
        """The best action in each state, `[S]`."""
        return self._policy_iteration(gamma)[0]


class TabularMDPEnv(TabularMDP, gym.Env[Any, Any]):
    """`gumbel_rl/TabularMDP-v0`: see `TabularMDP`. There is no time limit, because episodes end by themselves.

    Args:
        render_mode: Accepted for uniformity; there is nothing to see.
        **options: Arguments of `TabularMDP`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(self, render_mode: None = None, **options: Any) -> None:
        super().__init__(**options)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self._spaces()
        self._state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the first state."""
        gym.Env.reset(self, seed=seed)
        self._state = int(self._draw(self.start, self.np_random))
        return self._observe(self._state), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Collect the reward, move on, and terminate with probability `termination`."""
        reward = float(self.rewards[self._state, action])
        self._state = int(self._draw(self.transitions[self._state, action], self.np_random))
        terminated = bool(self.np_random.random() < self.termination)
        return self._observe(self._state), reward, terminated, False, {}


class TabularMDPVectorEnv(TabularMDP, VectorEnv[Any, Any, Any]):
    """Many independent copies of `TabularMDPEnv` in NumPy, about as fast as one.

    Args:
        num_envs: `n`.
        render_mode: Accepted for uniformity; there is nothing to see.
        **options: Arguments of `TabularMDP`.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as above

    def __init__(self, num_envs: int = 1, render_mode: None = None, **options: Any) -> None:
        super().__init__(**options)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = self._spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: NDArray[np.int64] = np.zeros(num_envs, dtype=np.int64)

    def _draw_start(self, count: int) -> NDArray[np.int64]:
        return self._draw(np.broadcast_to(self.start, (count, self.states)), self.np_random)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw the first state of every sub-environment."""
        VectorEnv.reset(self, seed=seed)
        self._state = self._draw_start(self.num_envs)
        return self._observe(self._state), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Collect the rewards, move on, and restart those that terminate."""
        actions = np.asarray(actions)
        rewards = self.rewards[self._state, actions]
        self._state = self._draw(self.transitions[self._state, actions], self.np_random)
        terminated = self.np_random.random(self.num_envs) < self.termination
        infos: dict[str, Any] = {}
        if terminated.any():
            infos = {"final_obs": self._observe(self._state), "_final_obs": terminated}
            # A new array: without one-hots the old one is the observation.
            self._state = self._state.copy()
            self._state[terminated] = self._draw_start(int(terminated.sum()))
        return self._observe(self._state), rewards, terminated, np.zeros_like(terminated), infos
