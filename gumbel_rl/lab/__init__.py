"""The laboratory: gradient estimators measured against exact gradients.

`python -m gumbel_rl.lab` measures on built-in objectives or on the critic of a trained agent, `python -m
gumbel_rl.lab.table` makes the table of estimators. The parts are useful alone.
"""

from __future__ import annotations

from gumbel_rl.lab.measurement import Quality, learn, measure
from gumbel_rl.lab.objectives import OBJECTIVES, BuiltIn, make_objective
from gumbel_rl.lab.problems import Problem, built_in, from_objective
from gumbel_rl.lab.timing import Timing, time_all

__all__ = [
    "OBJECTIVES",
    "BuiltIn",
    "Problem",
    "Quality",
    "Timing",
    "built_in",
    "from_objective",
    "learn",
    "make_objective",
    "measure",
    "time_all",
]
