"""What the table of estimators has a row for: every estimator of the registry, and what it is compared with.

Each is a function of parameters: of logits, or of the means and the logarithms of the standard deviations of Gaussian
variables, side by side. So the discrete and the continuous are measured by the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from gumbel_rl.actions import ActionFactors
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import (
    ESTIMATORS,
    Estimator,
    GaussianReparameterisation,
    GaussianScoreFunction,
    Objective,
    evaluate,
    make_estimator,
)
from gumbel_rl.estimators.gaussian import GaussianEstimator
from gumbel_rl.lab.objectives import make_objective
from gumbel_rl.lab.problems import Problem, built_in

NAMES = {
    "exact": "exact expectation",
    "score-function": "score function",
    "rloo": "score function with a leave-one-out baseline",
    "local-expectation": "local expectations",
    "rebar": "REBAR",
    "relax": "RELAX",
    "straight-through": "straight-through",
    "gumbel-softmax": "Gumbel-softmax",
    "st-gumbel-softmax": "straight-through Gumbel-softmax",
    "gumbel-rao": "Gumbel-Rao",
    "zgr": "ZGR",
    "reinmax": "ReinMax",
    "gapped-st": "gapped straight-through",
    "mixture": "mixture of ZGR and straight-through",
}


class GumbelMax(Estimator):
    """`f` at an exact sample, and nothing else: what is left of a gradient without any of the estimators."""

    unbiased = False

    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        return evaluate(f, dist.sample(noise=self._noise(dist, noise))).mean(0)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        key: Its id.
        name: What the literature calls it.
        variables: `discrete` or `continuous`.
        make: Makes it, with a number of samples.
    """

    key: str
    name: str
    variables: str
    make: Callable[[int], Estimator | GaussianEstimator]


def methods() -> list[Method]:
    """All rows of the table, the continuous ones first."""
    rows = [
        Method("gaussian-reparameterisation", "reparameterisation trick", "continuous", GaussianReparameterisation),
        Method("gaussian-score-function", "score function", "continuous", _gaussian_score("none")),
        Method(
            "gaussian-rloo",
            "score function with a leave-one-out baseline",
            "continuous",
            _gaussian_score("leave-one-out"),
        ),
        Method("gumbel-max", "Gumbel-max sample", "discrete", GumbelMax),
    ]
    for key in ESTIMATORS:
        rows.append(Method(key, NAMES.get(key, key), "discrete", _maker(key)))
    return rows


def _gaussian_score(baseline: str) -> Callable[[int], GaussianScoreFunction]:
    return lambda samples: GaussianScoreFunction(baseline, samples)


def _maker(key: str) -> Callable[[int], Estimator]:
    return lambda samples: make_estimator(key, samples=samples)


@dataclass(frozen=True)
class Setting:
    """A method on a problem.

    Attributes:
        parameters: Logits `[B, N]`, or means and logarithms of standard deviations `[B, 2 N]`.
        f: The objective, `[*, B, N]` to `[*, B]`.
        gradient: Gradient of `E f` with respect to the parameters.
        call: The surrogate `[*batch, B]` of parameters `[*batch, B, ...]`, objective and noise.
        noise: Fresh noise for parameters of that shape.
        chances: Chance of each of some cells of outcomes, `[C]`, and the cell of each sample `[R, N]`, or -1 if it is
            no possible outcome; for parameters `[R, ...]` that are all those of the first row.
    """

    parameters: Tensor
    f: Objective
    gradient: Tensor
    call: Callable[[Tensor, Objective, Tensor | None], Tensor]
    noise: Callable[[Tensor], Tensor]
    chances: Callable[[Tensor], tuple[Tensor, Tensor]]

    def gradients(self, repeats: int) -> Tensor:
        """Independent estimates of the gradient, `[R, B, ...]`."""
        leaf = self.parameters.expand(repeats, *self.parameters.shape).clone().requires_grad_()
        surrogate = self.call(leaf, self.f, None)
        if not surrogate.requires_grad:
            return torch.zeros_like(leaf)
        return torch.autograd.grad(surrogate.sum(), leaf, materialize_grads=True)[0]


def discrete(estimator: Estimator, problem: Problem) -> Setting:
    """A discrete estimator on a problem without masks."""
    factors = problem.dist.factors

    def chances(samples: Tensor) -> tuple[Tensor, Tensor]:
        vertices = factors.vertices(dtype=samples.dtype)
        first = FactoredCategorical(problem.dist.logits[0], factors)
        same = (samples.unsqueeze(-2) == vertices).all(-1)
        return first.log_prob(vertices).exp(), torch.where(same.any(-1), same.int().argmax(-1), -1)

    return Setting(
        problem.dist.logits,
        problem.f,
        problem.gradient,
        lambda parameters, f, noise: estimator(FactoredCategorical(parameters, factors), f, noise),
        lambda parameters: FactoredCategorical(parameters, factors).noise((estimator.samples,)),
        chances,
    )


def continuous(
    estimator: GaussianEstimator, kind: str, *, width: int = 4, instances: int = 8, seed: int = 0
) -> Setting:
    """A Gaussian estimator on a built-in objective, `linear` or `nonlinear`, of independent Gaussian variables.

    The gradient is that of the closed form: `E <w, x> = <w, m>`, `E sin(<a, x>) = sin(<a, m>) exp(-<a², s²>/2)` and
    `E <v, x>² = <v, m>² + <v², s²>`.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(instances, 2 * width, dtype=torch.float64, generator=generator)
    parameters[:, width:] *= 0.3
    f: Any = make_objective(kind, ActionFactors((1,) * width), instances, generator)
    leaf = parameters.clone().requires_grad_()
    mean, std = leaf[:, :width], leaf[:, width:].exp()
    if kind == "linear":
        expectation = (f.w * mean).sum(-1)
    else:
        wave = (2 * (f.w * mean).sum(-1)).sin() * (-2 * (f.w * std).square().sum(-1)).exp()
        expectation = wave + (f.v * mean).sum(-1).square() + (f.v * std).square().sum(-1)
    (gradient,) = torch.autograd.grad(expectation.sum(), leaf)

    def dist(parameters: Tensor) -> Normal:
        return Normal(parameters[..., :width], parameters[..., width:].exp())

    def chances(samples: Tensor) -> tuple[Tensor, Tensor]:
        # Sixteen cells of equal chance: on which side of its mean, or of its quartiles, each of two variables is.
        cells = (4 * dist(parameters[0]).cdf(samples)[..., :2]).long().clamp(0, 3)
        return torch.full((16,), 1 / 16, dtype=torch.float64), 4 * cells[..., 0] + cells[..., 1]

    return Setting(
        parameters,
        f,
        gradient,
        lambda parameters, f, noise: estimator(dist(parameters), f, noise),
        lambda parameters: torch.randn((estimator.samples, *parameters.shape[:-1], width), dtype=torch.float64),
        chances,
    )


def setting(method: Method, kind: str, samples: int, *, seed: int = 0) -> tuple[Estimator | GaussianEstimator, Setting]:
    """A method, and where it is measured: 4 factors of 4 choices, or 4 Gaussian variables, 8 random functions each."""
    made = method.make(samples)
    if isinstance(made, GaussianEstimator):
        return made, continuous(made, kind, seed=seed)
    return made, discrete(made, built_in(kind, (4,) * 4, seed=seed))
