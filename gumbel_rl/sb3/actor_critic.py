"""A policy for stock A2C, PPO and TRPO: masks, any `start`, and all factors of an action at once."""

from __future__ import annotations

from copy import copy
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from gumbel_rl.sb3.distributions import FactoredDistribution
from gumbel_rl.sb3.observations import (
    ObservationFeatures,
    check_mask_space,
    check_observation_space,
    default_extractor,
    mask_in,
    without_mask,
)


# The mix-in stands last, so that whatever Stable-Baselines3's policy asks of its super() meets the mix-in first: its
# get_distribution and predict_values call super().extract_features, past every override in a subclass.
class GumbelActorCriticPolicy(ActorCriticPolicy, ObservationFeatures):  # type: ignore[misc]
    """Stable-Baselines3's actor-critic policy, for factored and masked discrete actions.

    It takes the place of "MlpPolicy", "CnnPolicy" and "MultiInputPolicy" in Stable-Baselines3's `A2C` and `PPO` and in
    sb3-contrib's `TRPO`:

        model = PPO(GumbelActorCriticPolicy, env)

    Its layers, their initialisation and the names of its weights are those of the stock policy, and so is the
    distribution over actions where there is no mask: weights can be exchanged. It differs in what it can do:

    * If the observation is a Dict with an `action_mask`, as `gumbel_rl.wrappers.ActionMaskObservation` makes it, what
      the mask forbids has probability 0: it is neither sampled nor the mode, and the entropy is that of the choices
      left. The mask is no feature. With `VecNormalize`, leave it out of `norm_obs_keys`. (sb3-contrib's `MaskablePPO`
      asks environments for their masks in another way, and takes other policies.)
    * Action spaces, and integer observations, may `start` anywhere.
    * The time of a step hardly depends on the number of factors, which the stock policy goes through one by one except
      for bits: see `benchmarks/on_policy_plugin.py`.
    * The divergence of MultiBinary actions is that of all bits together. The stock policy's is a number for each bit,
      of which TRPO takes the mean: for the same steps multiply `target_kl` and `cg_damping` by the number of bits.

    The Gumbel-max trick draws the actions, and that is all that is Gumbel's here: A2C, PPO and TRPO estimate gradients
    with the score function whatever their policy. There is no reparameterised gradient, no temperature and no choice of
    an estimator; these are in `gumbel_rl.GumbelActorCritic`.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
        action_space: Discrete, or MultiDiscrete or MultiBinary of one dimension.
        lr_schedule: Learning rate as a function of the remaining progress (1 to 0).
        use_sde: Accepted because Stable-Baselines3 always passes it; must be false.
        features_extractor_class: Turns observations, without their mask, into features. If omitted, the one that
            Stable-Baselines3 has for the space: `NatureCNN` for images, `CombinedExtractor` for a Dict, else
            `FlattenExtractor`.
        kwargs: All other arguments of Stable-Baselines3's `ActorCriticPolicy`, with its defaults: `net_arch`,
            `activation_fn`, `ortho_init`, `features_extractor_kwargs`, `share_features_extractor`, `normalize_images`,
            `optimizer_class` and `optimizer_kwargs`. Those that concern continuous actions have no effect.

    Raises:
        TypeError: The action space or the observation space is not supported.
        ValueError: The action space has several dimensions, the mask does not fit it, or `use_sde` is true.
    """

    action_dist: FactoredDistribution

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        use_sde: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **kwargs: Any,
    ) -> None:
        distribution = FactoredDistribution(action_space)
        if use_sde:
            raise ValueError(f"use_sde: state-dependent exploration is for continuous actions, not for {action_space}")
        check_observation_space(observation_space)
        check_mask_space(observation_space, distribution.factors)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=features_extractor_class or default_extractor(without_mask(observation_space)),
            **kwargs,
        )
        # Only now: Stable-Baselines3 makes layers for its own distributions alone. They fit this one too.
        self.action_dist = distribution

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # Stable-Baselines3 forgets this one, and its policies with two extractors cannot be loaded.
        return {**super()._get_constructor_parameters(), "share_features_extractor": self.share_features_extractor}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions `[B, *action shape]`, values `[B, 1]` and log-probabilities `[B]` at observations `[B, ...]`."""
        distribution, values = self._evaluate(obs)
        actions = distribution.get_actions(deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values `[B, 1]`, log-probabilities `[B]` of actions `[B, *action shape]`, and entropies `[B]` in nats.

        Raises:
            ValueError: An action is not one of the space, or a mask forbids every choice of a factor.
        """
        distribution, values = self._evaluate(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> FactoredDistribution:
        """The distribution over actions at observations `[B, ...]`: its `.distribution` is a `FactoredCategorical`.

        Raises:
            ValueError: A mask forbids every choice of a factor.
        """
        features = ObservationFeatures.extract_features(self, obs, self.pi_features_extractor)
        return self._distribution(self.mlp_extractor.forward_actor(features), obs)

    def _evaluate(self, obs: PyTorchObs) -> tuple[FactoredDistribution, Tensor]:
        """The distribution and the values `[B, 1]`; a shared extractor runs once."""
        features = self.extract_features(obs)
        if self.share_features_extractor:
            latent_pi, latent_vf = self.mlp_extractor(features)
        else:
            latent_pi = self.mlp_extractor.forward_actor(features[0])
            latent_vf = self.mlp_extractor.forward_critic(features[1])
        return self._distribution(latent_pi, obs), self.value_net(latent_vf)

    def _distribution(self, latent_pi: Tensor, obs: PyTorchObs) -> FactoredDistribution:
        # A new object each time, which no later call changes under the hands of who holds it.
        return copy(self.action_dist).proba_distribution(self.action_net(latent_pi), mask_in(obs))
