"""ActionFactors: a discrete Gymnasium action space as blocks of one-hots.

Shapes: `D` factors (independent categorical variables), `n_d` choices of factor `d`, `N = sum(n_d)` the width of a flat
one-hot, `K = max(n_d)` the width of a padded block.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor


class ActionFactors:
    """The factors of a discrete action space.

    Inside the library an action is a flat one-hot tensor `[..., N]`, the factors' blocks side by side; the
    environment's own integers appear only in `encode` and `decode`.

    Args:
        sizes: Number of choices of each factor, `D` positive integers.
        shape: Shape of one environment action; `()` for Discrete. Its product is `D`.
        start: Smallest integer of each factor, `D` integers; zeros if omitted.
        dtype: Dtype of the environment's actions.

    Raises:
        ValueError: Sizes, shape and start do not fit each other.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        shape: tuple[int, ...] | None = None,
        start: tuple[int, ...] | None = None,
        dtype: Any = np.int64,
    ) -> None:
        self.sizes = tuple(int(n) for n in sizes)
        self.shape = (len(self.sizes),) if shape is None else tuple(int(n) for n in shape)
        self.start = (0,) * len(self.sizes) if start is None else tuple(int(n) for n in start)
        self.dtype = np.dtype(dtype)
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"every factor needs at least one choice, got sizes {self.sizes}")
        if math.prod(self.shape) != len(self.sizes) or len(self.start) != len(self.sizes):
            raise ValueError(f"sizes {self.sizes}, shape {self.shape} and start {self.start} do not fit each other")

    @classmethod
    def from_space(cls, space: spaces.Space[Any]) -> ActionFactors:
        """Factors of a `Discrete`, `MultiDiscrete` or `MultiBinary` space.

        Raises:
            TypeError: Any other space.
        """
        if isinstance(space, spaces.Discrete):
            return cls((int(space.n),), shape=(), start=(int(space.start),), dtype=space.dtype)
        if isinstance(space, spaces.MultiDiscrete):
            nvec = space.nvec.reshape(-1)
            start = np.asarray(space.start).reshape(-1)
            return cls(tuple(nvec), shape=space.nvec.shape, start=tuple(start), dtype=space.dtype)
        if isinstance(space, spaces.MultiBinary):
            shape = space.shape
            return cls((2,) * math.prod(shape), shape=shape, dtype=space.dtype)
        raise TypeError(f"action space {space} is not supported; supported are Discrete, MultiDiscrete and MultiBinary")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionFactors) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"ActionFactors(sizes={self.sizes}, shape={self.shape}, start={self.start}, dtype={self.dtype})"

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.sizes, self.shape, self.start, self.dtype

    # Index tensors are rebuilt rather than pickled: they may live on a device the reader does not have.
    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("sizes", "shape", "start", "dtype")}

    @cached_property
    def width(self) -> int:
        """`N`, the number of entries of a flat one-hot."""
        return sum(self.sizes)

    @cached_property
    def max_size(self) -> int:
        """`K`, the number of choices of the largest factor."""
        return max(self.sizes)

    @cached_property
    def equal_sizes(self) -> bool:
        """Whether all factors have the same number of choices, so that padding is a reshape."""
        return min(self.sizes) == self.max_size

    @cached_property
    def joint_size(self) -> int:
        """Number of joint actions, the product of the sizes."""
        return math.prod(self.sizes)

    @cached_property
    def max_entropy(self) -> float:
        """Entropy of the uniform policy, in nats."""
        return sum(math.log(n) for n in self.sizes)

    @cached_property
    def _constants(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    def _constant(self, name: str, device: torch.device) -> Tensor:
        key = (name, device)
        if key not in self._constants:
            # The first call may come in inference mode, and what is made there can never be saved for a gradient.
            with torch.inference_mode(False):
                self._constants[key] = torch.from_numpy(self._build(name)).to(device)
        return self._constants[key]

    def _build(self, name: str) -> NDArray[Any]:
        sizes = np.array(self.sizes)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        choice = np.arange(self.max_size)
        if name == "sizes":
            return sizes
        if name == "offsets":
            return offsets
        if name == "start":
            return np.array(self.start)
        if name == "owner":  # [N] -> the factor that an entry belongs to
            return np.repeat(np.arange(len(sizes)), sizes)
        if name == "valid":
            return choice < sizes[:, None]
        if name == "central":  # [N] -> -2 x^2, where the choices of a factor are spread evenly over -1 <= x <= 1
            places = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in sizes]
            return -2 * np.concatenate(places).astype(np.float32) ** 2
        if name == "gather":  # [D, K] -> position in the flat one-hot; padding points at the block's first entry
            return np.where(choice < sizes[:, None], offsets[:, None] + choice, offsets[:, None])
        # "scatter": [N] -> position in the padded block, row by row
        return np.flatnonzero(choice < sizes[:, None])

    def pad(self, flat: Tensor, fill: float) -> Tensor:
        """Flat `[..., N]` to padded blocks `[..., D, K]`, with `fill` where a factor has fewer than `K` choices."""
        batch = flat.shape[:-1]
        if self.equal_sizes:
            return flat.reshape(*batch, len(self.sizes), self.max_size)
        padded = flat.index_select(-1, self._constant("gather", flat.device).reshape(-1))
        valid = self._constant("valid", flat.device)
        return torch.where(valid, padded.reshape(*batch, *valid.shape), fill)

    def flatten(self, padded: Tensor) -> Tensor:
        """Padded blocks `[..., D, K]` to flat `[..., N]`; the inverse of `pad`."""
        flat = padded.flatten(-2)
        return flat if self.equal_sizes else flat.index_select(-1, self._constant("scatter", padded.device))

    def valid(self, device: torch.device) -> Tensor:
        """Boolean `[D, K]`: which entries of a padded block are choices and not padding."""
        return self._constant("valid", device)

    def indices(self, flat: Tensor) -> Tensor:
        """Index of the largest entry of each block of `flat` `[..., N]`: integers `[..., D]` counted from 0."""
        return self.pad(flat, -torch.inf).argmax(-1)

    def one_hot(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Indices `[..., D]` counted from 0 to a flat one-hot `[..., N]`."""
        flat = torch.zeros(*indices.shape[:-1], self.width, dtype=dtype, device=indices.device)
        return flat.scatter_(-1, self.positions(indices), 1.0)

    def positions(self, indices: Tensor) -> Tensor:
        """Indices `[..., D]` counted from 0 to their entries in a flat one-hot, integers `[..., D]` below `N`."""
        return indices + self._constant("offsets", indices.device)

    def repeat(self, rows: Tensor) -> Tensor:
        """One row for each factor, `[..., D, H]`, to one for each choice: `[..., N, H]`."""
        return rows.index_select(-2, self._constant("owner", rows.device))

    def central_logits(self, device: torch.device) -> Tensor:
        """Logits `[N]` of a policy that prefers the middle choices of each factor, for choices that are ordered.

        A normal distribution whose standard deviation is a quarter of the factor's range, cut off at both ends: with
        five choices .05, .24, .40, .24 and .05; with two it is uniform.
        """
        return self._constant("central", device)

    def vertices(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """All joint actions as one-hots `[joint_size, N]`, the last factor running fastest."""
        grid = torch.cartesian_prod(*(torch.arange(n, device=device) for n in self.sizes))
        return self.one_hot(grid.reshape(self.joint_size, len(self.sizes)), dtype)

    def repair(self, indices: Tensor, mask: Tensor) -> Tensor:
        """Replace choices that a mask forbids by allowed ones, always the same ones.

        Choice `k` of a factor with `m` allowed choices becomes the allowed choice number `k mod m`. Whoever knows the
        mask, the environment at the time or a critic afterwards, so agrees on what was done in place of the forbidden.

        Args:
            indices: Choices `[..., D]` counted from 0.
            mask: Boolean `[..., N]`, true where a choice is allowed; at least one of each factor must be.

        Returns:
            `[..., D]`, the same where the mask allows it.
        """
        allowed = self.pad(mask, False)
        rank = allowed.cumsum(-1) - 1
        wanted = indices % (rank[..., -1] + 1).clamp_min(1)
        substitutes = (allowed & (rank == wanted[..., None])).int().argmax(-1)
        return torch.where(allowed.gather(-1, indices[..., None]).squeeze(-1), indices, substitutes)

    def to_env(self, indices: Tensor) -> Tensor:
        """Indices `[..., D]` counted from 0 to environment actions `[..., *shape]`, still a tensor."""
        actions = indices + self._constant("start", indices.device) if any(self.start) else indices
        return actions.reshape((*indices.shape[:-1], *self.shape))

    def encode(
        self, actions: NDArray[Any] | np.integer[Any] | Tensor | int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Environment actions `[..., *shape]` to a flat one-hot `[..., N]`.

        Raises:
            ValueError: The shape is not that of the space, an action lies outside of it or is not a whole number.
        """
        tensor = actions if isinstance(actions, Tensor) else torch.tensor(actions)
        dims = tensor.ndim - len(self.shape)
        if dims < 0 or tensor.shape[dims:] != self.shape:
            raise ValueError(f"actions of shape {tuple(tensor.shape)} do not end in {self.shape}")
        whole = tensor.long()
        if tensor.is_floating_point() and not torch.equal(whole.to(tensor.dtype), tensor):
            raise ValueError("actions must be whole numbers")
        indices = whole.reshape(*tensor.shape[:dims], len(self.sizes)) - self._constant("start", tensor.device)
        if bool(((indices < 0) | (indices >= self._constant("sizes", tensor.device))).any()):
            raise ValueError(f"an action lies outside of its space: sizes {self.sizes}, start {self.start}")
        return self.one_hot(indices, dtype)

    def decode(self, one_hot: Tensor) -> NDArray[Any]:
        """Flat one-hot `[..., N]` to environment actions `[..., *shape]`, in the space's dtype."""
        return self.to_env(self.indices(one_hot)).cpu().numpy().astype(self.dtype)
