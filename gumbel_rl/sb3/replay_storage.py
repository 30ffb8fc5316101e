"""What a replay buffer keeps, as rows of arrays: observations of any space, final ones apart, actions as integers.

Shapes: `R` rows, `D` factors of an action, `N` entries of its one-hot.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.sb3.observations import check_observation_space
from gumbel_rl.wrappers import MASK_KEY, OneHotBox

Columns = dict[str, NDArray[Any]]
"""Stored observations by key, rows first; the key of a space that is no Dict is empty."""

IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Part:
    """One entry of a Dict, or a whole space that is none: how it looks outside, and whether it is kept as bits."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: bool

    @classmethod
    def of(cls, key: str, space: spaces.Space[Any]) -> _Part:
        shape = get_obs_shape(space)
        assert isinstance(shape, tuple)
        bits = isinstance(space, spaces.MultiBinary)
        if key == MASK_KEY and isinstance(space, spaces.Box):
            bits = bool((space.low >= 0).all() and (space.high <= 1).all())
        return cls(shape, np.dtype(space.dtype), bits)

    def zeros(self, *leading: int) -> NDArray[Any]:
        if self.bits:
            return np.zeros((*leading, -(-math.prod(self.shape) // 8)), dtype=np.uint8)
        return np.zeros((*leading, *self.shape), dtype=self.dtype)

    def encode(self, values: Any, rows: int) -> NDArray[Any]:
        if self.bits:
            return np.packbits(np.asarray(values).reshape(rows, -1) > 0.5, axis=1)
        return np.asarray(values, dtype=self.dtype).reshape(rows, *self.shape)

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        if not self.bits:
            return stored
        values = np.unpackbits(stored, axis=1, count=math.prod(self.shape))
        return values.reshape(len(stored), *self.shape).astype(self.dtype)


class ObservationLayout:
    """How observations of a space are stored: in the space's own dtype; MultiBinary and action masks as bits.

    Args:
        space: Box, Discrete, MultiDiscrete of one dimension, MultiBinary or a Dict of these. A mask in a Box is kept
            as bits where the Box is bounded by 0 and 1.

    Raises:
        TypeError: Any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        check_observation_space(space)
        self.is_dict = isinstance(space, spaces.Dict)
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.parts = {key: _Part.of(key, part) for key, part in parts.items()}

    def zeros(self, *leading: int) -> Columns:
        """Columns `[*leading, ...]` whose memory the system hands out only when it is written to."""
        return {key: part.zeros(*leading) for key, part in self.parts.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(column.nbytes for column in self.zeros(1).values())

    def encode(self, observations: Any, rows: int) -> Columns:
        """Observations `[R, ...]`, an array or a dict of arrays, as columns; these may share memory with them."""
        values = observations if self.is_dict else {"": observations}
        return {key: part.encode(values[key], rows) for key, part in self.parts.items()}

    def decode(self, columns: Columns) -> Any:
        """Columns `[R, ...]` as observations, in Stable-Baselines3's shapes: `[R, 1]` for Discrete."""
        values = {key: part.decode(columns[key]) for key, part in self.parts.items()}
        return values if self.is_dict else values[""]


def identical(one: Columns, other: Columns) -> bool:
    """Whether rows are the same in every byte; a NaN equals itself."""
    return all(column.tobytes() == other[key].tobytes() for key, column in one.items())


def differing(one: Columns, other: Columns) -> NDArray[np.bool_]:
    """Which of `R` rows differ in any byte."""
    rows = len(next(iter(one.values())))
    found = np.zeros(rows, dtype=np.bool_)
    for key, column in one.items():
        pair = (np.ascontiguousarray(x).reshape(rows, -1).view(np.uint8) for x in (column, other[key]))
        found |= np.not_equal(*pair).any(1)
    return found


class FinalObservations:
    """The observations that episodes ended with, in numbered slots that are used again when released.

    Slot 0 is never given away: it means that the episode goes on.

    Args:
        layout: How one is stored.
        limit: The most there can be at a time.
    """

    def __init__(self, layout: ObservationLayout, limit: int) -> None:
        self.layout = layout
        self.limit = limit
        self.columns = layout.zeros(1)
        self.free = np.zeros(0, dtype=np.int32)

    def keep(self, columns: Columns) -> NDArray[np.int32]:
        """Slots of `R` final observations, which are copied."""
        rows = len(next(iter(columns.values())))
        if rows > len(self.free):
            self._grow(rows - len(self.free))
        slots, self.free = self.free[-rows:], self.free[:-rows]
        for key, column in columns.items():
            self.columns[key][slots] = column
        return slots

    def release(self, slots: IntArray) -> None:
        """Give slots back; zeros among them are ignored."""
        if slots.any():
            self.free = np.concatenate([self.free, slots[slots > 0]], dtype=np.int32)

    def _grow(self, missing: int) -> None:
        size = len(next(iter(self.columns.values())))
        # By a third, so that copying stays cheap on average; where every step is an end, to no more than there can be.
        new = max(size + missing, min(size + size // 3 + 8, self.limit + 1))
        columns = self.layout.zeros(new)
        for key, column in self.columns.items():
            columns[key][:size] = column
        self.columns = columns
        # The lowest on top: what is not needed yet is not touched.
        self.free = np.concatenate([np.arange(new - 1, size - 1, -1), self.free], dtype=np.int32)


class ActionLayout:
    """How actions are stored: as the smallest unsigned integers that hold their indices, `[R, D]`.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary or `OneHotBox`.

    Raises:
        TypeError: Any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.one_hot = isinstance(space, OneHotBox)
        self.factors = space.factors if isinstance(space, OneHotBox) else ActionFactors.from_space(space)
        self.dtype = np.min_scalar_type(self.factors.max_size - 1)
        self._sizes = np.array(self.factors.sizes, dtype=np.uint64)
        self._start = np.array(self.factors.start) if any(self.factors.start) else None

    def zeros(self, *leading: int) -> NDArray[Any]:
        """An array `[*leading, D]`."""
        return np.zeros((*leading, len(self._sizes)), dtype=self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.zeros(1).nbytes

    def encode(self, actions: Any, rows: int) -> NDArray[Any]:
        """`R` actions, as the environment takes them or as entries of a `OneHotBox`, as indices `[R, D]` from 0.

        Raises:
            ValueError: An action lies outside of its space.
        """
        if self.one_hot:
            return self.factors.indices(torch.as_tensor(actions).reshape(rows, -1)).numpy()
        given = np.asarray(actions).reshape(rows, len(self._sizes))
        indices: NDArray[Any] = given.astype(np.int64)
        if self._start is not None:
            indices -= self._start
        # Without a sign, a negative number is larger than any size. Counting is several times quicker than any().
        outside = np.count_nonzero(indices.view(np.uint64) >= self._sizes)
        if outside or (given.dtype.kind == "f" and np.count_nonzero(given % 1)):
            raise ValueError(f"an action is not in {self.space}: {given.tolist()}")
        return indices

    def decode(self, stored: NDArray[Any], device: torch.device) -> Tensor:
        """Stored actions `[R, D]` as int64 indices, or for a `OneHotBox` as its entries `[R, N]` of -1 and +1."""
        indices = torch.from_numpy(stored.astype(np.int64)).to(device)
        return self.factors.one_hot(indices) * 2 - 1 if self.one_hot else indices


def warn_of_memory(needed: int, what: str, stacklevel: int) -> None:
    """Warn if fewer bytes are free than needed, where psutil is there to know."""
    try:
        import psutil  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return
    free = psutil.virtual_memory().available
    if needed > free:
        warnings.warn(
            f"{what} takes {needed / 1e9:.3g} GB, but {free / 1e9:.3g} GB of memory are free; choose a smaller "
            "buffer_size",
            stacklevel=stacklevel,
        )
