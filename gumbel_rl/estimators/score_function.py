"""Score-function (REINFORCE) estimators, with and without baselines."""

from __future__ import annotations

from torch import Tensor

from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators.base import Estimator, Objective, evaluate

BASELINES = ("none", "mean", "given")


def score_function_surrogate(log_prob: Tensor, value: Tensor, baseline: Tensor | float = 0.0) -> Tensor:
    """Surrogate with value `f` and gradient `(f - b) d log p(z)` plus the gradient inside `f`.

    Williams 1992. `baseline` must not depend on the sample it serves.

    Args:
        log_prob: Log-probabilities of the samples, any shape.
        value: `f` at the samples, of the same shape.
        baseline: `b`, of that shape or broadcastable to it.

    Raises:
        ValueError: The shapes do not fit.
    """
    advantage = (value - baseline).detach()
    if not log_prob.shape == value.shape == advantage.shape:
        raise ValueError(
            f"log-probabilities {tuple(log_prob.shape)}, values {tuple(value.shape)} and their difference from the "
            f"baseline {tuple(advantage.shape)} must have one shape"
        )
    return value + advantage * (log_prob - log_prob.detach())


def mean_of_others(value: Tensor) -> Tensor:
    """For each of the values, the mean of all others; 0 for a lone one. The same shape, no gradient."""
    value = value.detach()
    return (value.sum() - value) / max(value.numel() - 1, 1)


def leave_one_out(value: Tensor) -> Tensor:
    """For each of several samples of one distribution, the mean of the others: `[S, *batch]`, with `S` at least 2."""
    return (value.sum(0, keepdim=True) - value) / (value.shape[0] - 1)


class ScoreFunction(Estimator):
    """The score-function estimator `(f(z) - b) d log p(z)` (Williams 1992, REINFORCE).

    Args:
        baseline: `"none"`; `"mean"`, the average of `f` over all *other* samples of the batch (leaving out the sample
            itself keeps the estimator unbiased); or `"given"`, the tensor passed at each call.
        samples: `S`, number of independent samples to average.

    Raises:
        ValueError: An unknown baseline.
    """

    unbiased = True
    needs_objective = False

    def __init__(self, baseline: str = "none", samples: int = 1) -> None:
        super().__init__(samples)
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}; known are {', '.join(BASELINES)}")
        self.baseline = baseline

    def __call__(
        self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None, baseline: Tensor | None = None
    ) -> Tensor:
        """Surrogate for `E f(z)`; `baseline` `[*batch]` is required with `baseline="given"`, and refused otherwise."""
        if (baseline is None) == (self.baseline == "given"):
            given = "no tensor was given" if baseline is None else "a tensor was given"
            raise ValueError(f"baseline={self.baseline!r} was chosen, and {given}")
        sample = dist.sample(noise=self._noise(dist, noise))
        value = evaluate(f, sample)
        if self.baseline == "mean":
            baseline = mean_of_others(value)
        return score_function_surrogate(dist.log_prob(sample), value, 0.0 if baseline is None else baseline).mean(0)


class Rloo(Estimator):
    """Score function with the leave-one-out baseline: the mean of the *other* samples of the same distribution.

    Kool et al. 2019 ("Buy 4 REINFORCE samples, get a baseline for free!").

    Args:
        samples: `S`, at least 2.
    """

    unbiased = True
    min_samples = 2

    def __init__(self, samples: int = 4) -> None:
        super().__init__(samples)

    def __call__(self, dist: FactoredCategorical, f: Objective, noise: Tensor | None = None) -> Tensor:
        sample = dist.sample(noise=self._noise(dist, noise))
        value = evaluate(f, sample)
        return score_function_surrogate(dist.log_prob(sample), value, leave_one_out(value)).mean(0)
