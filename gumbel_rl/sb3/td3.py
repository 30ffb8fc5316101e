"""GumbelTD3Policy: discrete actions for stock Stable-Baselines3 TD3 and DDPG."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from gumbel_rl.sb3.networks import GumbelActor, GumbelCritics
from gumbel_rl.sb3.off_policy import GumbelOffPolicyMixin
from gumbel_rl.sb3.policy_output import PolicyOutput


class GumbelTD3Actor(GumbelActor):
    """The actor as TD3 calls it: for the loss with gradients, for the target without.

    Attributes:
        ent_coef: Weight of the entropy in the loss.
        exact_targets: Whether the value is linear in each factor, so that the probabilities have the expected value.
    """

    ent_coef: float = 0.0
    exact_targets: bool = False

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions `[B, N]` in -1..1 for the critics to value."""
        dist = self.distribution(obs)
        if torch.is_grad_enabled():
            return PolicyOutput.draw(dist, self.estimator, self.ent_coef).tensor()
        # TD3 adds its noise, of size zero, to target actions: what came with the tensor is lost, and its entries count.
        return 2.0 * (dist.probs if self.exact_targets else dist.sample()) - 1.0


class GumbelTD3Policy(GumbelOffPolicyMixin, TD3Policy):
    """Policy for stock `stable_baselines3.TD3` and `DDPG` on Discrete, MultiDiscrete and MultiBinary actions.

    The policy is a distribution over actions: it explores by sampling, and its entropy, weighted by `ent_coef`, keeps
    it from ending that too soon, which neither algorithm would prevent. Wrap the environment in `OneHotActions`. TD3's
    smoothing noise has no meaning for one-hots, so TD3 needs `target_policy_noise=0`; DDPG has none.

    Args:
        *args: As in `GumbelOffPolicyMixin`.
        ent_coef: Weight of the entropy in the actor's loss, in units of return per nat.
        **kwargs: As in `GumbelOffPolicyMixin`.
    """

    algorithm_class = TD3
    actor: GumbelTD3Actor  # type: ignore[assignment]
    actor_target: GumbelTD3Actor  # type: ignore[assignment]
    critic: GumbelCritics  # type: ignore[assignment]
    critic_target: GumbelCritics  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: LearningRate,
        *args: Any,
        ent_coef: float = 0.1,
        **kwargs: Any,
    ) -> None:
        if not ent_coef >= 0:
            raise ValueError(f"ent_coef is a weight and must not be negative, got {ent_coef}")
        self.ent_coef = ent_coef
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build(self, lr_schedule: LearningRate) -> None:
        super()._build(lr_schedule)
        for actor in (self.actor, self.actor_target):
            actor.ent_coef = self.ent_coef
            actor.exact_targets = self.critic.critics[0].multilinear  # type: ignore[assignment]

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new actor, as Stable-Baselines3 asks for it."""
        return GumbelTD3Actor(**self._actor_arguments(features_extractor)).to(self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor.act(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"ent_coef": self.ent_coef}

    def _check_algorithm(self, algorithm: BaseAlgorithm | None) -> None:
        super()._check_algorithm(algorithm)
        if isinstance(algorithm, TD3) and algorithm.target_policy_noise > 0 and algorithm.target_noise_clip > 0:
            raise ValueError(
                f"target_policy_noise={algorithm.target_policy_noise:g}: noise added to a one-hot is no action; pass "
                "target_policy_noise=0"
            )
