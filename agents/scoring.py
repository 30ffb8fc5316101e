"""Episodes played to measure a policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from agents.config import RunConfig

# More environments at once cost memory and gain little.
MOST_ENVIRONMENTS = 100


@dataclass(frozen=True)
class Score:
    """Returns and lengths `[episodes]` of the episodes played."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the return over episodes."""
        return float(self.returns.std())


def environments_for(episodes: int, config: RunConfig) -> int:
    """How many environments to play so many episodes in."""
    return min(episodes, config.n_envs if config.engine == "subproc" else MOST_ENVIRONMENTS)


def play(model: BaseAlgorithm, env: VecEnv, episodes: int, *, deterministic: bool, seed: int) -> Score:
    """Play episodes, the same number in each environment (or one more), so that short ones are not favoured.

    Args:
        model: Plays.
        env: Evaluation environments.
        episodes: In all.
        deterministic: Take the likeliest action instead of a random one.
        seed: Of the first environment and, unless `deterministic`, of everything random in this process.
    """
    env.seed(seed)
    if not deterministic:
        seed_everything(model, seed)
    returns, lengths = evaluate_policy(model, env, episodes, deterministic=deterministic, return_episode_rewards=True)
    return Score(np.asarray(returns, dtype=np.float64), np.asarray(lengths, dtype=np.int64))


def seed_everything(model: BaseAlgorithm, seed: int) -> None:
    """Seed all from which a policy draws its actions."""
    set_random_seed(seed)
    model.action_space.seed(seed)
