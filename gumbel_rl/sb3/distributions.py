"""Stable-Baselines3's interface to a distribution over discrete actions, all factors of them at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from torch import Tensor, nn

from gumbel_rl.actions import ActionFactors
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.wrappers import OneHotBox

# Rollout buffers hand actions to the losses as float32, which has every whole number up to here.
LARGEST_ACTION = 2**24


class FactoredDistribution(Distribution):
    """A `FactoredCategorical` where Stable-Baselines3 expects one of its own distributions.

    It takes the same logits as theirs: one for each choice, the factors' side by side, and for a MultiBinary space one
    for each bit, the log-odds of 1. Actions are the environment's, with the space's `start` and dtype. `.distribution`
    is the `FactoredCategorical`, whose divergence torch knows: `stable_baselines3.common.distributions.kl_divergence`
    works.

    Args:
        space: Discrete, or MultiDiscrete or MultiBinary of one dimension.

    Raises:
        TypeError: A space of another kind.
        ValueError: A space with more dimensions, or with integers that buffers of Stable-Baselines3 would round.
    """

    distribution: FactoredCategorical

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        check_action_space(space)
        self.factors = ActionFactors.from_space(space)
        self.bits = isinstance(space, spaces.MultiBinary)
        self.dtype = torch.from_numpy(np.empty(0, self.factors.dtype)).dtype

    def proba_distribution_net(self, latent_dim: int) -> nn.Linear:
        """A layer from features `[B, latent_dim]` to the logits that `proba_distribution` takes."""
        return nn.Linear(latent_dim, len(self.factors.sizes) if self.bits else self.factors.width)

    def proba_distribution(self, action_logits: Tensor, mask: Tensor | None = None) -> FactoredDistribution:
        """Set the distribution, and return this object.

        Args:
            action_logits: `[B, N]`, or `[B, D]` for the bits of a MultiBinary space.
            mask: Boolean `[B, N]`, true where a choice is allowed; for each bit an entry for 0 and one for 1.

        Raises:
            ValueError: A factor has no choice left.
        """
        if self.bits:
            action_logits = torch.stack([torch.zeros_like(action_logits), action_logits], -1).flatten(-2)
        self.distribution = FactoredCategorical(action_logits, self.factors, mask)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability `[B]` of environment actions `[B, *action shape]`.

        Raises:
            ValueError: An action is not one of the space.
        """
        one_hot = self.factors.encode(actions.reshape(-1, *self.factors.shape), self.distribution.logits.dtype)
        return self.distribution.log_prob(one_hot)

    def entropy(self) -> Tensor:
        """Entropy `[B]` in nats, over the choices that are allowed."""
        return self.distribution.entropy()

    def sample(self) -> Tensor:
        """Environment actions `[B, *action shape]`, drawn exactly."""
        return self._to_env(self.distribution.sample_indices())

    def mode(self) -> Tensor:
        """The most probable environment actions `[B, *action shape]`."""
        return self._to_env(self.factors.indices(self.distribution.mode))

    def _to_env(self, indices: Tensor) -> Tensor:
        return self.factors.to_env(indices).to(self.dtype)

    def actions_from_params(
        self, action_logits: Tensor, mask: Tensor | None = None, deterministic: bool = False
    ) -> Tensor:
        """Actions of the distribution with these logits."""
        return self.proba_distribution(action_logits, mask).get_actions(deterministic)

    def log_prob_from_params(self, action_logits: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Actions drawn from the distribution with these logits, and their log-probabilities."""
        actions = self.actions_from_params(action_logits, mask)
        return actions, self.log_prob(actions)


def check_action_space(space: spaces.Space[Any]) -> None:
    """Refuse a space whose actions Stable-Baselines3's rollout buffers or this library cannot hold.

    Raises:
        TypeError: It is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: It has more than one dimension, or integers beyond 2^24.
    """
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        if isinstance(space, OneHotBox):
            repair = "leave OneHotActions out, which is for SAC, TD3 and DDPG"
        elif isinstance(space, spaces.Box):
            repair = "for continuous actions give Stable-Baselines3's own policies, such as 'MlpPolicy'"
        else:
            repair = "put the parts into a MultiDiscrete, with a gymnasium.ActionWrapper that takes them apart again"
        raise TypeError(
            f"action space {space} is not supported; supported are Discrete, MultiDiscrete and MultiBinary: {repair}"
        )
    factors = ActionFactors.from_space(space)
    # Stable-Baselines3 needs the n of a MultiBinary to be a number, which of MultiBinary([3]) it is not.
    if len(factors.shape) > 1 or (isinstance(space, spaces.MultiBinary) and not isinstance(space.n, int)):
        flat = f"MultiBinary({len(factors.sizes)})" if isinstance(space, spaces.MultiBinary) else "one row of factors"
        raise ValueError(
            f"action space {space} has the shape {factors.shape}, but Stable-Baselines3's buffers hold actions of one "
            f"dimension: make it {flat}, with a gymnasium.ActionWrapper that restores the shape"
        )
    largest = max(max(-start, start + size - 1) for start, size in zip(factors.start, factors.sizes, strict=True))
    if largest > LARGEST_ACTION:
        raise ValueError(
            f"action space {space} has actions beyond {LARGEST_ACTION}, which Stable-Baselines3's buffers round: count "
            "from 0, with a gymnasium.ActionWrapper that adds the start"
        )
