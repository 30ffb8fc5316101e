"""Tasks: environments with known answers, and fast vectorised construction of any environment.

Importing this package registers `gumbel_rl/FactoredBandit-v0`, `gumbel_rl/TabularMDP-v0`, `gumbel_rl/Coordination-v0`
and three of the last: `gumbel_rl/BinaryCoordination-v0`, `gumbel_rl/MaskedCoordination-v0` and
`gumbel_rl/LargeCoordination-v0`. It imports Gymnasium; Stable-Baselines3 and torch come in with the first name that
needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envs.registry import find_spec, make_env

if TYPE_CHECKING:
    from envs.bandit import FactoredBandit
    from envs.coordination import Coordination
    from envs.tabular import TabularMDP
    from envs.vector import ENGINES, make_vec_env

_LAZY = {
    "ENGINES": "envs.vector",
    "Coordination": "envs.coordination",
    "FactoredBandit": "envs.bandit",
    "TabularMDP": "envs.tabular",
    "make_vec_env": "envs.vector",
}

__all__ = ["ENGINES", "Coordination", "FactoredBandit", "TabularMDP", "find_spec", "make_env", "make_vec_env"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
