"""The networks of the off-policy algorithm: an actor over factored actions, critics, and their slow copies."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from gumbel_rl.algorithms.policies import DiscretePolicy, NetArch, split_net_arch
from gumbel_rl.critics import Critic, make_critic, mlp
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.sb3.networks import LAST_LAYER_SCALE, adam_options
from gumbel_rl.sb3.observations import mask_in

Self = TypeVar("Self", bound="OffPolicyActorCriticPolicy")


class Critics(nn.Module):
    """Critics of the same observations, with one features extractor for all.

    Args:
        extractor: Turns observations into features.
        critics: The critics.
    """

    def __init__(self, extractor: BaseFeaturesExtractor, critics: list[Critic]) -> None:
        super().__init__()
        self.extractor = extractor
        self.members = nn.ModuleList(critics)

    def __iter__(self) -> Any:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


class OffPolicyActorCriticPolicy(DiscretePolicy):
    """Actor `logits(s)` over the factors of a discrete action, critics `Q_i(s, z)`, and slow copies of the critics.

    Args:
        observation_space: Box, Discrete or MultiDiscrete (with any `start`), MultiBinary, or a Dict of these. An entry
            `action_mask` of a Dict restricts the actions and is not made into features.
        action_space: Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: Learning rate as a function of the remaining progress (1 to 0), Stable-Baselines3's convention.
        net_arch: Widths of the hidden layers, one list for actor and critics or `{"pi": [...], "qf": [...]}`.
        activation_fn: Between the layers.
        layer_norm: LayerNorm after every hidden layer of actor and critics, before the activation.
        critic: Id in `gumbel_rl.critics.CRITICS`.
        critic_kwargs: Options of the critic, for example `{"rank": 16}`.
        n_critics: How many.
        features_extractor_class: Turns observations into features; `None` for the class's own, `default_extractor`.
        features_extractor_kwargs: Its arguments.
        share_features_extractor: One extractor for actor and critics, which the critics' loss alone trains.
        normalize_images: Divide images by 255.
        optimizer_class: Optimiser of all parameters.
        optimizer_kwargs: Its arguments.
        use_sde: Accepted because Stable-Baselines3 always passes it; must be false.

    Raises:
        TypeError: The action space or the observation space is not supported, or an option the critic does not have.
        ValueError: An unknown critic, fewer than one, or a mask in the observations that does not fit the actions.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: NetArch | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        critic: str = "multilinear",
        critic_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = False,
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
            adam_options(optimizer_class) if optimizer_kwargs is None else optimizer_kwargs,
            use_sde,
        )
        if n_critics < 1:
            raise ValueError(f"n_critics must be at least 1, got {n_critics}")
        self.net_arch = [128, 128] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.layer_norm = layer_norm
        self.critic = critic
        self.critic_kwargs = dict(critic_kwargs or {})
        self.n_critics = n_critics
        self.share_features_extractor = share_features_extractor
        arch = split_net_arch(self.net_arch, "qf")

        self.features_extractor = self.make_features_extractor()
        extractor = self.features_extractor if share_features_extractor else self.make_features_extractor()
        features_dim = self.features_extractor.features_dim
        self.actor = mlp([features_dim, *arch["pi"], self.factors.width], activation_fn, layer_norm)
        options = {"layer_norm": layer_norm, **self.critic_kwargs}
        members = [
            make_critic(critic, features_dim, self.factors, arch["qf"], activation_fn, **options)
            for _ in range(n_critics)
        ]
        self.critics = Critics(extractor, members)
        self.target = copy.deepcopy(self.critics).requires_grad_(False).eval()
        # Logarithm of the entropy coefficient, for algorithms that learn it.
        self.log_ent_coef = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            for parameter in self.actor[-1].parameters():
                parameter.mul_(LAST_LAYER_SCALE)

        self.actor_parameters = list(self.actor.parameters())
        if not share_features_extractor:
            self.actor_parameters += self.features_extractor.parameters()
        self.critic_parameters: list[Tensor] = list(self.critics.parameters())
        # Listed once: to walk through the modules in every update would take a tenth of its time.
        self._target_parameters: list[Tensor] = list(self.target.parameters())
        # Buffers that a state dict leaves out are constants, the same in both.
        self._target_has_statistics = len(self.target.state_dict()) > len(self._target_parameters)
        groups: list[dict[str, Any]] = [
            {"params": [*self.critic_parameters, *self.actor_parameters]},
            # No weight that ought to be small: of a weight decay it has none.
            {"params": [self.log_ent_coef], "weight_decay": 0.0},
        ]
        # The type of optimisers in general has no learning rate.
        self.optimizer = optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("net_arch", "activation_fn", "layer_norm", "critic", "critic_kwargs", "n_critics")
        own = {name: getattr(self, name) for name in (*names, "share_features_extractor")}
        return super()._get_constructor_parameters() | own

    def train(self: Self, mode: bool = True) -> Self:
        """As in torch; the slow critics, which make targets, are never in training mode."""
        super().train(mode)
        self.target.eval()
        return self

    def logits(self, obs: PyTorchObs) -> Tensor:
        """The actor's output `[B, N]` at observations `[B, ...]`."""
        features = self.extract_features(obs, self.features_extractor)
        # Shared features are the critics': the actor's loss does not train them.
        logits: Tensor = self.actor(features.detach() if self.share_features_extractor else features)
        return logits

    def distribution(self, obs: PyTorchObs, all_allowed: Tensor | None = None) -> FactoredCategorical:
        """The policy at observations `[B, ...]`, with their masks but where `all_allowed` `[B, 1]` says otherwise."""
        mask = mask_in(obs)
        if mask is not None and all_allowed is not None:
            mask = mask | all_allowed
        return FactoredCategorical(self.logits(obs), self.factors, mask)

    def features(self, critics: Critics, obs: PyTorchObs) -> Tensor:
        """Features `[B, F]` of observations `[B, ...]` for the critics or their slow copies."""
        return self.extract_features(obs, critics.extractor)

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """Move the slow copies a share `tau` of the way towards the critics."""
        torch._foreach_lerp_(self._target_parameters, self.critic_parameters, tau)
        if self._target_has_statistics:
            for kept, current in zip(self.target.buffers(), self.critics.buffers(), strict=True):
                kept.copy_(current)  # statistics, not weights: those of the critics, as in Stable-Baselines3


class OffPolicyCnnPolicy(OffPolicyActorCriticPolicy):
    """The same for images, with the convolutional network of Mnih et al. 2015."""

    default_extractor = NatureCNN


class OffPolicyMultiInputPolicy(OffPolicyActorCriticPolicy):
    """The same for Dict observations, each entry but an action mask with an extractor of its own."""

    default_extractor = CombinedExtractor


POLICY_ALIASES: dict[str, type[BasePolicy]] = {
    "MlpPolicy": OffPolicyActorCriticPolicy,
    "CnnPolicy": OffPolicyCnnPolicy,
    "MultiInputPolicy": OffPolicyMultiInputPolicy,
}
