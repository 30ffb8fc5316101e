"""In which order labels are shown, which of them the data tell apart, and which trained for another number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# Share of the usual number of steps by which another one may differ without a mark.
TOLERANCE = 0.05


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


def steps_taken(agent: Mapping[str, Any]) -> float:
    """Median over seeds of the steps that runs took, which may be more than were asked for."""
    return float(np.median([run["timesteps"] for run in agent["runs"]]))


def curves_shown(agent: Mapping[str, Any]) -> int:
    """Seeds with periodic evaluations, of which its learning curve is made."""
    return sum(bool(run["curve"]["steps"]) for run in agent["runs"])


def usual_steps(environment: Mapping[str, Any]) -> float:
    """Steps that most agents of an environment took, or nearly so; the fewest of several as common."""
    taken = [steps_taken(agent) for agent in environment["agents"].values()]
    return max(taken, key=lambda usual: (sum(_alike(steps, usual) for steps in taken), -usual))


def other_steps(environment: Mapping[str, Any]) -> set[str]:
    """The labels that took another number of steps than is usual: their rows do not compare at equal experience."""
    usual = usual_steps(environment)
    return {label for label, agent in environment["agents"].items() if not _alike(steps_taken(agent), usual)}


def other_steps_across(summary: Mapping[str, Any]) -> set[str]:
    """Those of the labels compared across environments that did so on one of these."""
    across = summary["across"]
    others = (other_steps(summary["environments"][env]) for env in across["environments"])
    return set(across["agents"]).intersection(set().union(*others))


def _alike(steps: float, usual: float) -> bool:
    # Most agents end with a whole update, a little after the steps they were given.
    return abs(steps - usual) <= TOLERANCE * usual
