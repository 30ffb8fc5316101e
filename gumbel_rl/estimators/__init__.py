"""Gradient estimators for expectations over discrete actions, in one contract and one registry."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from gumbel_rl.estimators.base import Estimator, Objective, PathwiseEstimator, TemperatureEstimator, evaluate
from gumbel_rl.estimators.control_variates import Rebar, Relax
from gumbel_rl.estimators.exact import Exact
from gumbel_rl.estimators.gapped import GappedStraightThrough
from gumbel_rl.estimators.gaussian import GaussianReparameterisation, GaussianScoreFunction
from gumbel_rl.estimators.gumbel_rao import GumbelRao, Zgr
from gumbel_rl.estimators.local_expectation import LocalExpectation
from gumbel_rl.estimators.mixture import Mixture
from gumbel_rl.estimators.reinmax import ReinMax
from gumbel_rl.estimators.score_function import Rloo, ScoreFunction, score_function_surrogate
from gumbel_rl.estimators.straight_through import (
    GumbelSoftmax,
    StraightThrough,
    StraightThroughGumbelSoftmax,
    SurrogateEstimator,
)

ESTIMATORS: dict[str, type[Estimator]] = {
    "exact": Exact,
    "score-function": ScoreFunction,
    "rloo": Rloo,
    "local-expectation": LocalExpectation,
    "rebar": Rebar,
    "relax": Relax,
    "straight-through": StraightThrough,
    "gumbel-softmax": GumbelSoftmax,
    "st-gumbel-softmax": StraightThroughGumbelSoftmax,
    "gumbel-rao": GumbelRao,
    "zgr": Zgr,
    "reinmax": ReinMax,
    "gapped-st": GappedStraightThrough,
    "mixture": Mixture,
}
"""Every estimator by its id."""


def make_estimator(estimator_id: str, **options: Any) -> Estimator:
    """Make an estimator by its id.

    Args:
        estimator_id: A key of `ESTIMATORS`.
        **options: Arguments of the estimator's class, for example `temperature=0.7, samples=4`.

    Raises:
        ValueError: An unknown id (the message names the nearest), or a value the estimator refuses.
        TypeError: An option the estimator does not have.
    """
    if estimator_id not in list(ESTIMATORS):
        near = difflib.get_close_matches(str(estimator_id), ESTIMATORS, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown estimator {estimator_id!r}{hint}; known are {', '.join(ESTIMATORS)}")
    cls = ESTIMATORS[estimator_id]
    allowed = list(inspect.signature(cls).parameters)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise TypeError(f"estimator {estimator_id!r} has no option {unknown[0]!r}; it takes {', '.join(allowed)}")
    return cls(**options)


def estimator_through(estimator: str | Estimator, options: dict[str, Any], multilinear: bool) -> Estimator:
    """The estimator that an algorithm was asked for, to be used through its critic.

    Args:
        estimator: Id, or an estimator, which is returned as it is.
        options: Options of an estimator given by its id. Its temperature is the algorithm's business.
        multilinear: Whether the critic is linear in each factor: its expectation is then one evaluation, however many
            joint actions there are.

    Raises:
        ValueError: Options for an estimator that is made already, a temperature among them, or an unknown id.
        TypeError: An option the estimator does not have.
    """
    if isinstance(estimator, Estimator):
        if options:
            raise ValueError(f"options {options} are for an estimator given by its id, but {estimator} is made already")
        return estimator
    parts = [options, *(value for value in options.values() if isinstance(value, Mapping))]  # a mixture has two more
    if any("temperature" in part for part in parts):
        raise ValueError("the estimator's temperature is given by the argument temperature, not by an option")
    return make_estimator(estimator, **({"multilinear": multilinear} if estimator == "exact" else {}) | options)


__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Exact",
    "GappedStraightThrough",
    "GaussianReparameterisation",
    "GaussianScoreFunction",
    "GumbelRao",
    "GumbelSoftmax",
    "LocalExpectation",
    "Mixture",
    "Objective",
    "PathwiseEstimator",
    "Rebar",
    "ReinMax",
    "Relax",
    "Rloo",
    "ScoreFunction",
    "StraightThrough",
    "StraightThroughGumbelSoftmax",
    "SurrogateEstimator",
    "TemperatureEstimator",
    "Zgr",
    "estimator_through",
    "evaluate",
    "make_estimator",
    "score_function_surrogate",
]
