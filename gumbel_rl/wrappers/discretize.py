"""Continuous actions in bins: a bounded Box as a MultiDiscrete, each dimension of which chooses from a grid of values.

Shapes: `D` dimensions of the Box, flattened in C order; `K` values of the longest grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

Bins = int | Sequence[int | ArrayLike] | NDArray[Any]
"""A number of bins for all dimensions, or for each dimension its number or its grid of values."""


class ActionGrid:
    """The values that each dimension of a bounded Box may take, and the way from choices to actions.

    The choices of a dimension are ordered: the values ascend with them. A critic or policy that wants to use this finds
    the values in `action_values`.

    Args:
        space: The Box, of any shape and dtype.
        bins: How many values each dimension takes, or an entry for each dimension, in C order: how many, or which ones
            (ascending, within the bounds). Values that are not given are evenly spaced and include both bounds (a
            single one is the middle), rounded where the Box holds integers.

    Attributes:
        space: The MultiDiscrete space of the choices, a factor for each dimension.
        grids: The values of each dimension, `D` read-only arrays of the Box's dtype.
        action_values: The same as `[D, K]`, read-only. Shorter rows repeat their last value at the end: `space.nvec`
            says how many are meant.

    Raises:
        TypeError: The space is no Box, or `bins` is neither a number nor a sequence.
        ValueError: The Box has no dimension or an unbounded one (which the message names), or `bins` does not fit it.
    """

    def __init__(self, space: spaces.Space[Any], bins: Bins) -> None:
        if not isinstance(space, spaces.Box):
            raise TypeError(f"only a Box action space can be divided into bins, got {space}")
        names = [_name(index, space.shape) for index in np.ndindex(space.shape)]
        if not names:
            raise ValueError(f"an action space without dimensions cannot be divided into bins, got {space}")
        unbounded = np.flatnonzero(~(space.bounded_below & space.bounded_above))
        if len(unbounded):
            at = unbounded[0]
            raise ValueError(
                f"only a bounded action space can be divided into bins, but {names[at]} of {space} ranges from "
                f"{space.low.flat[at]} to {space.high.flat[at]}"
            )
        wanted = _by_dimension(bins, len(names))
        bounds = zip(space.low.flat, space.high.flat, strict=True)
        self.grids = tuple(
            _uniform(low, high, int(entry), name) if _is_number(entry) else _given(low, high, entry, name)
            for name, entry, (low, high) in zip(names, wanted, bounds, strict=True)
        )
        sizes = [len(grid) for grid in self.grids]
        self.space = spaces.MultiDiscrete(sizes)
        padded = [np.concatenate([grid, np.repeat(grid[-1:], max(sizes) - len(grid))]) for grid in self.grids]
        self.action_values: NDArray[Any] = np.stack(padded)
        for values in (*self.grids, self.action_values):
            values.flags.writeable = False
        self._shape = space.shape
        self._sizes = np.array(sizes)
        self._values = self.action_values.reshape(-1)
        self._rows = np.arange(len(sizes)) * max(sizes)  # where in them each dimension's begin

    def actions(self, choices: NDArray[Any]) -> NDArray[Any]:
        """Choices `[..., D]`, integers, to new arrays of actions `[..., *shape]` of the Box's dtype.

        Raises:
            ValueError: They have another shape or dtype, or one is out of range.
        """
        choices = np.asarray(choices)
        if choices.shape[-1:] != self._sizes.shape or choices.dtype.kind not in "iu":
            raise ValueError(
                f"expected integers, one for each of the {len(self._sizes)} dimensions, got an array of shape "
                f"{choices.shape} and type {choices.dtype}"
            )
        if not ((choices >= 0) & (choices < self._sizes)).all():
            raise ValueError(f"there are {self._sizes.tolist()} choices, counted from 0, got {choices.tolist()}")
        return self._values[choices + self._rows].reshape(choices.shape[:-1] + self._shape)


def _name(index: tuple[int, ...], shape: tuple[int, ...]) -> str:
    return f"dimension {index[0] if len(shape) == 1 else index}"


def _is_number(entry: Any) -> bool:
    return isinstance(entry, Integral) and not isinstance(entry, bool)


def _by_dimension(bins: Any, dimensions: int) -> list[Any]:
    """An entry for each dimension, a number of bins or a grid."""
    if _is_number(bins):
        return [bins] * dimensions
    sequence = isinstance(bins, Sequence) and not isinstance(bins, (str, bytes))
    if not sequence and not (isinstance(bins, np.ndarray) and bins.ndim):
        raise TypeError(f"bins must be a whole number or a sequence with an entry for each dimension, got {bins!r}")
    if len(bins) != dimensions:
        alone = "; a grid for a single dimension is written [[...]]" if dimensions == 1 else ""
        raise ValueError(f"bins needs one entry a dimension, {dimensions} in all, got {len(bins)}{alone}")
    return list(bins)


def _uniform(low: Any, high: Any, count: int, name: str) -> NDArray[Any]:
    if count < 1:
        raise ValueError(f"there must be at least one bin, got {count} for {name}")
    # A mean of the bounds, not steps from one: both are met exactly, as is the middle, and nothing overflows.
    share = np.linspace(0.0, 1.0, count) if count > 1 else np.array([0.5])
    values = float(low) * (1.0 - share) + float(high) * share
    grid: NDArray[Any] = (np.rint(values) if low.dtype.kind in "iu" else values).astype(low.dtype)
    if np.any(grid[1:] <= grid[:-1]):
        raise ValueError(f"{name}, from {low} to {high} in {low.dtype}, has no {count} different values")
    return grid


def _given(low: Any, high: Any, values: Any, name: str) -> NDArray[Any]:
    given = np.asarray(values)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iuf":
        raise ValueError(f"the bins of {name} must be a whole number or an array of values, got {values!r}")
    with np.errstate(over="ignore", invalid="ignore"):
        grid = given.astype(low.dtype)
    # Compared in the Box's dtype: 0.7 is more than float32(0.7), and may be its bound.
    within = np.all((grid >= low) & (grid <= high))
    if not within or (low.dtype.kind in "iu" and not np.array_equal(grid, given)):
        raise ValueError(f"the values of {name} must be {low.dtype} from {low} to {high}, got {given.tolist()}")
    if np.any(grid[1:] <= grid[:-1]):
        raise ValueError(f"the values of {name} must ascend strictly, got {given.tolist()} in {low.dtype}")
    return grid


def _recorded(bins: Any) -> Any:
    """`bins` of plain lists and numbers, which a specification can be written to JSON with."""
    if _is_number(bins):
        return int(bins)
    return [int(entry) if _is_number(entry) else np.asarray(entry).tolist() for entry in bins]


class DiscretizeActions(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Offers a bounded Box action space as a MultiDiscrete one.

    Args:
        env: The environment.
        bins: As of `ActionGrid`: a number for all dimensions, or an entry for each dimension, a number or an array of
            values.

    Attributes:
        grid: The `ActionGrid`.

    Raises:
        TypeError: The action space is no Box, `env` is no Gymnasium environment, or `bins` is neither a number nor a
            sequence.
        ValueError: The Box is unbounded, or `bins` does not fit it; or, when stepping, an action is not in the space.
    """

    def __init__(self, env: gym.Env[Any, Any], bins: Bins) -> None:
        if not isinstance(env, gym.Env):
            raise TypeError(
                f"DiscretizeActions wraps one Gymnasium environment, got {type(env).__name__}; DiscretizeVectorActions "
                "wraps vector environments"
            )
        self.grid = ActionGrid(env.action_space, bins)
        # So that Gymnasium can make the environment again from its spec.
        RecordConstructorArgs.__init__(self, bins=_recorded(bins))
        gym.ActionWrapper.__init__(self, env)
        self.action_space = self.grid.space

    @property
    def grids(self) -> tuple[NDArray[Any], ...]:
        """The values of each dimension."""
        return self.grid.grids

    @property
    def action_values(self) -> NDArray[Any]:
        """The values as `[D, K]`, ascending; of a `VecEnv` it is `env.get_attr("action_values")[0]`."""
        return self.grid.action_values

    def action(self, action: NDArray[Any]) -> NDArray[Any]:
        """Choices `[D]` to an action of the Box."""
        if np.ndim(action) != 1:
            raise ValueError(f"expected one action, {self.action_space}, got an array of shape {np.shape(action)}")
        return self.grid.actions(action)


class DiscretizeVectorActions(VectorActionWrapper[Any, Any, Any, Any]):
    """`DiscretizeActions` for Gymnasium's vector environments: all sub-environments' actions at once.

    Args:
        env: The vector environment.
        bins: As of `ActionGrid`.

    Attributes:
        grid: The `ActionGrid`.

    Raises:
        TypeError: As of `DiscretizeActions`, or `env` is no vector environment.
        ValueError: As of `DiscretizeActions`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], bins: Bins) -> None:
        VectorActionWrapper.__init__(self, env)
        self.grid = ActionGrid(env.single_action_space, bins)
        self.single_action_space = self.grid.space
        self.action_space = batch_space(self.grid.space, env.num_envs)

    @property
    def grids(self) -> tuple[NDArray[Any], ...]:
        """The values of each dimension."""
        return self.grid.grids

    @property
    def action_values(self) -> NDArray[Any]:
        """The values as `[D, K]`, ascending."""
        return self.grid.action_values

    def actions(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Choices `[n, D]` of `n` sub-environments to actions of the Box."""
        return self.grid.actions(actions)
