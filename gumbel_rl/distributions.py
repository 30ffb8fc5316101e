"""FactoredCategorical: independent categorical variables over the blocks of a flat one-hot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from gumbel_rl import gumbel
from gumbel_rl.actions import ActionFactors

# Logit of a choice that must not happen. Its probability underflows to exactly 0 in every floating dtype, and unlike -inf it
# never meets a zero in a product (0 * -inf is NaN, in the value or only in the gradient).
MASKED = -1e6


class FactoredCategorical(Distribution):
    """A product of `D` independent categoricals, with values that are flat one-hots `[..., N]`.

    Args:
        logits: Unnormalised log-probabilities, flat `[*batch, N]`.
        factors: The blocks.
        mask: Optional boolean `[*batch, N]` (or broadcastable), true where a choice is allowed. A masked choice has
            probability exactly 0 and gets no gradient.

    Raises:
        ValueError: The width of `logits` or `mask` is not `N`, or a factor has every choice masked.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch reads it from the class

    def __init__(self, logits: Tensor, factors: ActionFactors, mask: Tensor | None = None) -> None:
        if logits.shape[-1] != factors.width:
            raise ValueError(f"logits of shape {tuple(logits.shape)} do not fit {factors.width} choices of {factors}")
        self.logits = logits
        self.factors = factors
        self.mask = mask
        padded = factors.pad(logits, MASKED)
        if mask is not None:
            if mask.shape[-1] != factors.width:
                raise ValueError(f"mask of shape {tuple(mask.shape)} does not fit {factors.width} choices")
            allowed = factors.pad(mask.bool(), False)
            if not bool(allowed.any(-1).all()):
                raise ValueError("a factor has every choice masked: at least one must be allowed")
            padded = torch.where(allowed, padded, MASKED)
        self._log_probs = padded.log_softmax(-1)  # [*batch, D, K]
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactoredCategorical:
        """The same distribution with `logits` (and mask) expanded to `batch_shape`."""
        mask = None if self.mask is None else self.mask.expand(*batch_shape, -1)
        return FactoredCategorical(self.logits.expand(*batch_shape, -1), self.factors, mask)

    @cached_property
    def probs(self) -> Tensor:
        """Probabilities, flat `[*batch, N]`; each block sums to one."""
        return self.factors.flatten(self._probs)

    @cached_property
    def _probs(self) -> Tensor:
        return self._log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """`E z`, which for one-hots is `probs`."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The most probable action, one-hot `[*batch, N]`."""
        return self.factors.flatten(gumbel.one_hot_argmax(self._log_probs.detach()))

    def noise(self, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Standard Gumbel noise that fits this distribution, flat `[*sample_shape, *batch, N]`."""
        shape = (*sample_shape, *self.logits.shape)
        return gumbel.gumbel_noise(shape, dtype=self.logits.dtype, device=self.logits.device, generator=generator)

    def sample(self, sample_shape: Sequence[int] = torch.Size(), noise: Tensor | None = None) -> Tensor:
        """Exact one-hot samples by the Gumbel-max trick, `[*sample_shape, *batch, N]`; no gradient.

        Args:
            sample_shape: Shape of the samples; ignored if `noise` is given.
            noise: Gumbel noise `[*sample_shape, *batch, N]` to use instead of fresh noise.
        """
        noise = self.noise(sample_shape) if noise is None else noise
        return self.factors.flatten(gumbel.gumbel_max(self._log_probs, self._pad_noise(noise)))

    def rsample(
        self,
        sample_shape: Sequence[int] = torch.Size(),
        temperature: Tensor | float = 1.0,
        hard: bool = False,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Samples that carry a gradient: Gumbel-softmax, or its straight-through version.

        Args:
            sample_shape: Shape of the samples; ignored if `noise` is given.
            temperature: Temperature of the softmax; positive.
            hard: One-hot samples with the gradient of the relaxed ones (straight-through).
            noise: Gumbel noise `[*sample_shape, *batch, N]` to use instead of fresh noise.

        Returns:
            `[*sample_shape, *batch, N]`.

        Raises:
            ValueError: `temperature` is not positive.
        """
        noise = self._pad_noise(self.noise(sample_shape) if noise is None else noise)
        soft = gumbel.gumbel_softmax(self._log_probs, noise, temperature)
        if hard:
            soft = gumbel.straight_through(gumbel.gumbel_max(self._log_probs, noise), soft)
        return self.factors.flatten(soft)

    def _pad_noise(self, noise: Tensor) -> Tensor:
        return self.factors.pad(noise, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of one-hot actions `[..., N]`, summed over the factors: `[...]`."""
        return (value * self.factors.flatten(self._log_probs)).sum(-1)

    def relaxed_log_prob(self, value: Tensor, temperature: float) -> Tensor:
        """Log-density of relaxed actions under the Concrete distribution (Maddison et al. 2017, equation 1).

        Per factor with `n` allowed choices and probabilities `p`:
        `log (n-1)! + (n-1) log T + sum_k (log p_k - (T+1) log z_k) - n log sum_k p_k z_k^-T`. It is a density on the
        simplex, not a probability: it may be positive, and must not stand in a ratio with `log_prob`.

        Args:
            value: Points in the interior of the simplices, `[..., N]`.
            temperature: `T`, positive.

        Returns:
            `[...]`, summed over the factors.
        """
        allowed = self._log_probs > MASKED / 2
        count = allowed.sum(-1).to(value.dtype)
        log_z = self.factors.pad(value, 1.0).log()
        score = torch.where(allowed, self._log_probs - temperature * log_z, MASKED)
        log_scale = torch.lgamma(count) + (count - 1) * torch.log(torch.as_tensor(temperature, dtype=value.dtype))
        inner = torch.where(allowed, score - log_z, 0.0).sum(-1)
        return (log_scale + inner - count * score.logsumexp(-1)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, the closed form, `[*batch]`."""
        return -(self._probs * self._log_probs).sum((-2, -1))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All joint one-hots `[joint_size, *batch, N]` (with `expand=False` the batch dimensions are 1)."""
        vertices = self.factors.vertices(self.logits.device, self.logits.dtype)
        vertices = vertices.reshape(-1, *(1,) * len(self.batch_shape), self.factors.width)
        return vertices.expand(-1, *self.batch_shape, -1) if expand else vertices


@register_kl(FactoredCategorical, FactoredCategorical)
def _kl_factored_categorical(p: FactoredCategorical, q: FactoredCategorical) -> Tensor:
    return (p._probs * (p._log_probs - q._log_probs)).sum((-2, -1))
