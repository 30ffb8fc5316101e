"""The critic of a trained agent as a problem: the states its policy visits, its own probabilities there, its critic.

A run directory of train_agent.py holds `config.yaml`, with the environment, and the model. Both are read here with the
library alone. Needs PyYAML.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from gumbel_rl.algorithms import GumbelActorCritic, GumbelSAC
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Objective
from gumbel_rl.lab.problems import Problem, describe, from_objective
from gumbel_rl.sb3.observations import has_mask
from gumbel_rl.wrappers import ActionMaskObservation, DiscretizeActions

ALGORITHMS: dict[str, type[GumbelSAC | GumbelActorCritic]] = {"gumbel-sac": GumbelSAC, "gumbel-ac": GumbelActorCritic}
MODELS = {"final": "", "best": "best_"}

# The policy plays so many steps in so many environments; the states are drawn from all of them.
STEPS, ENVIRONMENTS = 500, 8


def critic_of_run(
    directory: Path, *, model: str = "final", states: int = 64, reference_samples: int = 0, seed: int = 0
) -> Problem:
    """The critic of a run directory, at states that its policy visits.

    The policy samples its actions, as in training. Of `gumbel-sac` it is the first of the critics (with
    `twins="action-min"` the smallest value of each action), of `gumbel-ac` the advantage heads, centred under the
    policy.

    Args:
        directory: A run of `gumbel-sac` or `gumbel-ac`.
        model: The `final` model, or the `best` of the periodic evaluations.
        states: How many states.
        reference_samples: As in `from_objective`.
        seed: Of the environments, the actions and the choice of states.

    Raises:
        ValueError: The directory is no run, its agent has no such critic, something in it cannot be read, its
            environment cannot be made, or there is no exact gradient.
    """
    if model not in MODELS:
        raise ValueError(f"--model must be {' or '.join(MODELS)}, got {model!r}")
    if not 1 <= states <= STEPS * ENVIRONMENTS:
        raise ValueError(f"--states must be between 1 and {STEPS * ENVIRONMENTS}, got {states}")
    config = _read_config(directory)
    agent = config.get("agent")
    if agent not in ALGORITHMS:
        raise ValueError(
            f"{directory} is a run of {agent}, which has no critic of actions; runs of {' and '.join(ALGORITHMS)} have"
        )
    path = directory / f"{MODELS[model]}model.zip"
    if not path.is_file():
        raise ValueError(f"there is no model {path}")
    env = _environment(config, directory, path, seed)
    try:
        algorithm = ALGORITHMS[agent].load(path, env=env, device="cpu")
    except Exception as error:  # unpickling what is damaged or foreign can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot read {path} as a model of {agent} on {config['env']}: {reason}") from error
    with torch.random.fork_rng(devices=[]):
        algorithm.set_random_seed(seed)
        observations = _visited(algorithm, states, seed)
        dist, f, multilinear, critic = _critic(algorithm, obs_as_tensor(observations, algorithm.device))
        env.close()
        name = f"{config['env']}, {agent} with critic {critic}, {describe(dist.factors.sizes)}"
        return from_objective(name, dist, f, multilinear=multilinear, reference_samples=reference_samples)


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ValueError('reading a run needs PyYAML: pip install "gumbel-rl[lab]"') from error
    path = directory / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{directory} is no run directory: it has no config.yaml")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or "env" not in config:
        raise ValueError(f"{path} is damaged: it names no environment")
    return config


def _environment(config: dict[str, Any], directory: Path, path: Path, seed: int) -> VecEnv:
    """The environments as the run had them: with its bins, its masks and its normalisation."""
    try:
        data, _, _ = load_from_zip_file(path, device="cpu")
        wanted = (data or {})["observation_space"]
    except Exception as error:
        raise ValueError(f"cannot read {path}: it is damaged or no model ({type(error).__name__})") from error

    def wrapped(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        if config.get("bins") is not None:
            env = DiscretizeActions(env, config["bins"])
        if isinstance(env.observation_space, spaces.Tuple):
            env = FlattenObservation(env)
        if has_mask(wanted) and not has_mask(env.observation_space):
            env = ActionMaskObservation(env)
        return env

    name = str(config["env"])
    try:
        env: VecEnv = make_vec_env(_maker(name, config.get("env_kwargs") or {}, wrapped), ENVIRONMENTS, seed=seed)
    except (AssertionError, TypeError, ValueError, gym.error.Error, ImportError) as error:
        raise ValueError(f"cannot make the run's environment {name}: {error}") from error
    if config.get("normalize"):
        statistics = path.with_name(path.name.replace("model.zip", "vecnormalize.pkl"))
        try:
            normalized = VecNormalize.load(str(statistics), env)
        except Exception as error:
            raise ValueError(f"cannot read the normalisation statistics {statistics}: {error}") from error
        normalized.training = normalized.norm_reward = False
        return normalized
    return env


def _maker(
    name: str, options: dict[str, Any], wrapped: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
) -> Callable[[], gym.Env[Any, Any]]:
    # The project's own environments are registered by the clone's package `envs`, which Gymnasium imports by name.
    own = name.startswith("gumbel_rl/") and name not in gym.registry
    return lambda: wrapped(gym.make(f"envs:{name}" if own else name, **options))


def _visited(algorithm: GumbelSAC | GumbelActorCritic, states: int, seed: int) -> Any:
    """Observations of so many different steps of the policy, drawn from all it makes."""
    env = algorithm.get_env()
    assert env is not None
    drawn = np.random.default_rng(seed).choice(STEPS * ENVIRONMENTS, states, replace=False)
    kept: list[Any] = []
    observation: Any = env.reset()
    for step in range(STEPS):
        for place in drawn[drawn // ENVIRONMENTS == step] % ENVIRONMENTS:
            kept.append(_row(observation, int(place)))
        action, _ = algorithm.predict(observation, deterministic=False)
        observation, _, _, _ = env.step(action)
    if isinstance(kept[0], dict):
        return {key: np.stack([row[key] for row in kept]) for key in kept[0]}
    return np.stack(kept)


def _row(observation: Any, place: int) -> Any:
    if isinstance(observation, dict):
        return {key: np.array(value[place]) for key, value in observation.items()}
    return np.array(observation[place])


@torch.no_grad()
def _critic(
    algorithm: GumbelSAC | GumbelActorCritic, observations: Any
) -> tuple[FactoredCategorical, Objective, bool, str]:
    """The policy, the objective, whether it is linear in each factor, and the critic's id; all in float64."""
    policy: Any = algorithm.policy
    policy.set_training_mode(False)
    if isinstance(algorithm, GumbelActorCritic):
        dist, features = policy.distribution_and_critic_features(observations)
        _, heads = policy.critic.heads(features, dist.probs)
        slope = heads.double()
        return _doubled(dist), lambda actions: (actions * slope).sum(-1), True, "additive"
    dist = policy.distribution(observations)
    features = policy.features(policy.critics, observations).double()
    critics = [copy.deepcopy(critic).double().requires_grad_(False) for critic in policy.critics]
    f = algorithm.joined([critic.at(features) for critic in critics])[0]
    return _doubled(dist), f, critics[0].multilinear and algorithm.twins != "action-min", policy.critic


def _doubled(dist: FactoredCategorical) -> FactoredCategorical:
    return FactoredCategorical(dist.logits.double(), dist.factors, dist.mask)
