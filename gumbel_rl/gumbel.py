"""Gumbel noise and what is made of it: Gumbel-max, Gumbel-softmax, straight-through.

Every function works on the last dimension, `K` choices of one categorical variable. Blocks of several variables are the
business of `gumbel_rl.distributions`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NOISE_DTYPES = (torch.float32, torch.float64)


def gumbel_noise(
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw independent standard Gumbel noise, `g = -log(-log u)`.

    Args:
        shape: Shape of the result.
        dtype: Floating dtype of the result. Types narrower than float32 are drawn in float32 and rounded once.
        device: Device of the result.
        generator: Source of randomness; torch's global one if omitted.

    Returns:
        Tensor of `shape`, always finite.
    """
    return -torch.log(_exponential_noise(shape, dtype=dtype, device=device, generator=generator)).to(dtype)


def _exponential_noise(
    shape: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    # A uniform number and a logarithm: several times faster on a CPU than Tensor.exponential_.
    wide = dtype if dtype in _NOISE_DTYPES else torch.float32
    uniform = torch.rand(tuple(shape), dtype=wide, device=device, generator=generator)
    # rand() may return exactly 0; both ends are kept open so that neither logarithm is infinite.
    tiny = torch.finfo(wide).tiny
    return -torch.log(uniform.clamp_(min=tiny, max=1.0 - torch.finfo(wide).eps / 2))


def posterior_gumbel(log_probs: Tensor, one_hot: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw Gumbel noise given the outcome of the Gumbel-max trick.

    With `E ~ Exp(1)` and `b` the given choice, the perturbed log-probabilities `z = log p + g` have
    `z_b = -log E_b` (the maximum of all is a standard Gumbel, because the probabilities sum to one) and
    `z_i = -log(E_i / p_i + E_b)` for the others, each a Gumbel truncated at the maximum (Maddison et al. 2014; Tucker et
    al. 2017, appendix C). Using unnormalised logits here is a known source of bias, so they are normalised first.

    Args:
        log_probs: Log-probabilities or logits `[..., K]`.
        one_hot: The choice, one-hot `[..., K]`; leading dimensions broadcast against those of `log_probs`.
        generator: Source of randomness; torch's global one if omitted.

    Returns:
        Noise `g` `[..., K]` with `argmax(log_probs + g) = one_hot`, distributed as standard Gumbel noise once `one_hot`
        is averaged over its own distribution. Differentiable with respect to `log_probs`.
    """
    normalised = log_probs.log_softmax(-1)
    shape = torch.broadcast_shapes(normalised.shape, one_hot.shape)
    log_e = torch.log(
        _exponential_noise(shape, dtype=normalised.dtype, device=normalised.device, generator=generator)
    ).to(normalised.dtype)
    log_e_top = (log_e * one_hot).sum(-1, keepdim=True)
    others = -torch.logaddexp(log_e - normalised, log_e_top.expand_as(log_e))
    return torch.where(one_hot.bool(), -log_e_top, others) - normalised


def one_hot_argmax(scores: Tensor) -> Tensor:
    """One-hot of the largest entry of `scores` `[..., K]`, exactly zeros and ones, in the dtype of `scores`."""
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)


def gumbel_max(logits: Tensor, noise: Tensor) -> Tensor:
    """Exact categorical sample `onehot(argmax(logits + noise))`, `[..., K]`; no gradient."""
    return one_hot_argmax((logits + noise).detach())


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: Tensor | float) -> Tensor:
    """Relaxed sample `softmax((logits + noise) / temperature)` `[..., K]` (Jang et al. 2017; Maddison et al. 2017).

    Raises:
        ValueError: `temperature` is a number that is not positive.
    """
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return ((logits + noise) / temperature).softmax(-1)


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Tensor with exactly the entries of `value` and the gradient of `surrogate`."""
    # The bracket is exactly zero. Written as value + surrogate - surrogate.detach() it would round to about 6e-8.
    return value.detach() + (surrogate - surrogate.detach())
