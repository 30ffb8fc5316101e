"""Reparameterised policy gradients for discrete actions.

Importing this package imports torch and Gymnasium; the algorithms, and Stable-Baselines3 with them, are imported on
first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gumbel_rl.actions import ActionFactors
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import ESTIMATORS, Estimator, make_estimator
from gumbel_rl.schedules import make_schedule, make_temperature

if TYPE_CHECKING:
    from gumbel_rl.algorithms import GumbelActorCritic, GumbelSAC, Reinforce

__version__ = "0.1.0"

_LAZY = dict.fromkeys(("GumbelActorCritic", "GumbelSAC", "Reinforce"), "gumbel_rl.algorithms")

__all__ = [
    "ESTIMATORS",
    "ActionFactors",
    "Estimator",
    "FactoredCategorical",
    "GumbelActorCritic",
    "GumbelSAC",
    "Reinforce",
    "make_estimator",
    "make_schedule",
    "make_temperature",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
