"""FactoredCategorical: independent categorical variables over the blocks of a flat one-hot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import lazy_property

from gumbel_rl import gumbel
from gumbel_rl.actions import ActionFactors

# Log-probability of a choice that must not happen. It underflows to a probability of exactly 0, and unlike -inf it
# never meets a zero in a product (0 * -inf is NaN, in the value or only in the gradient).
MASKED = -1e9


class FactoredCategorical(Distribution):
    """A product of `D` independent categoricals, with values that are flat one-hots `[..., N]`.

    Samples and probabilities have the dtype of the logits; log-probabilities, entropies and divergences are computed
    and returned in float32 at least.

    Args:
        logits: Unnormalised log-probabilities, flat `[*batch, N]`; `-inf` masks a choice too.
        factors: The blocks.
        mask: Optional boolean `[*batch, N]` (or broadcastable to it), true where a choice is allowed. A masked choice
            has probability exactly 0 and gets no gradient; its log-probability is a large negative number, not `-inf`.

    Raises:
        TypeError: The logits are not floating-point numbers.
        ValueError: The width of `logits` or `mask` is not `N`, or a factor has every choice masked.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch reads it from the class
    has_rsample = True
    has_enumerate_support = True

    def __init__(self, logits: Tensor, factors: ActionFactors, mask: Tensor | None = None) -> None:
        if not logits.is_floating_point():
            raise TypeError(f"logits must be floating-point numbers, got {logits.dtype}")
        if logits.shape[-1:] != (factors.width,):
            raise ValueError(f"logits of shape {tuple(logits.shape)} do not fit {factors.width} choices of {factors}")
        self.logits = logits
        self.factors = factors
        self.mask = None if mask is None else _fit_mask(mask, logits)
        scores = factors.pad(logits.to(gumbel.widened(logits.dtype)), -torch.inf)  # [*batch, D, K]
        if self.mask is not None:
            allowed = factors.pad(self.mask, False)
            if not bool(allowed.any(-1).all()):
                raise ValueError("a factor has every choice masked: at least one must be allowed")
            scores = torch.where(allowed, scores, -torch.inf)
        self._scores = scores
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactoredCategorical:
        """The same distribution with `logits` (and mask) expanded to `batch_shape`."""
        mask = None if self.mask is None else self.mask.expand(*batch_shape, -1)
        return FactoredCategorical(self.logits.expand(*batch_shape, -1), self.factors, mask)

    @lazy_property  # not cached_property: a first look under no_grad() must not cost the gradient
    def probs(self) -> Tensor:
        """Probabilities, flat `[*batch, N]`; each block sums to one."""
        return self._flatten(self._probs)

    @property
    def log_probs(self) -> Tensor:
        """Log-probabilities, flat `[*batch, N]`, float32 at least; a large negative number where a choice is masked."""
        return self.factors.flatten(self._log_probs)

    @lazy_property  # who only acts needs no normalised ones
    def _log_probs(self) -> Tensor:
        return gumbel.log_softmax(self._scores).clamp_min(MASKED)

    @lazy_property
    def _probs(self) -> Tensor:
        return self._log_probs.exp()

    def _flatten(self, blocks: Tensor) -> Tensor:
        """Padded blocks `[..., D, K]` to what the caller sees: flat `[..., N]`, in the dtype of the logits."""
        return self.factors.flatten(blocks).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """`E z`, which for one-hots is `probs`."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The most probable action, one-hot `[*batch, N]`; no gradient."""
        return self._flatten(gumbel.one_hot_argmax(self._scores.detach()))

    def noise(self, sample_shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Standard Gumbel noise that fits this distribution, flat `[*sample_shape, *batch, N]`, float32 at least."""
        shape = (*sample_shape, *self.logits.shape)
        dtype, device = self._log_probs.dtype, self._log_probs.device
        return gumbel.gumbel_noise(shape, dtype=dtype, device=device, generator=generator)

    def sample(self, sample_shape: Sequence[int] = torch.Size(), noise: Tensor | None = None) -> Tensor:
        """Exact one-hot samples by the Gumbel-max trick, `[*sample_shape, *batch, N]`; no gradient.

        Args:
            sample_shape: Shape of the samples; ignored if `noise` is given.
            noise: Gumbel noise `[*sample_shape, *batch, N]` to use instead of fresh noise.
        """
        noise = self.noise(sample_shape) if noise is None else noise
        return self._flatten(gumbel.gumbel_max(self._log_probs, self.factors.pad(noise, 0.0)))

    def sample_indices(self) -> Tensor:
        """The choices of one exact sample as indices `[*batch, D]`: `sample` for who needs no one-hots."""
        noise = gumbel.gumbel_noise(self._scores.shape, dtype=self._scores.dtype, device=self._scores.device)
        return (self._scores.detach() + noise).max(-1).indices

    def mode_indices(self) -> Tensor:
        """The most probable choices as indices `[*batch, D]`."""
        return self._scores.max(-1).indices

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
        blocks = self.factors.pad(self.noise(sample_shape) if noise is None else noise, 0.0)
        relaxed = gumbel.gumbel_softmax(self._log_probs, blocks, temperature)
        if hard:
            relaxed = gumbel.straight_through(gumbel.gumbel_max(self._log_probs, blocks), relaxed)
        return self._flatten(relaxed)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of one-hot actions `[..., N]`, summed over the factors: `[...]`."""
        return (value * self.log_probs).sum(-1)

    def relaxed_log_prob(self, value: Tensor, temperature: Tensor | float) -> Tensor:
        """Log-density of relaxed actions under the Concrete distribution (Maddison et al. 2017, equation 1).

        Per factor with `n` allowed choices and probabilities `p`:
        `log (n-1)! + (n-1) log T + sum_k (log p_k - (T+1) log z_k) - n log sum_k p_k z_k^-T`. It is a density on the
        simplex of the allowed choices, not a probability: it may be positive, and must not stand in a ratio with
        `log_prob`.

        Args:
            value: Points in the interior of the simplices, `[..., N]`. An entry that has underflowed to 0, as happens
                at low temperatures, is taken to be the smallest normal number.
            temperature: `T`, positive.

        Returns:
            `[...]`, summed over the factors.

        Raises:
            ValueError: `temperature` is not positive.
        """
        gumbel.require_positive(temperature)
        log_p = self._log_probs
        allowed = log_p > MASKED
        n = allowed.sum(-1).to(log_p.dtype)
        # Entries of masked choices are 0 too: the infinite slope of their logarithm must not meet their weight of 0.
        z = self.factors.pad(value.to(log_p.dtype), 1.0).clamp_min(torch.finfo(log_p.dtype).tiny)
        log_z = z.log()
        log_t = torch.as_tensor(temperature, dtype=log_p.dtype).log()
        score = log_p - temperature * log_z
        interior = torch.where(allowed, score - log_z, 0.0).sum(-1)
        return (torch.lgamma(n) + (n - 1) * log_t + interior - n * score.logsumexp(-1)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, the closed form, `[*batch]`."""
        return -(self._probs * self._log_probs).sum((-2, -1))

    @property
    def max_entropy(self) -> Tensor:
        """Entropy in nats of the uniform distribution over the allowed choices, `[*batch]`, or `[]` without a mask."""
        if self.mask is None:
            return torch.tensor(self.factors.max_entropy, dtype=self._log_probs.dtype, device=self.logits.device)
        return self.factors.pad(self.mask, False).sum(-1).to(self._log_probs.dtype).log().sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All joint one-hots `[joint_size, *batch, N]` (with `expand=False` the batch dimensions are 1)."""
        vertices = self.factors.vertices(self.logits.device, self.logits.dtype)
        vertices = vertices.reshape(-1, *(1,) * len(self.batch_shape), self.factors.width)
        return vertices.expand(-1, *self.batch_shape, -1) if expand else vertices


def _fit_mask(mask: Tensor, logits: Tensor) -> Tensor:
    pairs = zip(reversed(mask.shape[:-1]), reversed(logits.shape[:-1]), strict=False)
    fits = mask.ndim <= logits.ndim and mask.shape[-1:] == logits.shape[-1:] and all(m in (1, n) for m, n in pairs)
    if not fits:
        raise ValueError(f"mask of shape {tuple(mask.shape)} does not fit logits of shape {tuple(logits.shape)}")
    return mask.bool().expand(logits.shape)


@register_kl(FactoredCategorical, FactoredCategorical)  # type: ignore[untyped-decorator]
def _kl_factored_categorical(p: FactoredCategorical, q: FactoredCategorical) -> Tensor:
    if p.factors.sizes != q.factors.sizes:
        raise ValueError(f"a divergence needs the same factors, got sizes {p.factors.sizes} and {q.factors.sizes}")
    return (p._probs * (p._log_probs - q._log_probs)).sum((-2, -1))
