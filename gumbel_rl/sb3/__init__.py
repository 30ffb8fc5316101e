"""Plug-ins for stock Stable-Baselines3."""

from __future__ import annotations

from gumbel_rl.sb3.actor_critic import GumbelActorCriticPolicy
from gumbel_rl.sb3.callbacks import GradientDiagnosticsCallback, TargetEntropyCallback, TemperatureCallback
from gumbel_rl.sb3.partial_reset import register_partial_reset
from gumbel_rl.sb3.replay import DiscreteReplayBuffer
from gumbel_rl.sb3.sac import GumbelSACPolicy, sac_defaults
from gumbel_rl.sb3.td3 import GumbelTD3Policy
from gumbel_rl.sb3.vec_env import VectorEnvAdapter
from gumbel_rl.wrappers import ActionMaskObservation, OneHotActions

__all__ = [
    "ActionMaskObservation",
    "DiscreteReplayBuffer",
    "GradientDiagnosticsCallback",
    "GumbelActorCriticPolicy",
    "GumbelSACPolicy",
    "GumbelTD3Policy",
    "OneHotActions",
    "TargetEntropyCallback",
    "TemperatureCallback",
    "VectorEnvAdapter",
    "register_partial_reset",
    "sac_defaults",
]
