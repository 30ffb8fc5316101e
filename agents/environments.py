"""The environments of a run, for training, evaluating and recording, and what fits their observations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage, unwrap_vec_normalize

import envs
from agents.config import RunConfig
from agents.errors import UserError
from agents.signals import ignored_by_children
from gumbel_rl.wrappers import MASK_KEY, ActionMaskObservation

Wrapper = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]

# The smallest image that SB3's convolutions (Mnih et al. 2015) can take; smaller ones are flattened.
SMALLEST_IMAGE = 36

# An evaluation ends an episode after so many steps where nothing else does: a policy can go round in circles.
EVALUATION_LIMIT = 10_000


def find_spec(env_id: str) -> EnvSpec:
    """The environment's specification.

    Raises:
        UserError: There is no such environment.
    """
    try:
        return envs.find_spec(env_id)
    except ValueError as error:
        raise UserError(str(error)) from error


def make_training_env(config: RunConfig, seed: int, statistics: Path | None = None) -> VecEnv:
    """The environments that training steps.

    Args:
        config: The run.
        seed: Of the first environment.
        statistics: Saved normalisation statistics to go on with.

    Raises:
        UserError: They cannot be made as configured.
    """
    env = _make(config, config.n_envs, seed, {})
    if config.normalize or config.normalize_reward:
        if statistics is not None:
            env = load_statistics(statistics, env)
        else:
            env = VecNormalize(
                env,
                norm_obs=config.normalize,
                norm_reward=config.normalize_reward,
                gamma=getattr(config.hyperparameters, "gamma", 0.99),
                norm_obs_keys=_normalizable(env.observation_space) if config.normalize else None,
            )
    return _transposed(env)


def make_evaluation_env(
    config: RunConfig, n_envs: int, *, seed: int, statistics: Path | None = None, **env_kwargs: Any
) -> VecEnv:
    """Environments like those of training that leave rewards and normalisation statistics alone.

    Args:
        config: The run.
        n_envs: How many.
        seed: Of the first environment.
        statistics: Saved normalisation statistics; needed to play, unless they are shared with training later.
        **env_kwargs: Further arguments of the environment.
    """
    spec = find_spec(config.env)
    endless = spec.max_episode_steps is None and spec.vector_entry_point is None
    limit = {"max_episode_steps": EVALUATION_LIMIT} if endless else {}
    env = _make(config, n_envs, seed, {**limit, **config.env_kwargs, **env_kwargs})
    if config.normalize:
        if statistics is not None:
            env = load_statistics(statistics, env)
        else:
            env = VecNormalize(env, norm_obs_keys=_normalizable(env.observation_space))
        env.training = False
        env.norm_reward = False
    return _transposed(env)


def render_modes(config: RunConfig) -> list[str]:
    """What the environment says it can render.

    Raises:
        UserError: It cannot be made.
    """
    try:
        env = envs.make_env(config.env, **config.env_kwargs)
    except (TypeError, ValueError, gym.error.Error, ImportError) as error:
        raise UserError(f"--env {config.env}: {error}") from error
    env.close()
    return list(env.metadata.get("render_modes", []))


def share_statistics(training: VecEnv, evaluation: VecEnv) -> None:
    """Let evaluation environments normalise observations as training does at any time."""
    source, target = unwrap_vec_normalize(training), unwrap_vec_normalize(evaluation)
    if source is not None and target is not None:
        target.obs_rms = source.obs_rms


def load_statistics(path: Path, env: VecEnv) -> VecNormalize:
    """Environments that normalise with saved statistics.

    Raises:
        UserError: They cannot be read.
    """
    try:
        return VecNormalize.load(str(path), env)
    except Exception as error:  # unpickling what is damaged or foreign can raise anything
        raise UserError(f"cannot read the normalisation statistics {path}: {error}") from error


def _make(config: RunConfig, n_envs: int, seed: int, env_kwargs: dict[str, Any]) -> VecEnv:
    kwargs = {**config.env_kwargs, **env_kwargs}
    make = partial(
        envs.make_vec_env, config.env, n_envs, seed=seed, engine=config.engine, bins=config.bins, env_kwargs=kwargs
    )
    try:
        with ignored_by_children() if config.engine == "subproc" else nullcontext():
            env = make()
            wrappers = _wrappers(config, env, kwargs)
            if wrappers:
                env.close()
                env = make(wrapper=partial(_wrapped, wrappers=wrappers))
    except (AssertionError, TypeError, ValueError, gym.error.Error, ImportError) as error:
        binned = "" if config.bins is None else f" with bins {config.bins}"
        raise UserError(f"--env {config.env}{binned}: {error}") from error
    return env


def _wrappers(config: RunConfig, env: VecEnv, env_kwargs: dict[str, Any]) -> list[Wrapper]:
    """What has to be put around each environment, the innermost first."""
    wrappers: list[Wrapper] = []
    observation = env.observation_space
    if isinstance(observation, spaces.Tuple):
        # SB3 knows no Tuple observations.
        wrappers.append(FlattenObservation)
    agent = config.hyperparameters
    observed = isinstance(observation, spaces.Dict) and MASK_KEY in observation.spaces
    if agent.masks and agent.supports(env.action_space) and not observed and _has_masks(config.env, env_kwargs):
        wrappers.append(ActionMaskObservation)
    return wrappers


def _wrapped(env: gym.Env[Any, Any], wrappers: list[Wrapper]) -> gym.Env[Any, Any]:
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def _has_masks(env_id: str, env_kwargs: dict[str, Any]) -> bool:
    """Whether the environment tells which actions are allowed: by `action_masks()`, or else in its infos."""
    env = envs.make_env(env_id, **env_kwargs)
    try:
        if env.has_wrapper_attr("action_masks"):
            # One that has the method even where it forbids nothing can say so, as ours do.
            return not env.has_wrapper_attr("masked") or env.get_wrapper_attr("masked") is not False
        _, info = env.reset()
        return MASK_KEY in info
    finally:
        env.close()


def _transposed(env: VecEnv) -> VecEnv:
    """Images with their channels first, as torch wants them."""
    images = _images(env.observation_space)
    return env if all(map(is_image_space_channels_first, images)) else VecTransposeImage(env)


def _images(space: spaces.Space[Any]) -> list[spaces.Box]:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return [part for part in parts if isinstance(part, spaces.Box) and is_image_space(part)]


def _normalizable(space: spaces.Space[Any]) -> list[str] | None:
    """Keys of a Dict's vectors, or None if the observation is one vector.

    Raises:
        UserError: There is nothing to normalise.
    """
    if isinstance(space, spaces.Dict):
        keys = [key for key, part in space.spaces.items() if isinstance(part, spaces.Box) and not is_image_space(part)]
        if keys:
            return keys
    elif isinstance(space, spaces.Box) and not is_image_space(space):
        return None
    raise UserError(f"normalize needs Box observations that are no images; this environment's are {space}")


def policy_for(space: spaces.Space[Any]) -> str:
    """Name of the policy for an observation space, its images having their channels first.

    Raises:
        UserError: It has images too small for any.
    """
    small = any(min(image.shape[1:]) < SMALLEST_IMAGE for image in _images(space))
    if isinstance(space, spaces.Dict):
        if small:
            raise UserError(
                f"images in Dict observations must be {SMALLEST_IMAGE} pixels or more each way, got {space}"
            )
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) and not small else "MlpPolicy"


def has_images(space: spaces.Space[Any]) -> bool:
    """Whether there are images among these observations."""
    return bool(_images(space))
