"""What a method does, found out by watching it: which points it asks the objective for, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gumbel_rl.estimators import Estimator, Objective
from gumbel_rl.estimators.gaussian import GaussianEstimator
from gumbel_rl.lab.methods import Setting

# The chi-square test of the samples: so many of them, and the chance that it fails though they are right.
DRAWS = 20_000
FALSE_ALARM = 1e-6


@dataclass(frozen=True)
class Traits:
    """What a method does.

    Attributes:
        backpropagates: Whether a gradient comes back from `f` to the sample that it was evaluated at: `yes`, `no`,
            `relaxed copy` if only to another point than the sample, or `no sample`.
        differentiable: Whether there is a gradient with respect to the parameters: `yes` if it is the derivative of the
            estimate itself at fixed noise, `surrogate` if it is that of something else, or `no`.
        exact_samples: Whether the samples follow the distribution, by a chi-square test: `yes`, `no`, or `no sample`.
        evaluations: Evaluations of `f` for each sample and state; of all, if there is no sample.
    """

    backpropagates: str
    differentiable: str
    exact_samples: str
    evaluations: float


class Watched:
    """An objective that remembers what it was asked.

    Args:
        f: The objective.
    """

    def __init__(self, f: Objective) -> None:
        self.f = f
        self.points: list[Tensor] = []
        self.returned: set[int] = set()

    def __call__(self, actions: Tensor) -> Tensor:
        call = len(self.points)
        self.points.append(actions.detach())
        if actions.requires_grad:
            actions.register_hook(lambda gradient: self.returned.add(call))
        return self.f(actions)


def find_traits(estimator: Estimator | GaussianEstimator, setting: Setting, seed: int = 0) -> Traits:
    """Watch a method on a problem.

    Args:
        estimator: The method.
        setting: The same on a problem.
        seed: Of the noise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        one, gradient = _watch(setting, setting.noise(setting.parameters))
        other, _ = _watch(setting, setting.noise(setting.parameters))
        samples = not all(torch.equal(a, b) for a, b in zip(one.points, other.points, strict=True))
        evaluations = sum(points[..., 0].numel() for points in one.points) / len(setting.parameters)
        return Traits(
            backpropagates=_backpropagates(one) if samples else "no sample",
            differentiable=_differentiable(setting, gradient),
            exact_samples=_exact_samples(estimator, setting) if samples else "no sample",
            evaluations=evaluations / (estimator.samples if samples else 1),
        )


def _watch(setting: Setting, noise: Tensor) -> tuple[Watched, Tensor | None]:
    """The objective after one estimate, and the gradient, if there is one."""
    watched = Watched(setting.f)
    leaf = setting.parameters.clone().requires_grad_()
    surrogate = setting.call(leaf, watched, noise)
    if not surrogate.requires_grad:
        return watched, None
    return watched, torch.autograd.grad(surrogate.sum(), leaf, materialize_grads=True)[0]


def _backpropagates(watched: Watched) -> str:
    if 0 in watched.returned:  # the sample is what is asked for first
        return "yes"
    return "relaxed copy" if watched.returned else "no"


def _differentiable(setting: Setting, gradient: Tensor | None) -> str:
    """Compare with the finite difference of the estimate at fixed noise, along a random direction, row by row."""
    if gradient is None or not gradient.any():
        return "no"
    noise = setting.noise(setting.parameters)
    direction = torch.randn_like(setting.parameters)
    step = 1e-5

    def value(parameters: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # whatever else it draws must be the same too
            torch.manual_seed(0)
            return setting.call(parameters, setting.f, noise)

    leaf = setting.parameters.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    with torch.no_grad():
        ahead, behind = (value(setting.parameters + sign * step * direction) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    along = (gradient * direction).sum(-1)
    return "yes" if torch.allclose(along, slope, rtol=1e-4, atol=1e-6) else "surrogate"


def _exact_samples(estimator: Estimator | GaussianEstimator, setting: Setting) -> str:
    watched = Watched(lambda points: points.sum(-1))
    parameters = setting.parameters[:1].expand(DRAWS, -1)
    setting.call(parameters, watched, setting.noise(parameters))
    width = watched.points[0].shape[-1]
    first = watched.points[0].reshape(-1, width)[:DRAWS]
    chances, cells = setting.chances(first)
    if bool((cells < 0).any()):
        return "no"
    counts = torch.bincount(cells, minlength=len(chances)).double()
    return "yes" if chi_square_p(counts, chances) > FALSE_ALARM else "no"


def chi_square_p(counts: Tensor, chances: Tensor) -> float:
    """Chance of counts `[C]` that fit as badly or worse, if outcomes have these chances `[C]`.

    Cells are put together, the least likely first, until each is expected ten times.
    """
    expected = chances.double() * counts.sum()
    order = expected.argsort()
    expected, counts = expected[order], counts[order]
    merged = max(1, int((expected.cumsum(0) < 10).sum()) + 1)
    expected = torch.cat([expected[:merged].sum()[None], expected[merged:]])
    counts = torch.cat([counts[:merged].sum()[None], counts[merged:]])
    statistic = ((counts - expected).square() / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))
