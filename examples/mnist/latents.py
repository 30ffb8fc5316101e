"""Discrete latent variables, how networks speak of them, and the estimators for them.

Shapes: `D` variables of `K` categories, `N = D K` the width of a flat one-hot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import yaml
from gymnasium.spaces import MultiBinary, MultiDiscrete
from torch import Tensor
from torch.nn.functional import softplus

from gumbel_rl import ActionFactors, Estimator, FactoredCategorical, make_estimator
from gumbel_rl.estimators import Exact, LocalExpectation, Mixture

# Evaluations of the last layer for one digit beyond which training is refused rather than begun and never finished.
MOST_EVALUATIONS = 1024


@dataclass(frozen=True)
class Latents:
    """`variables` independent categorical variables of `categories` each.

    Networks give and take as many numbers as there are choices. Variables of two categories are Bernoulli variables:
    networks give one logit for each, and take one number, 0 or 1.
    """

    variables: int
    categories: int

    @classmethod
    def parse(cls, text: str) -> Latents:
        """From text such as `20x10`, or `200x2` for Bernoulli variables.

        Raises:
            ValueError: It is not written so.
        """
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if match is None or int(match[2]) < 2:
            raise ValueError(f"latents are written VARIABLESxCATEGORIES, 20x10 for example or 200x2, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.variables}x{self.categories}"

    @property
    def binary(self) -> bool:
        """Whether they are Bernoulli variables."""
        return self.categories == 2

    @cached_property
    def factors(self) -> ActionFactors:
        """The blocks of their one-hots."""
        if self.binary:
            return ActionFactors.from_space(MultiBinary(self.variables))
        return ActionFactors.from_space(MultiDiscrete(np.full(self.variables, self.categories)))

    @property
    def width(self) -> int:
        """Numbers that a network gives or takes."""
        return self.variables if self.binary else self.factors.width

    def distribution(self, outputs: Tensor) -> FactoredCategorical:
        """From a network's outputs `[*batch, width]`."""
        if self.binary:
            outputs = torch.stack([torch.zeros_like(outputs), outputs], -1).flatten(-2)
        return FactoredCategorical(outputs, self.factors)

    def features(self, one_hots: Tensor) -> Tensor:
        """One-hots `[*, N]`, relaxed ones too, to a network's inputs `[*, width]`."""
        return one_hots[..., 1::2] if self.binary else one_hots

    def prior(self, batch: int) -> FactoredCategorical:
        """The uniform distribution."""
        return FactoredCategorical(torch.zeros(batch, self.factors.width), self.factors)


def bernoulli_log_prob(logits: Tensor, pixels: Tensor) -> Tensor:
    """Log-probability of independent bits: `sum_i x_i l_i - log(1 + e^l_i)`, `[*, n]` to `[*]`."""
    return (logits * pixels).sum(-1) - softplus(logits).sum(-1)


def estimator_from(text: str, temperature: float | None = None) -> Estimator:
    """An estimator from its id and options, such as `rloo` or `score-function:baseline=mean,samples=2`.

    Args:
        text: Id, and options after a colon.
        temperature: For estimators that have one.

    Raises:
        ValueError: Unknown id, or a value the estimator refuses.
        TypeError: An option the estimator does not have.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for assignment in filter(None, rest.split(",")):
        key, equals, value = assignment.partition("=")
        if not (key and equals):
            raise ValueError(f"options of an estimator are written id:key=value,key=value; got {text!r}")
        options[key.strip()] = yaml.safe_load(value)
    estimator = make_estimator(name.strip(), **options)
    if temperature is not None and estimator.has_temperature:
        estimator.temperature = temperature
    return estimator


def evaluations(estimator: Estimator, factors: ActionFactors) -> int:
    """How often the estimator evaluates its objective for one digit."""
    if isinstance(estimator, Mixture):
        return sum(evaluations(member, factors) for member in estimator.members)
    if isinstance(estimator, Exact):
        return factors.joint_size
    if isinstance(estimator, LocalExpectation):
        return estimator.samples * (factors.width - len(factors.sizes) + 1)
    return estimator.samples * (estimator.evaluations or 1)


def require_affordable(estimator: Estimator, latents: Latents, layers: int = 1) -> None:
    """Refuse an estimator that evaluates the last layer more than `MOST_EVALUATIONS` times for each digit.

    Raises:
        ValueError: It does.
    """
    count = evaluations(estimator, latents.factors)
    if count**layers > MOST_EVALUATIONS:
        nested = f", and {layers} layers, one in the other, {count}^{layers}" if layers > 1 else ""
        raise ValueError(
            f"{type(estimator).__name__} on {latents} latents takes {count:.4g} evaluations for each digit{nested}; "
            f"at most {MOST_EVALUATIONS} are allowed: take an estimator that samples, or fewer latents"
        )
