"""Policies over factored actions, and the networks of the on-policy algorithms: an actor and a critic."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from gumbel_rl.actions import ActionFactors
from gumbel_rl.critics import Additive, mlp
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.sb3.networks import adam_options
from gumbel_rl.sb3.observations import ObservationFeatures, check_mask_space, check_observation_space, mask_in

NetArch = list[int] | dict[str, list[int]]


def split_net_arch(net_arch: NetArch, critic: str) -> dict[str, list[int]]:
    """Widths of the actor, under `pi`, and of the critic, under the key `critic`, given for both at once or apart.

    Raises:
        ValueError: A mapping with other keys.
    """
    arch = net_arch if isinstance(net_arch, dict) else {"pi": net_arch, critic: net_arch}
    if set(arch) != {"pi", critic}:
        raise ValueError(f"net_arch must be widths, or a mapping with the keys pi and {critic}, got {net_arch}")
    return arch


class DiscretePolicy(ObservationFeatures, BasePolicy):
    """Base class of the policies over the factors of a discrete action space: acting, and what all of them are given.

    Args:
        observation_space: Box, Discrete or MultiDiscrete (with any `start`), MultiBinary, or a Dict of these. An entry
            `action_mask` of a Dict restricts the actions and is not made into features.
        action_space: Discrete, MultiDiscrete or MultiBinary.
        features_extractor_class: Turns observations into features; `None` for the class's own, `default_extractor`.
        features_extractor_kwargs: Its arguments.
        normalize_images: Divide images by 255.
        optimizer_class: Optimiser.
        optimizer_kwargs: Its arguments.
        use_sde: Accepted because Stable-Baselines3 always passes it; must be false.

    Raises:
        TypeError: The action space or the observation space is not supported.
        ValueError: A mask in the observations that does not fit the actions.
    """

    temperature: Tensor
    default_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        features_extractor_class: type[BaseFeaturesExtractor] | None,
        features_extractor_kwargs: dict[str, Any] | None,
        normalize_images: bool,
        optimizer_class: type[torch.optim.Optimizer],
        optimizer_kwargs: dict[str, Any],
        use_sde: bool,
    ) -> None:
        if use_sde:
            raise ValueError("state-dependent exploration is for continuous actions")
        self.factors = ActionFactors.from_space(action_space)
        check_observation_space(observation_space)
        check_mask_space(observation_space, self.factors)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_extractor,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
        )
        # Current temperature of the estimator: a buffer, so that it is saved and restored with the weights.
        self.register_buffer("temperature", torch.ones(()))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("features_extractor_class", "features_extractor_kwargs", "optimizer_class", "optimizer_kwargs")
        own = {name: getattr(self, name) for name in names}
        return super()._get_constructor_parameters() | own | {"lr_schedule": _no_schedule}

    def set_training_mode(self, mode: bool) -> None:
        """As in Stable-Baselines3, whose `predict` asks for it at every step: nothing is done if the mode is right."""
        if self.training != mode:
            self.train(mode)

    def distribution(self, obs: PyTorchObs) -> FactoredCategorical:
        """The policy at observations `[B, ...]`: logits `[B, N]`."""
        raise NotImplementedError

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Environment actions `[B, *action shape]`."""
        return self._predict(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        dist = self.distribution(observation)
        indices = dist.mode_indices() if deterministic else dist.sample_indices()
        return self.factors.to_env(indices)


class ActorCriticPolicy(DiscretePolicy):
    """Actor `logits(s)` over the factors of a discrete action space, and critic `V(s) + sum_d <z_d, a_d(s)>`.

    Args:
        observation_space: Box, Discrete or MultiDiscrete (with any `start`), MultiBinary, or a Dict of these. An entry
            `action_mask` of a Dict restricts the actions and is not made into features.
        action_space: Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate as a function of the remaining progress (1 to 0), Stable-Baselines3's convention.
        net_arch: Widths of the hidden layers, one list for both networks or `{"pi": [...], "vf": [...]}`.
        activation_fn: Between the layers.
        ortho_init: Orthogonal initialisation, with a nearly uniform first policy.
        features_extractor_class: Turns observations into features; `None` for the class's own, `default_extractor`.
        features_extractor_kwargs: Its arguments.
        share_features_extractor: One extractor for actor and critic; if it has parameters, both losses train it.
        normalize_images: Divide images by 255.
        optimizer_class: Optimiser of all parameters.
        optimizer_kwargs: Its arguments.
        use_sde: Accepted because Stable-Baselines3 always passes it; must be false.

    Raises:
        TypeError: The action space or the observation space is not supported.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: NetArch | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images,
            optimizer_class,
            # eps as in the reference implementations of PPO and A2C.
            adam_options(optimizer_class, eps=1e-5) if optimizer_kwargs is None else optimizer_kwargs,
            use_sde,
        )
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.ortho_init = ortho_init
        self.share_features_extractor = share_features_extractor
        arch = split_net_arch(self.net_arch, "vf")

        self.features_extractor = self.make_features_extractor()
        self.critic_extractor = self.features_extractor if share_features_extractor else self.make_features_extractor()
        features_dim = self.features_extractor.features_dim
        self.actor = mlp([features_dim, *arch["pi"], self.factors.width], activation_fn)
        self.critic = Additive(features_dim, self.factors, arch["vf"], activation_fn)
        if ortho_init:
            self._init_orthogonal()
        # The losses' gradients are clipped apart; a shared extractor counts with the critic, whose loss is the larger.
        extractor = [] if share_features_extractor else list(self.features_extractor.parameters())
        self.actor_parameters = [*self.actor.parameters(), *extractor]
        self.critic_parameters = [*self.critic.parameters(), *self.critic_extractor.parameters()]
        # The type of optimisers in general has no learning rate.
        self.optimizer = optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _init_orthogonal(self) -> None:
        extractors = [self.features_extractor]
        if not self.share_features_extractor:
            extractors.append(self.critic_extractor)
        for module in (*extractors, self.actor, self.critic):
            module.apply(lambda layer: BasePolicy.init_weights(layer, gain=float(np.sqrt(2))))
        BasePolicy.init_weights(self.actor[-1], gain=0.01)
        BasePolicy.init_weights(self.critic.net[-1], gain=1.0)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("net_arch", "activation_fn", "ortho_init", "share_features_extractor")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    def distribution(self, obs: PyTorchObs) -> FactoredCategorical:
        """The policy at observations `[B, ...]`, with their masks: logits `[B, N]`."""
        logits = self.actor(self.extract_features(obs, self.features_extractor))
        return FactoredCategorical(logits, self.factors, mask_in(obs))

    def distribution_and_critic_features(self, obs: PyTorchObs) -> tuple[FactoredCategorical, Tensor]:
        """The policy as in `distribution`, and features `[B, F]` for the critic; a shared extractor runs once."""
        features = self.extract_features(obs, self.features_extractor)
        dist = FactoredCategorical(self.actor(features), self.factors, mask_in(obs))
        return dist, features if self.share_features_extractor else self.extract_features(obs, self.critic_extractor)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """State values `[B]`."""
        return self.critic.heads(self.extract_features(obs, self.critic_extractor))[0]


def _no_schedule(_: float) -> float:
    """Stand-in for the learning rate of a policy that is loaded on its own."""
    return 0.0


class CnnPolicy(ActorCriticPolicy):
    """The same for images, with the convolutional network of Mnih et al. 2015."""

    default_extractor = NatureCNN


class MultiInputPolicy(ActorCriticPolicy):
    """The same for Dict observations, each entry but an action mask with an extractor of its own."""

    default_extractor = CombinedExtractor


POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": ActorCriticPolicy,
    "CnnPolicy": CnnPolicy,
    "MultiInputPolicy": MultiInputPolicy,
}
