"""Algorithms in Stable-Baselines3's frame: `learn`, `predict`, `save`, `load`, callbacks, logger, environments."""

from gumbel_rl.algorithms.gumbel_ac import GumbelActorCritic
from gumbel_rl.algorithms.gumbel_sac import GumbelSAC
from gumbel_rl.algorithms.off_policy_policies import OffPolicyActorCriticPolicy
from gumbel_rl.algorithms.policies import ActorCriticPolicy, CnnPolicy, MultiInputPolicy
from gumbel_rl.algorithms.reinforce import Reinforce

__all__ = [
    "ActorCriticPolicy",
    "CnnPolicy",
    "GumbelActorCritic",
    "GumbelSAC",
    "MultiInputPolicy",
    "OffPolicyActorCriticPolicy",
    "Reinforce",
]
