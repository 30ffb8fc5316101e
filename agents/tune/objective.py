"""What a search maximises: the score of settings over a few seeds, the same for every agent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.config import TUNING_SEEDS, resolve
from agents.run import train

# Periodic evaluations of a run.
EVALUATIONS = 10

# The rest is for having learnt sooner, which tells settings apart that all end at the best return.
WEIGHT_OF_THE_END = 0.75

# A run ends with an update, at or beyond its last step. Evaluations further beyond do not count: large batches, or the
# long episodes of Monte-Carlo agents, would buy more steps than others get.
OVERSHOOT = 0.05

# The search and the confirmation of its best never share a seed.
MOST_SEEDS = TUNING_SEEDS


class NothingLearnt(Exception):
    """No update ended within the run's steps."""


def search_seeds(number: int) -> tuple[int, ...]:
    """Seeds of every trial's runs: common random numbers."""
    return tuple(TUNING_SEEDS + index for index in range(number))


def confirmation_seeds(number: int) -> tuple[int, ...]:
    """Seeds on which the best trials are run once more."""
    return tuple(2 * TUNING_SEEDS + index for index in range(number))


def run_score(returns: Sequence[float]) -> float:
    """Score of a run: `0.75 R_n + 0.25 mean(R_1 ... R_n)`, `R` being the mean returns of its periodic evaluations."""
    return WEIGHT_OF_THE_END * returns[-1] + (1 - WEIGHT_OF_THE_END) * float(np.mean(returns))


def score(
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    directory: Path,
    on_evaluation: Callable[[int, float], None],
) -> float:
    """Mean score of the runs with some settings, one run after another.

    Args:
        settings: Keys and values of the configuration; what they leave out is read from `configs/`.
        seeds: A run each.
        directory: Where the runs are written.
        on_evaluation: Called with how far the runs are, each counting `EVALUATIONS`, and the mean return over all their
            evaluations so far; an exception it raises ends the runs.

    Raises:
        UserError: The configuration cannot be run.
        FloatingPointError: A return is not finite.
        NothingLearnt: A run had no evaluation within its steps.
        Interrupted: A signal came.
    """
    scores: list[float] = []
    earlier: list[float] = []
    for index, seed in enumerate(seeds):
        own = {
            "seed": seed,
            "eval_every": math.ceil(settings["timesteps"] / EVALUATIONS),
            "checkpoint_every": 0,
            "eval_episodes": 1,  # of the final evaluation, which is not used
        }
        returns = _returns({**settings, **own}, directory / f"seed{seed}", index, earlier, on_evaluation)
        earlier += returns
        scores.append(run_score(returns))
    return float(np.mean(scores))


def _returns(
    keys: Mapping[str, Any],
    path: Path,
    index: int,
    earlier: Sequence[float],
    on_evaluation: Callable[[int, float], None],
) -> list[float]:
    """Mean returns of a run's periodic evaluations."""
    config = resolve(keys)
    returns: list[float] = []

    def tell(step: int, mean: float) -> None:
        if not math.isfinite(mean):
            raise FloatingPointError(f"the mean return after {step:,} steps is {mean}")
        if step > (1 + OVERSHOOT) * config.timesteps:
            return
        returns.append(mean)
        share = min(1.0, step / config.timesteps)
        on_evaluation(index * EVALUATIONS + math.floor(share * EVALUATIONS), float(np.mean([*earlier, *returns])))

    with warnings.catch_warnings():
        # Of odd combinations, which a search is made of.
        warnings.simplefilter("ignore", UserWarning)
        train(config, path, on_evaluation=tell)
    if not returns:
        raise NothingLearnt
    return returns
