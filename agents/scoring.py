"""Episodes played to measure a policy."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
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
    returns, lengths = evaluate_policy(
        player(model, env), env, episodes, deterministic=deterministic, return_episode_rewards=True
    )
    return Score(np.asarray(returns, dtype=np.float64), np.asarray(lengths, dtype=np.int64))


def player(model: BaseAlgorithm, env: VecEnv) -> PolicyPredictor:
    """What acts for a model in some environments: the model, with their action masks if it wants to be given them."""
    wanted = "action_masks" in inspect.signature(model.predict).parameters
    return MaskedPlayer(model, env) if wanted else model


class MaskedPlayer:
    """Acts for a model of sb3-contrib that is given action masks beside the observations.

    Args:
        model: Plays.
        env: Where; their masks are those of the moment.
    """

    def __init__(self, model: Any, env: VecEnv) -> None:
        self.model = model
        self.env = env

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for all environments."""
        from sb3_contrib.common.maskable.utils import get_action_masks

        masks = get_action_masks(self.env)
        actions, state = self.model.predict(observation, state, episode_start, deterministic, action_masks=masks)
        return actions, state


def seed_everything(model: BaseAlgorithm, seed: int) -> None:
    """Seed all from which a policy draws its actions."""
    set_random_seed(seed)
    model.action_space.seed(seed)
