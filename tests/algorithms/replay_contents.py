"""Observation spaces for the tests of replay buffers, and their contents as something that can be compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from gumbel_rl.sb3.replay import DiscreteReplayBuffer
from gumbel_rl.wrappers import MASK_KEY

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "float32": BOX,
    "float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (1, 6, 5), np.uint8),
    "scalar": spaces.Box(0, 1, (), np.float32),
    "discrete": spaces.Discrete(3, start=-1),
    "multi-discrete": spaces.MultiDiscrete([3, 2], start=[5, 0]),
    "multi-binary": spaces.MultiBinary((3, 5)),
    "dict": spaces.Dict({"x": BOX, "d": spaces.Discrete(4), MASK_KEY: spaces.MultiBinary(13)}),
    "box-mask": spaces.Dict({"b": spaces.MultiBinary(3), MASK_KEY: spaces.Box(0, 1, (9,), np.int8)}),
    "wide-box-mask": spaces.Dict({"x": BOX, MASK_KEY: spaces.Box(-9, 9, (4,), np.float32)}),
}


class Everything:
    """In place of a generator: draws every number once."""

    def integers(self, high: int, *, size: int) -> np.ndarray:
        assert high == size
        return np.arange(high)


def everything(buffer: DiscreteReplayBuffer, env: VecNormalize | None = None) -> Any:
    return buffer.sample(buffer.size() * buffer.n_envs, env, Everything())


def as_bytes(observation: Any, row: Any = ...) -> Any:
    """An observation, one of a batch if a row is given, as something that can be counted."""
    if isinstance(observation, dict):
        return tuple((key, as_bytes(value, row)) for key, value in sorted(observation.items()))
    array = np.asarray(observation)[row]
    return str(array.dtype), array.tobytes()


def counted(samples: Any) -> Counter[Any]:
    """Transitions of a batch and how often they are in it; dtypes count, shapes do not."""
    return Counter(
        (
            as_bytes(samples.observations, row),
            tuple(samples.actions[row].reshape(-1).tolist()),
            as_bytes(samples.next_observations, row),
            samples.dones[row].item(),
            samples.rewards[row].item(),
            samples.discounts[row].item(),
        )
        for row in range(len(samples.rewards))
    )
