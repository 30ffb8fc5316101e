"""What the on-policy algorithms collect, and the returns and advantages made of it.

`T` steps of `E` environments; every tensor leads with `[T, E]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

FloatArray = NDArray[np.float32]

# Rows of one pass through a network, where the batch has no bound of its own.
CHUNK = 4096


@dataclass
class Rollout:
    """Transitions of one iteration.

    Attributes:
        observations: Observations `[T, E, ...]`, or a dict of such.
        indices: Actions as indices `[T, E, D]`.
        logits: Logits of the behaviour policy `[T, E, N]`.
        rewards: `[T, E]`.
        dones: `[T, E]`, whether the episode ended with this step, for whatever reason.
        last_observations: Observations after the last step `[E, ...]`, first ones of a new episode where one ended.
        truncations: Where a time limit cut an episode short: step, environment, and the observation it ended with.
    """

    observations: PyTorchObs
    indices: Tensor
    logits: Tensor
    rewards: FloatArray
    dones: NDArray[np.bool_]
    last_observations: PyTorchObs
    truncations: list[tuple[int, int, Any]]

    def flat(self, tensor: Any) -> Any:
        """`[T, E, ...]` to `[T * E, ...]`, for a tensor or a dict of tensors."""
        if isinstance(tensor, dict):
            return {key: value.flatten(0, 1) for key, value in tensor.items()}
        return tensor.flatten(0, 1)


def select(observations: Any, rows: Tensor) -> Any:
    """Rows of observations `[B, ...]`, a tensor or a dict of tensors."""
    if isinstance(observations, dict):
        return {key: value[rows] for key, value in observations.items()}
    return observations[rows]


def split(observations: Any, size: int) -> Iterator[Any]:
    """Observations `[B, ...]`, a tensor or a dict of tensors, in pieces of `size` rows and a last one of fewer."""
    if isinstance(observations, dict):
        for parts in zip(*(value.split(size) for value in observations.values()), strict=True):
            yield dict(zip(observations, parts, strict=True))
    else:
        yield from observations.split(size)


def stack(observations: list[Any], device: torch.device) -> Any:
    """Observations of `T` steps, each `[E, ...]`, as tensors `[T, E, ...]` on `device`."""
    if isinstance(observations[0], dict):
        return {key: stack([entry[key] for entry in observations], device) for key in observations[0]}
    return torch.as_tensor(np.stack(observations), device=device)


def gae(
    rewards: FloatArray, values: FloatArray, last_values: FloatArray, dones: NDArray[np.bool_], gamma: float, lam: float
) -> FloatArray:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16), `[T, E]`.

    Args:
        rewards: `[T, E]`, plus the discounted value of the last observation where an episode was truncated.
        values: Values of the observations `[T, E]`.
        last_values: Values of the observations after the last step `[E]`.
        dones: `[T, E]`.
        gamma: Discount.
        lam: GAE's lambda; 1 gives Monte-Carlo returns minus values.
    """
    advantages = np.empty_like(rewards)
    running = np.zeros_like(last_values)
    following = last_values
    for t in range(len(rewards) - 1, -1, -1):
        alive = ~dones[t]
        delta = rewards[t] + gamma * following * alive - values[t]
        running = delta + gamma * lam * alive * running
        advantages[t] = running
        following = values[t]
    return advantages


def minibatches(size: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Row numbers `0 .. size - 1` in random order, in batches of nearly equal size and at most `batch_size`."""
    yield from torch.randperm(size, device=device).chunk(-(-size // batch_size))
