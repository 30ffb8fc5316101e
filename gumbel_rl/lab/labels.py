"""Estimators as a command line names them: an id, and options after a colon, as in `gumbel-rao:draws=100`."""

from __future__ import annotations

import ast
import re
from typing import Any

from gumbel_rl.estimators import ESTIMATORS, Estimator, Mixture, ScoreFunction, make_estimator


def parse_label(label: str) -> tuple[str, dict[str, Any]]:
    """The id and the options of a label.

    Raises:
        ValueError: An option is not written `key=value`.
    """
    estimator_id, _, rest = label.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, re.split(r",(?![^(\[{]*[)\]}])", rest)):  # at commas outside of brackets
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise ValueError(f"{label}: options are written key=value, got {item!r}")
        try:
            options[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[key] = text
    return estimator_id, options


def make(label: str, *, samples: int | None = None, temperature: float | None = None, multilinear: bool) -> Estimator:
    """An estimator by its label.

    Args:
        label: Id and options.
        samples: Its number of samples, unless the label says it.
        temperature: Its temperature, if it has one and unless the label says it.
        multilinear: Whether the objective is linear in each factor: the exact expectation is then one evaluation.

    Raises:
        ValueError: An unknown id, or a value the estimator refuses.
        TypeError: An option the estimator does not have.
    """
    estimator_id, options = parse_label(label)
    defaults: dict[str, Any] = {} if samples is None else {"samples": samples}
    if estimator_id == "exact":
        defaults["multilinear"] = multilinear
    estimator = make_estimator(estimator_id, **{**defaults, **options})
    if temperature is not None and sweeps(label):
        estimator.temperature = temperature
    return estimator


def sweeps(label: str) -> bool:
    """Whether the estimator has a temperature that its label leaves open."""
    estimator_id, options = parse_label(label)
    if estimator_id == "mixture":
        return make_estimator(estimator_id, **options).has_temperature
    return estimator_id in ESTIMATORS and ESTIMATORS[estimator_id].has_temperature and "temperature" not in options


def couples_rows(estimator: Estimator) -> bool:
    """Whether an estimate of one row depends on the others, so that it must not be made beside other estimates."""
    if isinstance(estimator, Mixture):
        return any(couples_rows(member) for member in estimator.members)
    return isinstance(estimator, ScoreFunction) and estimator.baseline == "mean"
