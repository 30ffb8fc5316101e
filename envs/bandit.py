"""FactoredBandit: a contextual bandit with a factored action, whose return and policy gradient are known exactly.

An episode is one step: a context is drawn uniformly, the action has `D` factors, the reward is an entry of a random
table over contexts and joint actions. The table has interactions between all factors: no additive model fits it.

Shapes: `C` contexts, `D` factors of sizes `n_d`, `N = sum(n_d)`, `n` sub-environments.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

MAX_TABLE = 2**20
"""Largest number of entries of the reward table."""


class FactoredBandit:
    """The bandit itself: its rewards, and exact answers about policies.

    A policy is given by its logits `[C, N]`, the factors' blocks side by side: factors are independent given the
    context, and the choices of a factor have the `softmax` of its block as probabilities.

    Args:
        contexts: `C`.
        sizes: Number of choices of each factor; one factor makes the action space `Discrete`.
        noise: Standard deviation of Gaussian noise on the reward.
        one_hot: Observe the context as a one-hot vector (`Box`) instead of an integer (`Discrete`).
        table_seed: Seed of the reward table, whose entries are independent standard normals.

    Attributes:
        rewards: Expected reward of every context and joint action, `[C, n_1, ..., n_D]` float64.

    Raises:
        ValueError: A size or number of contexts below 1, negative noise, or a table of more than `MAX_TABLE` entries.
    """

    def __init__(
        self,
        contexts: int = 4,
        sizes: tuple[int, ...] = (3, 4, 2),
        noise: float = 0.0,
        one_hot: bool = False,
        table_seed: int = 0,
    ) -> None:
        self.contexts = int(contexts)
        self.sizes = tuple(int(size) for size in sizes)
        if self.contexts < 1 or not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"contexts and sizes must be positive, got {contexts} and {sizes}")
        if noise < 0:
            raise ValueError(f"noise is a standard deviation and must not be negative, got {noise}")
        entries = self.contexts * math.prod(self.sizes)
        if entries > MAX_TABLE:
            raise ValueError(f"the reward table would have {entries} entries, and at most {MAX_TABLE} are allowed")
        self.noise = float(noise)
        self.one_hot = bool(one_hot)
        generator = np.random.default_rng(table_seed)
        self.rewards: NDArray[np.float64] = generator.standard_normal((self.contexts, *self.sizes))

    def _spaces(self) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
        """Observation and action space of one environment."""
        observation = spaces.Box(0, 1, (self.contexts,), np.float32) if self.one_hot else spaces.Discrete(self.contexts)
        action = spaces.Discrete(self.sizes[0]) if len(self.sizes) == 1 else spaces.MultiDiscrete(list(self.sizes))
        return observation, action

    def _observe(self, context: NDArray[np.int64] | int) -> Any:
        """Contexts `[...]` to observations, `[...]` or one-hot `[..., C]`."""
        return np.eye(self.contexts, dtype=np.float32)[context] if self.one_hot else context

    def _collect(
        self, context: NDArray[np.int64] | int, action: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.float64]:
        """Rewards `[...]` for contexts `[...]` and actions `[..., D]` (`[...]` if there is one factor)."""
        index = (action,) if len(self.sizes) == 1 else tuple(np.moveaxis(action, -1, 0))
        rewards: NDArray[np.float64] = self.rewards[(context, *index)]
        return rewards + self.noise * generator.standard_normal(np.shape(context)) if self.noise else rewards

    def expected_return(self, logits: Tensor) -> Tensor:
        """`J = 1/C sum_c sum_a prod_d pi_d(a_d|c) r(c, a)`, a float64 scalar that is differentiable in the logits.

        Args:
            logits: `[C, N]`.

        Raises:
            ValueError: Another shape.
        """
        if logits.shape != (self.contexts, sum(self.sizes)):
            wanted = f"{self.contexts} contexts and {sum(self.sizes)} choices"
            raise ValueError(f"logits of shape {tuple(logits.shape)} do not fit {wanted}")
        # Factor by factor, and with none of the library's own machinery, because this is what it is tested against.
        values = torch.as_tensor(self.rewards, device=logits.device).reshape(self.contexts, -1)
        for block in logits.double().split(self.sizes, -1):
            values = torch.einsum("cn,cnr->cr", block.softmax(-1), values.reshape(*block.shape, -1))
        return values.mean()

    def policy_gradient(self, logits: Tensor) -> Tensor:
        """The exact gradient of `expected_return` with respect to the logits, `[C, N]` in their dtype."""
        logits = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.expected_return(logits), logits)
        return gradient

    @property
    def optimal_return(self) -> float:
        """Largest expected return of any policy: the mean over contexts of the best reward."""
        return float(self.rewards.reshape(self.contexts, -1).max(-1).mean())

    @property
    def optimal_actions(self) -> NDArray[np.int64]:
        """The best joint action in each context, `[C, D]`."""
        best = self.rewards.reshape(self.contexts, -1).argmax(-1)
        return np.stack(np.unravel_index(best, self.sizes), -1)


class FactoredBanditEnv(FactoredBandit, gym.Env[Any, Any]):
    """`gumbel_rl/FactoredBandit-v0`: see `FactoredBandit`.

    Args:
        render_mode: Accepted for uniformity; there is nothing to see.
        **options: Arguments of `FactoredBandit`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(self, render_mode: None = None, **options: Any) -> None:
        super().__init__(**options)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self._spaces()
        self._context = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw a context."""
        gym.Env.reset(self, seed=seed)
        self._context = int(self.np_random.integers(self.contexts))
        return self._observe(self._context), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Collect the reward; the episode ends."""
        reward = self._collect(self._context, np.asarray(action), self.np_random)
        return self._observe(self._context), float(reward), True, False, {}


class FactoredBanditVectorEnv(FactoredBandit, VectorEnv[Any, Any, Any]):
    """Many independent copies of `FactoredBanditEnv` in NumPy, about as fast as one.

    Args:
        num_envs: `n`.
        render_mode: Accepted for uniformity; there is nothing to see.
        **options: Arguments of `FactoredBandit`.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as above

    def __init__(self, num_envs: int = 1, render_mode: None = None, **options: Any) -> None:
        super().__init__(**options)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = self._spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._context: NDArray[np.int64] = np.zeros(num_envs, dtype=np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw a context for every sub-environment."""
        VectorEnv.reset(self, seed=seed)
        self._context = self.np_random.integers(self.contexts, size=self.num_envs)
        return self._observe(self._context), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Collect the rewards and draw new contexts; every episode ends."""
        rewards = self._collect(self._context, np.asarray(actions), self.np_random)
        last = self._observe(self._context)
        self._context = self.np_random.integers(self.contexts, size=self.num_envs)
        done = np.ones(self.num_envs, dtype=np.bool_)
        infos = {"final_obs": last, "_final_obs": done}
        return self._observe(self._context), rewards, done, ~done, infos
