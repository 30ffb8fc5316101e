"""In which order labels are shown, and which of them the data tell apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


def all_labels(summary: Mapping[str, Any]) -> list[str]:
    """Every label of a comparison, in order of first appearance."""
    environments = summary["environments"].values()
    return list(dict.fromkeys(label for environment in environments for label in environment["agents"]))


def ranked(environment: Mapping[str, Any]) -> list[str]:
    """The labels of an environment, best first: by IQM, then mean, then the median of steps to the threshold."""

    def key(label: str) -> tuple[float, float, float]:
        agent = environment["agents"][label]
        reach = agent["steps_to_threshold"]
        steps = reach["median"][0] if reach else None
        return -agent["return"]["iqm"][0], -agent["return"]["mean"][0], math.inf if steps is None else steps

    return sorted(environment["agents"], key=key)


def ranked_across(across: Mapping[str, Any]) -> list[str]:
    """The labels compared across environments, best IQM first."""
    return sorted(across["agents"], key=lambda label: -float(across["agents"][label]["iqm"][0]))


def told_apart(chance: Iterable[float | None]) -> bool:
    """Whether the interval of a probability of improvement leaves out one half."""
    _, low, high = chance
    return low is not None and high is not None and (low > 0.5 or high < 0.5)


def usual_steps(environment: Mapping[str, Any]) -> int:
    """Steps that most agents of an environment were trained for; the fewest of several as common."""
    budgets = Counter(agent["timesteps"] for agent in environment["agents"].values())
    steps: int = min(budgets, key=lambda budget: (-budgets[budget], budget))
    return steps
