"""How much of the optimum independent factors can be expected to find on a coordination task.

    python benchmarks/independent_factors.py    # a minute on one core; the optimum is 10

A policy whose factors are drawn independently follows the gradient of the expected value, which has many local optima
where factors interact. Here the value is known exactly, so that nothing is lost to learning: from the last step
backwards the factors' logits are relaxed towards `Q / T`, the fixed points of the entropy-regularised problem, while
the temperature `T` falls (mean-field annealing), and each then takes its likeliest choice. Beside it, what is left when
single factors are changed for the better, from a random action on until no such change is an improvement.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from envs import Coordination, make_env

TASKS = ("gumbel_rl/MaskedCoordination-v0", "gumbel_rl/BinaryCoordination-v0", "gumbel_rl/LargeCoordination-v0")
FIRST_TEMPERATURE, LAST_TEMPERATURE = 2.0, 0.02
"""In units of a factor's share of the best reward."""

SWEEPS = 1000


def slopes(pairs: NDArray[np.float64], probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivative of the expected action value by each probability, `[C, D, K]`.

    Args:
        pairs: What two neighbours are worth together, `[C, D-1, K, K]`; their sum is the action value.
        probs: Probabilities, `[C, D, K]`.
    """
    result = np.zeros(probs.shape)
    result[:, 1:] += (probs[:, :-1, None] @ pairs)[..., 0, :]
    result[:, :-1] += (pairs @ probs[:, 1:, :, None])[..., 0]
    return result


def anneal(task: Coordination, pairs: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.int64]:
    """Actions `[C, D]` by mean-field annealing, from logits `[C, D, K]`."""
    allowed = task.allowed
    unit = task.optimal_return / task.steps / task.factors
    logits = start
    for temperature in np.geomspace(FIRST_TEMPERATURE, LAST_TEMPERATURE, SWEEPS):
        weights = np.where(allowed, np.exp(logits - logits.max(-1, where=allowed, initial=-np.inf, keepdims=True)), 0)
        probs = weights / weights.sum(-1, keepdims=True)
        logits = logits + 0.2 * (slopes(pairs, probs) / (temperature * unit) - logits)
    chosen: NDArray[np.int64] = np.where(allowed, logits, -np.inf).argmax(-1)
    return chosen


def improve(task: Coordination, pairs: NDArray[np.float64], actions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Actions `[C, D]` that no change of a single factor improves."""
    actions = actions.copy()
    choices = np.arange(task.choices)
    while True:
        before = actions.copy()
        for factor in range(task.factors):
            probs = (actions[..., None] == choices).astype(float)
            slope = np.where(task.allowed, slopes(pairs, probs), -np.inf)[:, factor]
            best = slope.argmax(-1)
            rows = np.arange(task.contexts)
            better = slope[rows, best] > slope[rows, actions[:, factor]] + 1e-9
            actions[:, factor] = np.where(better, best, actions[:, factor])
        if (actions == before).all():
            return actions


def expected_return(task: Coordination, annealed: bool, generator: np.random.Generator) -> float:
    """Of the policy found by annealing, or by improvements from a random action, from the last step backwards."""
    value = np.zeros(task.contexts)
    for _ in range(task.steps):
        first = task.chain.first[:, :, None] + task.chain.pairs[:, 0] + task.ahead_of_head(value)
        pairs = np.concatenate([first[:, None], task.chain.pairs[:, 1:]], 1)
        noise = np.where(task.allowed, generator.gumbel(size=task.allowed.shape), -np.inf)
        if annealed:
            actions = anneal(task, pairs, 0.1 * np.where(task.allowed, noise, 0))
        else:
            actions = improve(task, pairs, noise.argmax(-1))
        value = task.evaluate_step(actions, value)
    return float(value.mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="starting points (default: %(default)s)")
    arguments = parser.parse_args()
    table = Table(
        "task", "annealing", "single changes", title=f"Return: mean, smallest and largest of {arguments.seeds}"
    )
    for env_id in TASKS:
        task = make_env(env_id).unwrapped
        assert isinstance(task, Coordination)
        cells = []
        for annealed in (True, False):
            seeds = track(range(arguments.seeds), env_id, transient=True)
            found = [expected_return(task, annealed, np.random.default_rng(seed)) for seed in seeds]
            cells.append(f"{np.mean(found):.2f} [{min(found):.2f}, {max(found):.2f}]")
        table.add_row(env_id, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
