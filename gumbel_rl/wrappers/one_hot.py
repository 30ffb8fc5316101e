"""Discrete actions as one-hots, for algorithms that know continuous actions only."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from gumbel_rl.actions import ActionFactors
from gumbel_rl.wrappers.masks import MASK_KEY, check_mask


class OneHotBox(spaces.Box):
    """The one-hots of a discrete action space, as a `Box` in which a choice is marked by +1 and the others by -1.

    Algorithms for continuous actions accept it. It knows the factors, which a plain `Box` of that shape has lost, and
    its samples are one-hots, so that actions drawn at random are actions.

    Args:
        factors: The action's factors.
        seed: Seed of `sample`.
    """

    def __init__(self, factors: ActionFactors, seed: int | np.random.Generator | None = None) -> None:
        self.factors = factors
        super().__init__(-1.0, 1.0, (factors.width,), np.float32, seed)

    def sample(self, mask: NDArray[Any] | None = None, probability: None = None) -> NDArray[np.float32]:
        """A joint action drawn uniformly, as `[N]` entries of -1 and +1.

        Args:
            mask: `[N]`, true where a choice is allowed.
            probability: Not supported.

        Raises:
            ValueError: The mask has another size or forbids every choice of a factor, or probabilities were given.
        """
        if probability is not None:
            raise ValueError("OneHotBox samples uniformly, not with given probabilities")
        scores = torch.from_numpy(self.np_random.random(self.factors.width))
        if mask is not None:
            scores[torch.from_numpy(~check_mask(mask, self.factors))] = -1.0
        one_hot = self.factors.one_hot(self.factors.indices(scores)).numpy()
        return np.asarray(2.0 * one_hot - 1.0, dtype=np.float32)

    def __repr__(self) -> str:
        return f"OneHotBox{self.factors.sizes}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneHotBox) and self.factors.sizes == other.factors.sizes

    __hash__ = None  # type: ignore[assignment]  # as for all spaces, which are mutable


class OneHotActions(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Offers a Discrete, MultiDiscrete or MultiBinary action space as a `OneHotBox`.

    An action's factors are blocks side by side, and the largest entry of each block is the choice. If the observation
    is a Dict with an `action_mask`, a choice that the mask forbids is never executed: `ActionFactors.repair` says which
    is executed in its place. Policies of this library never choose it; random actions before learning starts may.

    Args:
        env: The environment.

    Raises:
        TypeError: The action space is of another kind, or `env` is not a Gymnasium environment.
        ValueError: The mask has another size than the one-hots, or forbids every choice of a factor (when stepping).
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if not isinstance(env, gym.Env):
            raise TypeError(
                f"OneHotActions wraps one Gymnasium environment, got {type(env).__name__}; for several at once use "
                "stable_baselines3.common.env_util.make_vec_env(..., wrapper_class=OneHotActions)"
            )
        RecordConstructorArgs.__init__(self)  # so that Gymnasium can make the environment again from its spec
        gym.ActionWrapper.__init__(self, env)
        self.factors = ActionFactors.from_space(env.action_space)
        self.action_space = OneHotBox(self.factors)
        space = env.observation_space
        self.masked = isinstance(space, spaces.Dict) and MASK_KEY in space.spaces
        self._mask: NDArray[np.bool_] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, False), info

    def step(self, action: NDArray[Any]) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(self.action(action))
        return self._with_mask(observation, terminated), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, terminated: bool) -> Any:
        if not self.masked:
            return observation
        self._mask = check_mask(observation[MASK_KEY], self.factors, terminated)
        space = self.observation_space[MASK_KEY]  # type: ignore[index]
        return {**observation, MASK_KEY: self._mask.astype(space.dtype).reshape(space.shape)}

    def action(self, action: NDArray[Any]) -> Any:
        """`[N]` entries to an action of the environment.

        Raises:
            ValueError: There are more or fewer entries, most often because the environment's own action was given.
        """
        if np.shape(action) != (self.factors.width,):
            raise ValueError(
                f"OneHotActions takes {self.factors.width} entries, one for each choice of {self.factors.sizes}, got "
                f"an action of shape {np.shape(action)}"
            )
        indices = self.factors.indices(torch.as_tensor(action))
        if self._mask is not None:
            indices = self.factors.repair(indices, torch.from_numpy(self._mask))
        decoded = self.factors.to_env(indices).numpy().astype(self.factors.dtype)
        return decoded if self.factors.shape else decoded[()]
