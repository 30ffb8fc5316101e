"""How good is a gradient estimate? Bias, variance and direction against the exact gradient, and dead gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator, Exact, Objective


@dataclass(frozen=True)
class GradientDiagnostics:
    """Quality of an estimator's gradient with respect to the logits, over one batch.

    Norms are over the gradient of the batch mean of `f`. All entries but `cosine` and `zero_grad_frac` are relative to
    the norm of the exact gradient, so that they compare across tasks and stages of training.

    Attributes:
        bias: Norm of (mean estimate - exact gradient), divided by the norm of the exact gradient. The error of the mean
            of finitely many repeats is subtracted in quadrature, so that an unbiased estimator scores about 0.
        variance: Trace of the covariance of a single estimate, divided by the squared norm of the exact gradient.
        cosine: Cosine between a single estimate and the exact gradient, averaged over estimates.
        zero_grad_frac: Share of rows (batch elements) whose gradient is exactly zero.
        exact_norm: Norm of the exact gradient itself.
    """

    bias: float
    variance: float
    cosine: float
    zero_grad_frac: float
    exact_norm: float

    @property
    def logged(self) -> dict[str, float]:
        """What training logs of it, by tag."""
        return {
            "grad/bias": self.bias,
            "grad/variance": self.variance,
            "grad/cosine": self.cosine,
            "train/zero_grad_frac": self.zero_grad_frac,
        }


def logits_gradient(estimator: Estimator, dist: FactoredCategorical, f: Objective, repeats: int = 1) -> Tensor:
    """Independent estimates of the gradient of `E f(z)` with respect to the logits, batch element by batch element.

    Args:
        estimator: The estimator.
        dist: Distribution with logits `[*batch, N]`.
        f: Objective, `[*, *batch, N]` to `[*, *batch]`.
        repeats: `R`, number of independent estimates, made in one call. The baseline of `ScoreFunction("mean")` then
            averages over the repeats as well as over the batch.

    Returns:
        `[R, *batch, N]`, without a graph.
    """
    leaf = dist.logits.detach().expand(repeats, *dist.logits.shape).clone().requires_grad_()
    mask = None if dist.mask is None else dist.mask.expand(dist.logits.shape)
    with torch.enable_grad():
        surrogate = estimator(FactoredCategorical(leaf, dist.factors, mask), f)
        if not surrogate.requires_grad:  # a pathwise estimator and an objective that ignores the action
            return torch.zeros_like(leaf)
        (gradient,) = torch.autograd.grad(surrogate.sum(), leaf, materialize_grads=True)
    return gradient


def zero_gradient_share(gradient: Tensor) -> Tensor:
    """Share of rows of a logits gradient `[..., N]` that are zero throughout: a scalar, without a graph."""
    return (gradient.detach() == 0).all(-1).float().mean()


def diagnose(
    estimator: Estimator,
    dist: FactoredCategorical,
    f: Objective,
    *,
    exact: Estimator | None = None,
    repeats: int = 64,
) -> GradientDiagnostics:
    """Measure an estimator's gradient against the exact one on a batch.

    Args:
        estimator: The estimator to judge.
        dist: Distribution with logits `[B, N]`.
        f: Objective, `[*, B, N]` to `[*, B]`.
        exact: Oracle; by default `Exact()`, which enumerates the joint actions.
        repeats: `R`, number of independent estimates; at least 2.

    Raises:
        ValueError: Fewer than 2 repeats, or the oracle cannot enumerate the action space.
    """
    if repeats < 2:
        raise ValueError(f"diagnose needs at least 2 repeats, got {repeats}")
    truth = logits_gradient(exact or Exact(), dist, f)[0].flatten().double()
    estimates = logits_gradient(estimator, dist, f, repeats)
    flat = estimates.flatten(1).double()
    scale = truth.norm().clamp_min(1e-150)  # its square is still a number
    deviation = flat - truth
    mean_deviation = deviation.mean(0)
    # Computed around the exact gradient: an estimator without variance then has a variance of exactly 0.
    variance = (deviation - mean_deviation).square().sum(1).sum() / (repeats - 1)
    bias = (mean_deviation.square().sum() - variance / repeats).clamp_min(0.0).sqrt()
    return GradientDiagnostics(
        bias=float(bias / scale),
        variance=float(variance / scale**2),
        cosine=float(torch.nn.functional.cosine_similarity(flat, truth[None], dim=1, eps=1e-300).mean()),
        zero_grad_frac=float(zero_gradient_share(estimates)),
        exact_norm=float(truth.norm()),
    )
