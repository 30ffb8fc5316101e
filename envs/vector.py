"""Vectorised environments from the fastest engine there is, as Stable-Baselines3 `VecEnv`s."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv
from stable_baselines3.common import env_util
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from envs.registry import find_spec, make_env
from gumbel_rl.sb3 import VectorEnvAdapter
from gumbel_rl.wrappers import Bins, DiscretizeActions, DiscretizeVectorActions

ENGINES = ("auto", "vector", "dummy", "subproc")
"""How sub-environments are run; see `make_vec_env`."""

# From how many sub-environments on a vector entry point pays. CartPole with episode statistics, microseconds a step,
# entry point / Python loop: 34 / 12 for 1, 34 / 30 for 4, 36 / 56 for 8, 40 / 106 for 16. Our own break even at 2.
VECTOR_FROM = 4


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    engine: str = "auto",
    *,
    bins: Bins | None = None,
    env_kwargs: dict[str, Any] | None = None,
    wrapper: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] | None = None,
    monitor_dir: str | os.PathLike[str] | None = None,
) -> VecEnv:
    """Sub-environments that are stepped together, with episode statistics in `infos[i]["episode"]`.

    The same arguments give the same trajectories (for the same actions, and if the environment itself is reproducible);
    engines draw their random numbers differently, and sub-environments each have their own.

    Args:
        env_id: As in `envs.find_spec`.
        n_envs: Number of sub-environments.
        seed: Seed of the first reset; fresh if omitted.
        engine: `vector`, the environment's own vectorised version (Gymnasium's vector entry point); `dummy`, one after
            the other in this process; `subproc`, a process each, which pays for slow environments only; `auto`, the
            faster of `vector` and `dummy`: `vector` if there is one, it works, there are enough sub-environments to
            profit, and neither a wrapper nor rendering is asked for.
        bins: Offers a Box action space as a MultiDiscrete one, as `gumbel_rl.wrappers.DiscretizeActions` does: how many
            values each dimension takes, or an entry for each dimension. Possible with every engine.
        env_kwargs: Arguments of the environment, `render_mode` and `max_episode_steps` among them.
        wrapper: Put around each sub-environment, outside of the episode statistics; not possible with `vector`.
        monitor_dir: Directory for SB3's `*.monitor.csv`, a row an episode; made if need be. No files if omitted.

    Raises:
        ValueError: An unknown id (the message names the nearest) or engine, `n_envs` below 1, `vector` where there is
            none or with a wrapper, or `bins` that do not fit the action space.
        TypeError: `vector` whose way to reset cannot be turned into SB3's, or `bins` for actions that are no Box.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known are {', '.join(ENGINES)}")
    if n_envs < 1:
        raise ValueError(f"there must be at least one sub-environment, got n_envs={n_envs}")
    spec = find_spec(env_id)
    env_kwargs = dict(env_kwargs or {})

    if engine == "vector":
        if spec.vector_entry_point is None:
            raise ValueError(f"{spec.id} has no vector entry point; use engine 'dummy', 'subproc' or 'auto'")
        if wrapper is not None:
            raise ValueError("a vector entry point takes no wrapper; use engine 'dummy', 'subproc' or 'auto'")
        return _vector(spec.id, n_envs, seed, bins, env_kwargs, monitor_dir)

    plain = wrapper is None and env_kwargs.get("render_mode") is None
    if engine == "auto" and n_envs >= VECTOR_FROM and spec.vector_entry_point is not None and plain:
        try:
            return _vector(spec.id, n_envs, seed, bins, env_kwargs, monitor_dir)
        except (ImportError, AttributeError, TypeError, gym.error.Error):
            # It needs a missing package, does not take the arguments, or cannot be adapted: there is the other way.
            pass

    # By `make_env`, which puts it around the environment itself: `wrapper_class` is the caller's.
    binning = {} if bins is None else {"wrapper": partial(DiscretizeActions, bins=bins)}
    return env_util.make_vec_env(
        # A function instead of the id: SB3 makes ids with render_mode="rgb_array", which costs some environments time.
        make_env,
        n_envs,
        seed=seed,
        monitor_dir=None if monitor_dir is None else os.fspath(monitor_dir),
        wrapper_class=wrapper,
        env_kwargs={"env_id": env_id, **binning, **env_kwargs},
        vec_env_cls=SubprocVecEnv if engine == "subproc" else DummyVecEnv,
    )


def _vector(
    env_id: str,
    n_envs: int,
    seed: int | None,
    bins: Bins | None,
    env_kwargs: dict[str, Any],
    monitor_dir: str | os.PathLike[str] | None,
) -> VecEnv:
    mode = gym.VectorizeMode.VECTOR_ENTRY_POINT
    engine: VectorEnv[Any, Any, Any] = gym.make_vec(env_id, n_envs, vectorization_mode=mode, **env_kwargs)
    adapter = VectorEnvAdapter(engine if bins is None else DiscretizeVectorActions(engine, bins))
    env = VecMonitor(adapter, None if monitor_dir is None else os.path.join(monitor_dir, "vector"))
    env.seed(seed)
    if seed is not None:
        env.action_space.seed(seed)
    return env
