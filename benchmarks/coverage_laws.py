"""The laws from which `coverage.py` draws the returns of runs: symmetric, skewed, with ties at the maximum, bimodal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Law = Callable[[Generator, int], NDArray[np.float64]]


def normal(mean: float, deviation: float = 1.0) -> Law:
    return lambda rng, size: rng.normal(mean, deviation, size)


def capped(strength: float, scale: float) -> Law:
    """Returns up to 500, which many reach exactly, as in CartPole."""
    return lambda rng, size: np.minimum(500, 500 * scale * rng.beta(strength, 1, size))


def bimodal(failing: float) -> Law:
    """Runs that have learnt, about 480, and runs that are stuck, about 100."""
    return lambda rng, size: np.where(rng.random(size) < failing, rng.normal(100, 20, size), rng.normal(480, 15, size))


def solved(rate: float) -> Law:
    """Exactly 500 in a share of runs, anything below in the others."""
    return lambda rng, size: np.where(rng.random(size) < rate, 500.0, rng.uniform(100, 500, size))


LAWS: dict[str, Law] = {
    "normal": normal(0),
    "gamma(2)": lambda rng, size: rng.gamma(2, size=size),
    "lognormal": lambda rng, size: rng.lognormal(size=size),
    "36 % at the maximum": capped(4, 1.12),
    "70 % at the maximum": solved(0.7),
    "bimodal": bimodal(0.35),
}
# Normalised scores of four tasks, whose spreads differ.
TASKS: tuple[Law, ...] = (
    lambda rng, size: rng.normal(0.8, 0.1, size),
    lambda rng, size: rng.gamma(2, 0.3, size),
    lambda rng, size: capped(4, 1.12)(rng, size) / 500,
    lambda rng, size: bimodal(0.35)(rng, size) / 500,
)
# √2 times the 75 %, 90 %, 97 % and 99 % quantiles of the standard normal law; √26 for the unequal spreads.
PAIRS: dict[str, tuple[Law, Law]] = {
    "normal, .50": (normal(0), normal(0)),
    "normal, .75": (normal(0.9539), normal(0)),
    "normal, .90": (normal(1.8124), normal(0)),
    "normal, .97": (normal(2.6599), normal(0)),
    "normal, .99": (normal(3.2900), normal(0)),
    "spreads 5 and 1, .50": (normal(0, 5), normal(0)),
    "spreads 5 and 1, .90": (normal(6.5346, 5), normal(0)),
    "36 % and 19 % at the maximum": (capped(4, 1.12), capped(3, 1.07)),
    "bimodal and normal": (bimodal(0.35), normal(400, 50)),
    "solved 100 % and 80 %": (solved(1.0), solved(0.8)),
    "solved 90 % and 60 %": (solved(0.9), solved(0.6)),
    "solved 98 % and 95 %": (solved(0.98), solved(0.95)),
}
