"""Gumbel noise and what is made of it: Gumbel-max, Gumbel-softmax, straight-through.

Every function works on the last dimension, `K` choices of one categorical variable. Blocks of several variables are the
business of `gumbel_rl.distributions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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
    return _log_exponential_noise(shape, widened(dtype), device, generator).neg_().to(dtype)


def _log_exponential_noise(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str | None,
    generator: torch.Generator | None,
) -> Tensor:
    """`log E` with `E ~ Exp(1)`: minus a standard Gumbel variable."""
    # A uniform number and two logarithms: several times faster on a CPU than Tensor.exponential_. rand() returns 0 now
    # and then, and never 1, so that one bound keeps both logarithms finite.
    uniform = torch.rand(tuple(shape), dtype=dtype, device=device, generator=generator)
    return uniform.clamp_min_(torch.finfo(dtype).tiny).log_().neg_().log_()


def widened(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32 for types that are narrower, else `dtype` itself.

    Logits and noise rounded to bfloat16 tie in about one row of a hundred, and their probabilities miss 1 by half a
    percent.
    """
    return torch.promote_types(dtype, torch.float32)


def posterior_gumbel(log_probs: Tensor, one_hot: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw Gumbel noise given the outcome of the Gumbel-max trick.

    With `E ~ Exp(1)` and `b` the given choice, the perturbed log-probabilities `z = log p + g` have
    `z_b = -log E_b` (the maximum of all is a standard Gumbel, because the probabilities sum to one) and
    `z_i = -log(E_i / p_i + E_b)` for the others, each a Gumbel truncated at the maximum (Maddison et al. 2014; Tucker
    et al. 2017, appendix C). Using unnormalised logits here is a known source of bias, so they are normalised first.

    Args:
        log_probs: Log-probabilities or logits `[..., K]`.
        one_hot: The choice, one-hot `[..., K]`; leading dimensions broadcast against those of `log_probs`.
        generator: Source of randomness; torch's global one if omitted.

    Returns:
        Noise `g` `[..., K]` with `argmax(log p + g) = one_hot`, distributed as standard Gumbel noise once `one_hot`
        is averaged over its own distribution. At least float32; differentiable with respect to `log_probs`.
    """
    log_p = log_softmax(log_probs.to(widened(log_probs.dtype)))
    chosen = one_hot.bool()
    shape = torch.broadcast_shapes(log_p.shape, chosen.shape)
    log_e = _log_exponential_noise(shape, log_p.dtype, log_p.device, generator)
    log_e_top = torch.where(chosen, log_e, 0.0).sum(-1, keepdim=True)
    # g = z - log p with the subtraction done by hand: -log(E_i + p_i E_b), which loses nothing where p_i is tiny.
    return -torch.where(chosen, log_e + log_p, torch.logaddexp(log_e, log_e_top + log_p))


def one_hot_argmax(scores: Tensor) -> Tensor:
    """One-hot of the largest entry of `scores` `[..., K]` (the first of equals): exactly zeros and ones, same dtype."""
    # max() finds the index several times faster than argmax() if there are few choices.
    return torch.zeros_like(scores).scatter_(-1, scores.max(-1, keepdim=True).indices, 1.0)


def gumbel_max(logits: Tensor, noise: Tensor) -> Tensor:
    """Exact categorical sample `onehot(argmax(logits + noise))`, `[..., K]`; no gradient."""
    return one_hot_argmax((logits + noise).detach())


def gumbel_softmax(logits: Tensor, noise: Tensor, temperature: Tensor | float) -> Tensor:
    """Relaxed sample `softmax((logits + noise) / temperature)` `[..., K]` (Jang et al. 2017; Maddison et al. 2017).

    Raises:
        ValueError: `temperature` is a number that is not positive.
    """
    require_positive(temperature)
    return softmax((logits + noise) / temperature)


def require_positive(temperature: Tensor | float) -> None:
    """Refuse a number that is not positive. A tensor is trusted: a look at it would make the CPU wait for a GPU."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Tensor with exactly the entries of `value` and the gradient of `surrogate`."""
    # The bracket is exactly zero. Written as value + surrogate - surrogate.detach() it would round to about 6e-8.
    return value.detach() + (surrogate - surrogate.detach())


def softmax(scores: Tensor) -> Tensor:
    """`torch.softmax` over the last dimension, quick for few choices as well."""
    return _over_choices(torch.softmax, scores)


def log_softmax(scores: Tensor) -> Tensor:
    """`torch.log_softmax` over the last dimension, quick for few choices as well."""
    return _over_choices(torch.log_softmax, scores)


def _over_choices(function: Callable[[Tensor, int], Tensor], scores: Tensor) -> Tensor:
    # Over a last dimension of fewer than 16 entries torch's CPU kernels work entry by entry. Over the first dimension
    # they work on many rows at once: 3 to 8 times faster, both copies included, from about 2000 entries on.
    choices = scores.shape[-1]
    if choices >= 16 or scores.numel() < 2048 or scores.device.type != "cpu":
        return function(scores, -1)
    return function(scores.reshape(-1, choices).t(), 0).t().contiguous().reshape(scores.shape)
