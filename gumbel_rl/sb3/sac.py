"""GumbelSACPolicy: discrete actions for stock Stable-Baselines3 SAC."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from gumbel_rl.sb3.construction import warn
from gumbel_rl.sb3.networks import GumbelActor, GumbelCritics
from gumbel_rl.sb3.off_policy import GumbelOffPolicyMixin
from gumbel_rl.sb3.policy_output import PolicyOutput
from gumbel_rl.wrappers import OneHotBox

TARGET_ENTROPY_RATIO = 0.15
"""Default target entropy as a share of the maximum, that of the uniform policy."""


class GumbelSACActor(GumbelActor):
    """The actor as SAC calls it.

    Attributes:
        target_entropy_ratio: The algorithm's target entropy as a share of the maximum.
    """

    target_entropy_ratio: float = 0.0

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """An action tensor `[B, N]`, and in place of a log-probability its expectation, minus the entropy: `[B]`.

        A sampled log-probability would give the actor no expected gradient of the entropy.
        """
        dist = self.distribution(obs)
        negative_entropy = -dist.entropy()
        if dist.mask is not None and torch.is_grad_enabled():
            # SAC compares the entropy with one target for all states, a share of the maximum over all choices. Masks
            # leave a smaller maximum: the difference, which does not depend on the actor, goes to this side. (The
            # entropy in the critic's target, asked for without gradients, is left as it is.)
            missing = self.factors.max_entropy - dist.max_entropy
            negative_entropy = negative_entropy - self.target_entropy_ratio * missing
        return PolicyOutput.draw(dist, self.estimator).tensor(), negative_entropy


class GumbelSACPolicy(GumbelOffPolicyMixin, SACPolicy):
    """Policy for stock `stable_baselines3.SAC` on Discrete, MultiDiscrete and MultiBinary actions.

    The entropy is the closed form, actions in the replay buffer are one-hots, and the actor follows the chosen gradient
    estimator through a critic whose slope at an action means something. Wrap the environment in `OneHotActions`, and
    take SAC's own settings from `sac_defaults`:

        env = OneHotActions(gym.make("CartPole-v1"))
        model = SAC(GumbelSACPolicy, env, **sac_defaults(env)).learn(20_000)

    SAC's target entropy "auto" is minus the number of choices, which lies below every entropy of discrete actions: the
    entropy coefficient would only fall. It is replaced by a share of the maximum entropy, with a warning.

    Args:
        *args: As in `GumbelOffPolicyMixin`.
        **kwargs: As in `GumbelOffPolicyMixin`.
    """

    algorithm_class = SAC
    actor: GumbelSACActor  # type: ignore[assignment]
    critic: GumbelCritics  # type: ignore[assignment]
    critic_target: GumbelCritics  # type: ignore[assignment]

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A new actor, as Stable-Baselines3 asks for it."""
        return GumbelSACActor(**self._actor_arguments(features_extractor)).to(self.device)

    def _check_algorithm(self, algorithm: BaseAlgorithm | None) -> None:
        super()._check_algorithm(algorithm)
        if not isinstance(algorithm, SAC):
            return
        largest = self.factors.max_entropy
        if algorithm.target_entropy == "auto":
            algorithm.target_entropy = TARGET_ENTROPY_RATIO * largest
            if isinstance(algorithm.ent_coef, str):
                warn(
                    f"target_entropy='auto' is {-self.factors.width} here, below every entropy of discrete actions, "
                    "and the entropy coefficient would only fall; "
                    f"{algorithm.target_entropy:.3g} is used instead, {TARGET_ENTROPY_RATIO:g} of the maximum. "
                    "sac_defaults(env) sets it"
                )
        target = float(algorithm.target_entropy)
        if isinstance(algorithm.ent_coef, str) and not 0 <= target <= largest:
            raise ValueError(
                f"target_entropy={target:g} is out of reach: the entropy of actions with the choices "
                f"{self.factors.sizes} lies between 0 and {largest:.4g} nats; take a share of the maximum, as "
                "sac_defaults(env, target_entropy_ratio=0.1) does"
            )
        self.actor.target_entropy_ratio = target / largest if largest else 0.0


def sac_defaults(
    env: gym.Env[Any, Any] | VecEnv, target_entropy_ratio: float = TARGET_ENTROPY_RATIO, **overrides: Any
) -> dict[str, Any]:
    """Settings of stock SAC for discrete actions, to be passed on: `SAC(GumbelSACPolicy, env, **sac_defaults(env))`.

    Args:
        env: The environment, wrapped in `OneHotActions`, or a `VecEnv` of such.
        target_entropy_ratio: Target entropy as a share of the maximum, that of the uniform policy.
        **overrides: Arguments of SAC that replace or complete these; those of the policy (`policy_kwargs`) one by one.

    Raises:
        TypeError: The action space is not that of `OneHotActions`.
        ValueError: The ratio is not between 0 and 1.
    """
    space = env.action_space
    if not isinstance(space, OneHotBox):
        raise TypeError(
            f"sac_defaults needs an environment of one-hot actions, got the action space {space}; wrap it, last of "
            "all: OneHotActions(env), whose action space must be Discrete, MultiDiscrete or MultiBinary"
        )
    if not 0 <= target_entropy_ratio <= 1:
        raise ValueError(f"target_entropy_ratio is a share of the maximum, between 0 and 1, got {target_entropy_ratio}")
    # One-step returns: on CartPole, over several steps, those that the replay buffer holds of earlier policies made the
    # critic's differences between actions ten times too large, and the policy settled early on the wrong ones.
    defaults = {
        "learning_rate": 2e-3,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "batch_size": 128,
        "tau": 0.02,
        "train_freq": 4,
        "gradient_steps": -1,  # as many as environment steps
        "ent_coef": "auto_0.1",
        "target_entropy": target_entropy_ratio * space.factors.max_entropy,
    }
    policy_kwargs = {"net_arch": [128, 128]} | overrides.pop("policy_kwargs", {})
    return defaults | overrides | {"policy_kwargs": policy_kwargs}
