"""Observations of the plug-in policies: features of them, and the action masks among them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.wrappers import MASK_KEY


def check_observation_space(space: spaces.Space[Any]) -> None:
    """Refuse a space that Stable-Baselines3 cannot make features of.

    Raises:
        TypeError: It is not Box, Discrete, MultiDiscrete of one dimension, MultiBinary or a Dict of these.
    """
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if not all(
        isinstance(part, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)) for part in parts
    ):
        raise TypeError(
            f"observation space {space} is not supported; supported are Box, Discrete, MultiDiscrete, MultiBinary, and "
            "a Dict of these"
        )
    for part in parts:
        if isinstance(part, spaces.MultiDiscrete) and part.nvec.ndim > 1:
            raise TypeError(
                f"observation space {part} is not supported: a MultiDiscrete may have one dimension, this one has "
                f"{part.nvec.ndim}; flatten the observations and give MultiDiscrete(nvec.reshape(-1))"
            )


def has_mask(space: spaces.Space[Any]) -> bool:
    """Whether the observations hold an action mask."""
    return isinstance(space, spaces.Dict) and MASK_KEY in space.spaces


def check_mask_space(space: spaces.Space[Any], factors: ActionFactors) -> None:
    """Refuse observations whose action mask does not fit the actions.

    Raises:
        ValueError: The mask has another number of entries than there are choices, or is all there is to observe.
    """
    if not has_mask(space):
        return
    assert isinstance(space, spaces.Dict)
    shape = space[MASK_KEY].shape
    if shape is None or int(np.prod(shape)) != factors.width or isinstance(space[MASK_KEY], spaces.Discrete):
        raise ValueError(
            f"the observation's {MASK_KEY!r} is {space[MASK_KEY]}, but actions with the choices {factors.sizes} need a "
            f"mask of {factors.width} entries, for example MultiBinary({factors.width})"
        )
    if len(space) == 1:
        raise ValueError(f"there is nothing to observe but {MASK_KEY!r}; repeat it under another key to learn from it")


def without_mask(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of what features are made of: everything but the action mask."""
    if not has_mask(space):
        return space
    assert isinstance(space, spaces.Dict)
    return spaces.Dict({key: part for key, part in space.items() if key != MASK_KEY})


def mask_in(observation: PyTorchObs) -> Tensor | None:
    """The action mask in observations `[B, ...]`, boolean `[B, N]`, or `None`.

    Raises:
        ValueError: The mask has entries other than 0 and 1: it went through `VecNormalize`.
    """
    if not isinstance(observation, dict) or MASK_KEY not in observation:
        return None
    entries = observation[MASK_KEY].flatten(1)
    # Only a mask in a Box of floats can have been normalised, which would allow and forbid at random.
    if entries.is_floating_point() and not bool(((entries == 0) | (entries == 1)).all()):
        raise ValueError(
            f"the observation's {MASK_KEY!r} has entries other than 0 and 1; if that is VecNormalize's doing, give it "
            "norm_obs_keys without the mask, or declare the mask as MultiBinary"
        )
    return entries > 0.5


def default_extractor(space: spaces.Space[Any]) -> type[BaseFeaturesExtractor]:
    """Stable-Baselines3's features extractor for observations of that space."""
    if isinstance(space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(space) else FlattenExtractor


class ObservationFeatures(BaseModel):
    """Mix-in for Stable-Baselines3's models: features leave the action mask out, and integers may begin anywhere.

    A mask says what may be done, which actor and critic respect without learning; features made of it would only tell
    them what they need not know. Where a mask carries information about the state, repeat it under another key.
    """

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """A new extractor, of all of the observation but its mask."""
        return self.features_extractor_class(without_mask(self.observation_space), **self.features_extractor_kwargs)

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> Tensor:
        """Features `[B, F]` of observations `[B, ...]`."""
        if isinstance(obs, dict):
            obs = {key: self._from_zero(value, key) for key, value in obs.items() if key != MASK_KEY}
        else:
            obs = self._from_zero(obs, "")
        return super().extract_features(obs, features_extractor)

    def _from_zero(self, value: Tensor, key: str) -> Tensor:
        # Stable-Baselines3 makes one-hots of integers that it takes to begin at 0.
        start = self._starts.get(key)
        return value if start is None else value - start.to(value.device)

    @cached_property
    def _starts(self) -> dict[str, Tensor]:
        return starts(self.observation_space)


def starts(space: spaces.Space[Any]) -> dict[str, Tensor]:
    """The smallest values of integer observations that do not begin at 0, by key; the key of a plain space is empty."""
    parts = space.items() if isinstance(space, spaces.Dict) else [("", space)]
    offsets = {key: np.asarray(getattr(part, "start", 0)) for key, part in parts}
    return {key: torch.as_tensor(start) for key, start in offsets.items() if start.any()}
