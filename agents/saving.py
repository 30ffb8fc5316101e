"""A model on disk: the algorithm, its environments' normalisation statistics and its replay buffer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.config import RunConfig
from agents.device import prepare_torch
from agents.environments import make_evaluation_env
from agents.errors import UserError
from agents.run_directory import RunDirectory

MODEL, STATISTICS, REPLAY_BUFFER = "model.zip", "vecnormalize.pkl", "replay_buffer.pkl"

# Of what a library says is wrong with a file, which can fill a screen.
REASON_LENGTH = 150


def save(model: BaseAlgorithm, directory: Path, *, prefix: str = "", replay_buffer: bool = False) -> None:
    """Write `model.zip`, and `vecnormalize.pkl` and `replay_buffer.pkl` where there are such things."""
    model.save(directory / f"{prefix}{MODEL}")
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        statistics.save(str(directory / f"{prefix}{STATISTICS}"))
    if replay_buffer and isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(directory / REPLAY_BUFFER)


def statistics_in(directory: Path, config: RunConfig, prefix: str = "") -> Path | None:
    """Where the normalisation statistics are, if the run has any."""
    return directory / f"{prefix}{STATISTICS}" if config.normalize or config.normalize_reward else None


def load(config: RunConfig, directory: Path, env: VecEnv, device: str, *, prefix: str = "") -> BaseAlgorithm:
    """Read a model of the run's agent.

    Raises:
        UserError: It is missing, damaged, another agent's or another environment's.
    """
    path = directory / f"{prefix}{MODEL}"
    algorithm = type(config.hyperparameters).algorithm()
    if not path.is_file():
        raise UserError(f"there is no model {path}")
    try:
        model = algorithm.load(path, env=env, device=device)
        if vars(model).get("agent") != config.agent:
            raise ValueError(f"it is of {vars(model).get('agent', 'an unknown agent')}")
        if (directory / REPLAY_BUFFER).exists() and isinstance(model, OffPolicyAlgorithm):
            model.load_replay_buffer(directory / REPLAY_BUFFER)
    except Exception as error:  # unpickling what is damaged or foreign can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:REASON_LENGTH]
        raise UserError(
            f"cannot read {path} as a model of {config.agent} on {config.env}: it is damaged, or another agent's or "
            f"environment's ({reason})"
        ) from error
    return model


def open_run(
    run: RunDirectory, config: RunConfig, n_envs: int, *, which: str, device: str, seed: int, **env_kwargs: Any
) -> tuple[BaseAlgorithm, VecEnv]:
    """A run's model, and environments to play it in.

    Args:
        run: The run.
        config: Its configuration.
        n_envs: How many environments.
        which: The `final` model, the `best` in periodic evaluations, or that of the last `checkpoint`.
        device: Torch device.
        seed: Of the first environment.
        **env_kwargs: Further arguments of the environment.

    Raises:
        UserError: Something cannot be read or made.
    """
    directory = run.last_checkpoint() if which == "checkpoint" else run.path
    prefix = "best_" if which == "best" else ""
    if not (directory / f"{prefix}{MODEL}").is_file():
        others = "give --model best or --model checkpoint, or" if which == "final" else "it may have none yet:"
        raise UserError(f"{run.path} has no {prefix}{MODEL}; {others} go on with train_agent.py --resume {run.path}")
    env = make_evaluation_env(
        config, n_envs, seed=seed, statistics=statistics_in(directory, config, prefix), **env_kwargs
    )
    config = prepare_torch(replace(config, device=device), env)
    return load(config, directory, env, config.device, prefix=prefix), env
