"""Gymnasium wrappers: discrete actions as one-hots, and action masks as observations."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from gumbel_rl.actions import ActionFactors

MASK_KEY = "action_mask"
"""Key of a Dict observation, and of an `info`, that holds an action mask."""


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


class ActionMaskObservation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Puts the environment's action mask into the observation, which becomes a Dict with the key `action_mask`.

    The mask is the environment's `action_masks()` if it has that method (the convention of sb3-contrib), else
    `info["action_mask"]` of `reset` and `step`. It has an entry for each choice, the factors' side by side (two for
    each bit of a MultiBinary space, for 0 and for 1), or is a sequence with an array for each factor.

    Args:
        env: The environment. A Dict observation gains the key, any other becomes the Dict's entry `observation`.

    Raises:
        TypeError: The action space is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: The observation has that key already; or there is no mask, or it does not fit (when stepping).
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self.factors = ActionFactors.from_space(env.action_space)
        space = env.observation_space
        self._nested = not isinstance(space, spaces.Dict)
        parts = {"observation": space} if self._nested else dict(space.spaces)  # type: ignore[attr-defined]
        if MASK_KEY in parts:
            raise ValueError(f"the observation has an entry {MASK_KEY!r} already")
        parts[MASK_KEY] = spaces.MultiBinary(self.factors.width)
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info, False), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info, terminated), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any], terminated: bool) -> dict[str, Any]:
        if self.env.has_wrapper_attr("action_masks"):
            mask = self.env.get_wrapper_attr("action_masks")()
        elif MASK_KEY in info:
            mask = info[MASK_KEY]
        else:
            raise ValueError(
                f"{self.env} gives no action mask: it needs a method action_masks(), or info[{MASK_KEY!r}] at every "
                "reset and step"
            )
        parts = {"observation": observation} if self._nested else dict(observation)
        return {**parts, MASK_KEY: check_mask(mask, self.factors, terminated).astype(np.int8)}


def check_mask(mask: Any, factors: ActionFactors, terminated: bool = False) -> NDArray[np.bool_]:
    """A mask as booleans `[N]`.

    Args:
        mask: An entry for each choice in an array of any shape, or a sequence with an array for each factor.
        factors: The action's factors.
        terminated: The episode has ended. Where nothing is left to choose, a mask may forbid everything, and one that
            does is returned as allowing everything.

    Raises:
        ValueError: It has another number of entries, or a factor has no choice left.
    """
    if isinstance(mask, (list, tuple)):
        mask = np.concatenate([np.empty(0), *(np.ravel(part) for part in mask)])
    flat = np.asarray(mask).reshape(-1).astype(np.bool_)
    if flat.shape != (factors.width,):
        raise ValueError(
            f"an action mask needs {factors.width} entries, one for each choice of {factors.sizes}, got {flat.size}"
        )
    empty = np.flatnonzero(~np.logical_or.reduceat(flat, np.cumsum([0, *factors.sizes[:-1]])))
    if len(empty) and terminated:
        return np.ones_like(flat)
    if len(empty):
        raise ValueError(f"an action mask must allow a choice of every factor, but factor {empty[0]} has none left")
    return flat
