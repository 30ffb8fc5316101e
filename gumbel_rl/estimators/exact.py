"""The exact expectation, where it can be had."""

from __future__ import annotations

from torch import Tensor

from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators.base import Objective, PathwiseEstimator, evaluate


class Exact(PathwiseEstimator):
    """`E f(z)` without sampling: unbiased, and with no variance.

    Either by enumeration, `sum_z p(z) f(z)` over all joint actions, right for every `f`; or, for an `f` that is linear
    in each factor, by `E f(z) = f(E z) = f(probs)`, one evaluation however many factors there are.

    Args:
        multilinear: Trust that `f` is linear in each factor, and evaluate it at the probabilities; then, and only then,
            `f` must be differentiable and is evaluated off the vertices.
        max_vertices: Largest number of joint actions to enumerate.
        samples: Accepted so that every estimator can be made alike; there is nothing to average.

    Raises:
        ValueError: When called: more joint actions than `max_vertices`.
    """

    unbiased = True
    evaluations = None
    needs_gradient = False

    def __init__(self, multilinear: bool = False, max_vertices: int = 4096, samples: int = 1) -> None:
        super().__init__(samples)
        self.multilinear = self.needs_gradient = self.leaves_vertices = multilinear
        self.max_vertices = max_vertices

    def relax(self, dist: FactoredCategorical, noise: Tensor | None = None) -> Tensor:
        """The probabilities: right for an objective that is linear in each factor."""
        return dist.probs

    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        if self.multilinear:
            return evaluate(f, dist.probs)
        if dist.factors.joint_size > self.max_vertices:
            raise ValueError(
                f"the exact expectation would enumerate {dist.factors.joint_size} joint actions, more than "
                f"{self.max_vertices}; use multilinear=True if the objective is linear in each factor, or an estimator "
                "that samples"
            )
        vertices = dist.enumerate_support()
        return (dist.log_prob(vertices).exp() * evaluate(f, vertices)).sum(0)
