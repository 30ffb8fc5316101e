"""Plug-ins for stock Stable-Baselines3."""

from __future__ import annotations

from gumbel_rl.sb3.partial_reset import register_partial_reset
from gumbel_rl.sb3.vec_env import VectorEnvAdapter

__all__ = ["VectorEnvAdapter", "register_partial_reset"]
