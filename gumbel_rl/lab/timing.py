"""How long estimates take: processor time, which other work on the machine changes less than it does the clock's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gumbel_rl.diagnostics import logits_gradient
from gumbel_rl.estimators import Estimator
from gumbel_rl.lab.measurement import repeats_at_once
from gumbel_rl.lab.problems import Problem

# States that are estimated in one call, about: a usual minibatch. Most of a call for a few states is overhead.
BATCH = 256
ROUNDS = 7


@dataclass(frozen=True)
class Timing:
    """Processor time of an estimate for one state, in a batch of about `BATCH`: forward and backward, without learning.

    In seconds, all threads together.

    Attributes:
        seconds: The median.
        low: The lower quartile.
        high: The upper quartile.
        rounds: Each single time, in the order of the rounds, to be paired with those of another estimator.
    """

    seconds: float
    low: float
    high: float
    rounds: tuple[float, ...]


def time_all(
    estimators: Sequence[Estimator], problem: Problem, rounds: int = ROUNDS, told: Callable[[], object] = lambda: None
) -> list[Timing]:
    """Time estimators on a problem, taking turns, so that a change of the machine's load falls on all of them.

    Args:
        estimators: The estimators.
        problem: The problem; its rows are repeated until there are about `BATCH`.
        rounds: How often each is timed, right after a call that is not.
        told: Called after each round.
    """
    wanted = max(1, BATCH // problem.states)
    calls = []
    for estimator in estimators:
        repeats = min(wanted, repeats_at_once(estimator, problem.dist))
        call = partial(logits_gradient, estimator, problem.dist, problem.f, repeats)
        calls.append((call, repeats * problem.states))
    return time_calls(calls, rounds, told)


def time_calls(
    calls: Sequence[tuple[Callable[[], object], int]], rounds: int = ROUNDS, told: Callable[[], object] = lambda: None
) -> list[Timing]:
    """Time calls, taking turns.

    Args:
        calls: Each with the number of states it is for.
        rounds: How often each is timed, right after a call that is not.
        told: Called after each round.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for (call, states), own in zip(calls, times, strict=True):
            call()  # untimed: what the one before has left in caches and memory is not its cost
            start = time.process_time()
            call()
            own.append((time.process_time() - start) / states)
        told()
    quartiles = [statistics.quantiles(own, n=4, method="inclusive") for own in times]
    return [
        Timing(seconds=middle, low=low, high=high, rounds=tuple(own))
        for (low, middle, high), own in zip(quartiles, times, strict=True)
    ]
