"""Gradient estimators for continuous variables: reparameterisation and the score function of a Gaussian.

They are here to compare with: a continuous variable has what the discrete estimators have to make do without, a sample
that is a smooth function of the parameters. They take a `torch.distributions.Normal`, so they are not in `ESTIMATORS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Normal

from gumbel_rl.estimators.base import Objective, evaluate
from gumbel_rl.estimators.score_function import leave_one_out, mean_of_others, score_function_surrogate

BASELINES = ("none", "mean", "leave-one-out")


class GaussianEstimator(ABC):
    """Estimates `E f(x)` for independent Gaussian variables, and its gradient with respect to their parameters.

    `estimator(dist, f)` returns a surrogate `[*batch]`: its value estimates the expectation, and its gradient, which
    autograd takes, that of the expectation with respect to the mean and the standard deviation of `dist` and to any
    parameter inside `f`. Both are unbiased.

    Attributes:
        needs_gradient: Whether `f` must be differentiable.

    Args:
        samples: `S`, number of independent samples to average.

    Raises:
        ValueError: `samples` is below 1.
    """

    needs_gradient: bool

    def __init__(self, samples: int = 1) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.samples = samples

    @abstractmethod
    def __call__(self, dist: Normal, f: Objective, noise: Tensor | None = None) -> Tensor:
        """Surrogate for `E f(x)`.

        Args:
            dist: The distribution, mean and standard deviation `[*batch, N]`.
            f: The objective, `[S, *batch, N]` to `[S, *batch]`.
            noise: Standard normal noise `[S, *batch, N]` to use instead of fresh noise, so that both can be compared on
                the same samples.

        Returns:
            `[*batch]`.
        """

    def _sample(self, dist: Normal, noise: Tensor | None) -> Tensor:
        """`mean + std * noise`, `[S, *batch, N]`."""
        if noise is None:
            noise = torch.randn((self.samples, *dist.batch_shape), dtype=dist.loc.dtype, device=dist.loc.device)
        if noise.shape[1:] != dist.batch_shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} does not fit samples of {tuple(dist.batch_shape)}")
        return dist.loc + dist.scale * noise


class GaussianReparameterisation(GaussianEstimator):
    """`f(mean + std * noise)`, differentiated through the sample.

    Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014.
    """

    needs_gradient = True

    def __call__(self, dist: Normal, f: Objective, noise: Tensor | None = None) -> Tensor:
        return evaluate(f, self._sample(dist, noise)).mean(0)


class GaussianScoreFunction(GaussianEstimator):
    """`(f(x) - b) d log p(x)` (Williams 1992).

    Args:
        baseline: `"none"`; `"mean"`, the average of `f` over all other samples of the batch; or `"leave-one-out"`, that
            over the other samples of the same distribution, as `rloo` has it.
        samples: `S`, number of independent samples to average; at least 2 to leave one out.

    Raises:
        ValueError: An unknown baseline, or too few samples for it, of noise that is passed in too.
    """

    needs_gradient = False

    def __init__(self, baseline: str = "none", samples: int = 1) -> None:
        super().__init__(samples)
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}; known are {', '.join(BASELINES)}")
        self.baseline = baseline
        self._require(samples)

    def __call__(self, dist: Normal, f: Objective, noise: Tensor | None = None) -> Tensor:
        sample = self._sample(dist, noise).detach()
        self._require(len(sample))
        value = evaluate(f, sample)
        baseline: Tensor | float = 0.0
        if self.baseline == "mean":
            baseline = mean_of_others(value)
        elif self.baseline == "leave-one-out":
            baseline = leave_one_out(value)
        return score_function_surrogate(dist.log_prob(sample).sum(-1), value, baseline).mean(0)

    def _require(self, samples: int) -> None:
        if self.baseline == "leave-one-out" and samples < 2:
            raise ValueError(f"a baseline of the other samples needs at least 2, got {samples}")
