"""Action masks: as observations, and what one must look like."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from gumbel_rl.actions import ActionFactors

MASK_KEY = "action_mask"
"""Key of a Dict observation, and of an `info`, that holds an action mask."""


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
