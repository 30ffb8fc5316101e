"""Environments by id: registers our own, finds anybody's.

Imports Gymnasium only, so that a mistyped id is found out at once.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

gym.register(
    "gumbel_rl/FactoredBandit-v0",
    entry_point="envs.bandit:FactoredBanditEnv",
    vector_entry_point="envs.bandit:FactoredBanditVectorEnv",
)
gym.register(
    "gumbel_rl/TabularMDP-v0",
    entry_point="envs.tabular:TabularMDPEnv",
    vector_entry_point="envs.tabular:TabularMDPVectorEnv",
)
gym.register(
    "gumbel_rl/Coordination-v0",
    entry_point="envs.coordination:CoordinationEnv",
    vector_entry_point="envs.coordination:CoordinationVectorEnv",
)
# Three of it, by which agents are compared; solved is within 2 % of the optimum, which is 1 a step.
for name, options in {
    "BinaryCoordination": {"factors": 16, "choices": 2},
    "MaskedCoordination": {"factors": 8, "choices": 5, "masked": True},
    "LargeCoordination": {"factors": 32, "choices": 10},
}.items():
    gym.register(
        f"gumbel_rl/{name}-v0",
        entry_point="envs.coordination:CoordinationEnv",
        vector_entry_point="envs.coordination:CoordinationVectorEnv",
        reward_threshold=9.8,
        kwargs=options,
    )


def find_spec(env_id: str) -> EnvSpec:
    """The specification of a registered environment.

    Args:
        env_id: An id with its version, as `CartPole-v1`; `module:Id-v0` imports the module, which registers it, first.

    Raises:
        ValueError: The module cannot be imported, or there is no such id (the message names the nearest).
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError, ValueError) as error:  # the latter two for what cannot be a module's name
            raise ValueError(f"cannot import {module!r}, which is to register environment {name!r}: {error}") from error
    if name in gym.registry:
        return gym.registry[name]
    # Newest versions first, so that they win where several are equally near; capitals are easily mistaken.
    known = {known_id.lower(): known_id for known_id in sorted(gym.registry, reverse=True)}
    nearest = known[difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]]
    raise ValueError(
        f"unknown environment {name!r} (did you mean {nearest!r}?); one that a module of your own registers is written "
        "module:Id-v0"
    )


def make_env(
    env_id: str, *, wrapper: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None, **env_kwargs: Any
) -> gym.Env[Any, Any]:
    """A single environment, for evaluating or rendering.

    Args:
        env_id: As in `find_spec`.
        wrapper: Put around the environment.
        **env_kwargs: Arguments of the environment, `render_mode` and `max_episode_steps` among them.

    Raises:
        ValueError: As in `find_spec`.
    """
    env: gym.Env[Any, Any] = gym.make(find_spec(env_id).id, **env_kwargs)
    return env if wrapper is None else wrapper(env)
