"""Actor and critics of the plug-in policies for SAC, TD3 and DDPG, called as those of Stable-Baselines3 are."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from gumbel_rl.critics import make_critic
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator
from gumbel_rl.sb3.observations import ObservationFeatures, mask_in
from gumbel_rl.sb3.policy_output import attached_output
from gumbel_rl.wrappers import OneHotBox

# The first policy is nearly uniform, as that of the on-policy algorithms.
LAST_LAYER_SCALE = 0.01


def adam_options(optimizer_class: type[torch.optim.Optimizer], **options: float) -> dict[str, Any]:
    """Options for Adam: these, and the fused step, half as costly for small networks. None for another optimiser."""
    return {**options, "fused": True} if issubclass(optimizer_class, torch.optim.Adam) else {}


class GumbelActor(ObservationFeatures, BasePolicy):
    """Actor `logits(s)` over the factors of a discrete action, for algorithms that take it for a continuous one.

    Args:
        observation_space: The observations.
        action_space: The one-hots.
        net_arch: Widths of the hidden layers.
        features_extractor: Turns observations into features.
        features_dim: `F`.
        activation_fn: Between the layers.
        estimator: Estimator of the policy gradient, the same object for all that take it from here.
        normalize_images: Divide images by 255.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: OneHotBox,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module],
        estimator: Estimator,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.factors = action_space.factors
        self.estimator = estimator
        self.net_arch = net_arch
        self.features_dim = features_dim
        self.activation_fn = activation_fn
        self.net = nn.Sequential(*create_mlp(features_dim, self.factors.width, net_arch, activation_fn))
        with torch.no_grad():
            for parameter in self.net[-1].parameters():
                parameter.mul_(LAST_LAYER_SCALE)

    def distribution(self, obs: PyTorchObs) -> FactoredCategorical:
        """The policy at observations `[B, ...]`, with their masks: logits `[B, N]`."""
        logits = self.net(self.extract_features(obs, self.features_extractor))
        return FactoredCategorical(logits, self.factors, mask_in(obs))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """What the algorithm asks the actor for: actions `[B, N]`."""
        return self.act(obs, deterministic)

    def act(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions `[B, N]` to take, exactly -1 or +1."""
        dist = self.distribution(obs)
        return 2.0 * (dist.mode if deterministic else dist.sample()) - 1.0

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.act(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("net_arch", "features_dim", "activation_fn", "features_extractor", "estimator")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}


class GumbelCritics(ObservationFeatures):
    """Critics `Q_i(s, z)` of observations and one-hot actions, called as those of Stable-Baselines3 are.

    Args:
        observation_space: The observations.
        action_space: The one-hots.
        net_arch: Widths of the hidden layers.
        features_extractor: Turns observations into features, for all critics.
        features_dim: `F`.
        activation_fn: Between the layers.
        normalize_images: Divide images by 255.
        n_critics: How many.
        share_features_extractor: The features are the actor's, and these losses do not train them.
        critic: Id of the critic.
        critic_kwargs: Its options.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: OneHotBox,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module],
        normalize_images: bool = True,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        critic: str = "multilinear",
        critic_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.share_features_extractor = share_features_extractor
        self.factors = action_space.factors
        options = critic_kwargs or {}
        self.critics = nn.ModuleList(
            make_critic(critic, features_dim, self.factors, net_arch, activation_fn, **options)
            for _ in range(n_critics)
        )

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """Values `[B, 1]` of every critic, for actions `[B, N]` in -1..1 or an actor's output."""
        # The actor's loss does not train the critics' features, and the critics' loss not those shared with the actor.
        fits = torch.is_grad_enabled() and not self.share_features_extractor and attached_output(actions) is None
        with torch.set_grad_enabled(fits):
            features = self.extract_features(obs, self._extractor)
        return self._values(obs, features, actions, len(self.critics))

    def q1_forward(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """Values `[B, 1]` of the first critic, with no gradient towards the features."""
        with torch.no_grad():
            features = self.extract_features(obs, self._extractor)
        return self._values(obs, features, actions, 1)[0]

    @property
    def _extractor(self) -> BaseFeaturesExtractor:
        assert self.features_extractor is not None
        return self.features_extractor

    def _values(self, obs: PyTorchObs, features: Tensor, actions: Tensor, count: int) -> tuple[Tensor, ...]:
        critics: list[Any] = list(self.critics)[:count]
        output = attached_output(actions)
        if output is not None:
            return tuple(output.value(critic, features).unsqueeze(-1) for critic in critics)
        one_hots = self._executed(obs, (actions + 1.0) / 2.0)
        if torch.is_grad_enabled():
            one_hots = critics[0].regression_actions(one_hots)
        return tuple(critic(features, one_hots).unsqueeze(-1) for critic in critics)

    def _executed(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """The actions `[B, N]` that the environment executed in place of those that its mask forbade."""
        mask = mask_in(obs)
        if mask is None:
            return actions
        indices = self.factors.indices(actions)
        repaired = self.factors.repair(indices, mask)
        changed = (indices != repaired).any(-1, keepdim=True)
        return torch.where(changed, self.factors.one_hot(repaired, actions.dtype), actions)
