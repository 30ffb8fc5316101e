"""How agents with settings of their own are written: `gumbel-ac:estimator=exact`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from agents.config import resolve
from agents.errors import UserError


def parse_label(label: str) -> tuple[str, dict[str, Any]]:
    """Agent and overrides of a label such as `gumbel-ac:estimator=rloo,net_arch=[32, 32]`.

    Raises:
        UserError: It is not written so.
    """
    agent, colon, rest = label.partition(":")
    # A comma parts two overrides only where another key follows: lists have commas too.
    overrides: dict[str, Any] = {}
    for assignment in re.split(r",(?=\s*\w+=)", rest) if colon else []:
        key, equals, value = assignment.partition("=")
        key = key.strip()
        if not key or not equals:
            raise UserError(f"agent {label!r} must be written AGENT:KEY=VALUE,KEY=VALUE")
        if key in ("agent", "env", "seed") or key in overrides:
            raise UserError(f"agent {label!r} cannot give {key}{' twice' if key in overrides else ''}")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"agent {label!r}: the value of {key} is not YAML: {error}") from error
    return agent, overrides


def with_estimators(label: str, estimators: Sequence[str]) -> list[str]:
    """The label once for each estimator, if its agent has a choice of them; else the label.

    Raises:
        UserError: It says already which.
    """
    agent, overrides = parse_label(label)
    # REINFORCE has but one, and the peers none.
    if not estimators or agent == "reinforce" or resolve({"agent": agent}).estimator is None:
        return [label]
    if "estimator" in overrides:
        raise UserError(f"{label} already says which estimator: leave out --estimators, or the estimator there")
    return [f"{label}{',' if overrides else ':'}estimator={estimator}" for estimator in estimators]
