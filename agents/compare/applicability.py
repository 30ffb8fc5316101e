"""What is found out before anything runs: which agents cannot act where, mistakes in settings, random returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from agents.compare.plan import Cell, Plan, check_comparable
from agents.config import TUNING_SEEDS, RunConfig
from agents.environments import find_spec, make_evaluation_env, make_training_env, policy_for
from agents.errors import UserError
from agents.scoring import environments_for
from agents.seeds import Purpose, episode_seed

RANDOM_EPISODES = 100
# No run's: it is the first of those for tuning.
RANDOM_SEED = TUNING_SEEDS


def sift(plan: Plan) -> Plan:
    """The plan without what is not applicable, which it lists with the reason, and with settled thresholds.

    Raises:
        UserError: An environment cannot be made, a setting is refused, rows cannot be compared, or nothing is left.
    """
    kept: list[Cell] = []
    refused: list[dict[str, str]] = []
    for cell in plan.cells:
        try:
            reason = _check(cell)
        except UserError:
            raise
        except Exception as error:  # whatever an environment's constructor or module raises
            told = f"{type(error).__name__}: {error}".rstrip(": ")
            raise UserError(f"{cell.label} on {cell.env} cannot be built: {told}") from error
        if reason is None:
            threshold = cell.config.threshold
            if threshold is None:
                threshold = find_spec(cell.env).reward_threshold
            kept.append(replace(cell, config=replace(cell.config, threshold=threshold)))
        else:
            refused.append({"env": cell.env, "agent": cell.label, "reason": reason})
    if not kept:
        raise UserError(f"nothing to compare: {'; '.join(entry['reason'] for entry in refused)}")
    check_comparable(kept)
    return replace(plan, cells=kept, not_applicable=refused)


def _check(cell: Cell) -> str | None:
    """Why an agent cannot act in an environment, or None; builds it once, so that no setting is refused later."""
    config = cell.config
    # What is learnt in processes is built without them.
    env = make_training_env(replace(config, engine="dummy" if config.engine == "subproc" else config.engine), seed=0)
    try:
        objection = config.hyperparameters.objection(env, config.env)
        if objection is not None:
            return objection
        policy = policy_for(env.observation_space)
        try:
            config.hyperparameters.build(policy, env, timesteps=config.timesteps, seed=0, device="cpu")
        except UserError as error:
            raise UserError(f"{cell.label} on {cell.env}: {error}") from error
    finally:
        env.close()
    return None


class RandomPolicy:
    """Takes actions at random, uniformly.

    Args:
        env: Where it acts.
        seed: Of the actions.
    """

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.space = env.action_space
        self.space.seed(seed)
        self.n_envs = env.num_envs

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """Actions for all environments."""
        return np.asarray([self.space.sample() for _ in range(self.n_envs)]), None


def random_return(config: RunConfig, episodes: int = RANDOM_EPISODES) -> float:
    """Mean return of random actions, the zero of normalised scores."""
    # The observations do not matter, and statistics to normalise them by are not to be had.
    seed = episode_seed(Purpose.FINAL, RANDOM_SEED)
    env = make_evaluation_env(replace(config, normalize=False), environments_for(episodes, config), seed=seed)
    try:
        returns, _ = evaluate_policy(
            RandomPolicy(env, RANDOM_SEED), env, episodes, deterministic=False, return_episode_rewards=True
        )
    finally:
        env.close()
    return float(np.mean(returns))


def missing_random_returns(plan: Plan) -> Sequence[RunConfig]:
    """A configuration for each environment whose random return is needed, for normalised scores, and not known."""
    first = {cell.env: cell.config for cell in reversed(plan.cells)}
    return [config for env, config in first.items() if config.threshold is not None and env not in plan.random_returns]
