"""VectorEnvAdapter: a Gymnasium `VectorEnv` as a Stable-Baselines3 `VecEnv`.

The two differ in what happens when an episode ends. SB3 returns the first observation of the next episode and puts the
last one of the finished episode into `infos[i]["terminal_observation"]`. Gymnasium's engines have three kinds of
autoreset: `SAME_STEP` resets within the step, as SB3 does, with the last observation in the infos; `DISABLED` leaves
resets to the caller; `NEXT_STEP` inserts a step that is no transition, which `partial_reset` avoids.

Shapes: `n` sub-environments.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from gumbel_rl.sb3.partial_reset import Mask, find_partial_reset


def _own(space: spaces.Space[Any], batch: Any) -> Any:
    """A copy of a batch of observations in the space's dtype: engines may go on to write into theirs."""
    if isinstance(space, spaces.Dict):
        return {key: np.array(batch[key], dtype=sub.dtype, order="C") for key, sub in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(np.array(part, dtype=sub.dtype, order="C") for part, sub in zip(batch, space, strict=True))
    return np.array(batch, dtype=space.dtype, order="C")


def _row(batch: Any, index: int) -> Any:
    """A copy of the observation at `index` of a batch, or of an object array of observations (as `final_obs` is)."""
    if isinstance(batch, dict):
        return {key: _row(value, index) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_row(value, index) for value in batch)
    row = batch[index]
    if isinstance(row, dict):
        return {key: np.array(value) for key, value in row.items()}
    if isinstance(row, tuple):
        return tuple(np.array(value) for value in row)
    return row.copy() if isinstance(row, (np.ndarray, np.generic)) else row


def _assign(target: Any, mask: Mask, source: Any) -> None:
    """Write the rows of `source` under the mask into `target`; both are batches of observations."""
    if isinstance(target, dict):
        for key, value in target.items():
            value[mask] = source[key][mask]
    elif isinstance(target, tuple):
        for value, new in zip(target, source, strict=True):
            value[mask] = new[mask]
    else:
        target[mask] = source[mask]


def _split(vector_infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """One dictionary a sub-environment from Gymnasium's dictionary of arrays, where `_key` says who has `key`."""
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in vector_infos.items():
        if key.startswith("_") and key[1:] in vector_infos:
            continue
        present = vector_infos.get(f"_{key}")
        holders = range(count) if present is None else np.flatnonzero(present).tolist()
        shared = not isinstance(value, dict) and np.ndim(value) == 0
        values = _split(value, count) if isinstance(value, dict) else value
        for index in holders:
            rows[index][key] = value if shared else values[index]
    return rows


def _check_observation_space(space: spaces.Space[Any]) -> None:
    flat = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    parts: Iterable[spaces.Space[Any]] = [space]
    if isinstance(space, spaces.Dict):
        parts = space.values()
    elif isinstance(space, spaces.Tuple):
        parts = space
    if not all(isinstance(part, flat) for part in parts):
        raise TypeError(
            f"observation space {space} is not supported; supported are Box, Discrete, MultiDiscrete, MultiBinary, and "
            "a Dict or Tuple of these"
        )


class VectorEnvAdapter(VecEnv):
    """A Gymnasium vector environment ("engine") as a Stable-Baselines3 `VecEnv`.

    Transitions are exactly those of SB3's own `DummyVecEnv`: see the module. Every step is a transition of every
    sub-environment. Episode statistics are not included; SB3's `VecMonitor` adds them.

    An engine that holds sub-environments (`SyncVectorEnv`, `AsyncVectorEnv`) answers `get_attr`, `set_attr` and
    `env_method` from them; any other answers for itself, with one value for all.

    Args:
        engine: The engine. It belongs to the adapter from now on: stepping it elsewhere loses transitions.

    Raises:
        TypeError: Not a `VectorEnv`, an observation space that SB3 does not support, or a kind of autoreset that cannot
            be turned into SB3's (see `partial_reset`).
    """

    def __init__(self, engine: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(engine, VectorEnv):
            raise TypeError(f"expected a gymnasium.vector.VectorEnv, got {type(engine).__name__}")
        _check_observation_space(engine.single_observation_space)
        self.engine = engine
        self.spec = engine.spec
        self._partial_reset = find_partial_reset(engine)
        self._action_dtype = engine.action_space.dtype
        self._actions: NDArray[Any] | None = None
        super().__init__(engine.num_envs, engine.single_observation_space, engine.single_action_space)
        self.metadata = dict(engine.metadata)

    def reset(self) -> VecEnvObs:
        """Reset all sub-environments, with the seeds and options set for this reset, if any.

        Raises:
            ValueError: Different options for different sub-environments, which a `VectorEnv` cannot have.
        """
        if any(options != self._options[0] for options in self._options):
            raise ValueError("a VectorEnv resets all sub-environments with the same options")
        # An engine derives all seeds from the first, and those with sub-environments exactly as `seed` has set them.
        observations, infos = self.engine.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = _split(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        owned: VecEnvObs = _own(self.observation_space, observations)
        return owned

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions `[n, ...]` for `step_wait`."""
        # Some engines check the dtype, and policies differ in theirs.
        self._actions = np.asarray(actions, dtype=self._action_dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """Step every sub-environment, and reset those that are done.

        Returns:
            Observations `[n, ...]` (after a reset where done), rewards `[n]` float32, dones `[n]` bool, and `n` infos.
        """
        batch, reward, terminated, truncated, vector_infos = self.engine.step(self._actions)
        observations = _own(self.observation_space, batch)
        rewards = np.array(reward, dtype=np.float32)
        truncated = np.asarray(truncated, dtype=np.bool_)
        dones = truncated | np.asarray(terminated, dtype=np.bool_)
        if not dones.any():
            infos = _split(vector_infos, self.num_envs)
            for info in infos:
                info["TimeLimit.truncated"] = False
            return observations, rewards, dones, infos

        timeouts = (truncated & ~np.asarray(terminated, dtype=np.bool_)).tolist()
        done_indices = np.flatnonzero(dones).tolist()
        if self._partial_reset is None:
            infos, last_observations = self._unpack_same_step(vector_infos, done_indices)
        else:
            infos = _split(vector_infos, self.num_envs)
            # Taken before the reset, which may write into what the engine has returned.
            last_observations = [_row(observations, index) for index in done_indices]
            first_observations, reset_infos = self._partial_reset(self.engine, dones)
            _assign(observations, dones, first_observations)
            rows = _split(reset_infos, self.num_envs)
            for index in done_indices:
                self.reset_infos[index] = rows[index]
        for info, timeout in zip(infos, timeouts, strict=True):
            info["TimeLimit.truncated"] = timeout
        for index, last in zip(done_indices, last_observations, strict=True):
            infos[index]["terminal_observation"] = last
        return observations, rewards, dones, infos

    def _unpack_same_step(
        self, vector_infos: dict[str, Any], done_indices: list[int]
    ) -> tuple[list[dict[str, Any]], list[Any]]:
        """Infos of the step, and the last observation of each finished sub-environment."""
        if "final_obs" not in vector_infos:
            raise RuntimeError(f"{type(self.engine.unwrapped).__name__} ended an episode without infos['final_obs']")
        final = {"final_obs", "_final_obs", "final_info", "_final_info"}
        infos = _split({key: value for key, value in vector_infos.items() if key not in final}, self.num_envs)
        final_infos = _split(vector_infos.get("final_info", {}), self.num_envs)
        for index in done_indices:
            # What the engine gives for a finished sub-environment comes from its reset.
            self.reset_infos[index], infos[index] = infos[index], final_infos[index]
        return infos, [_row(vector_infos["final_obs"], index) for index in done_indices]

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """A frame `[height, width, 3]` of each sub-environment; None each unless the render mode is `rgb_array`."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"there are no images in render mode {self.render_mode}, only in rgb_array", stacklevel=2)
            return [None] * self.num_envs
        frames = self.engine.render()
        return [None] * self.num_envs if frames is None else [np.asarray(frame) for frame in frames]

    @property
    def _sub_environments(self) -> SyncVectorEnv | AsyncVectorEnv | None:
        """The engine, if it holds sub-environments that can be asked one by one."""
        base = self.engine.unwrapped
        return base if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)) else None

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Values of an attribute (or methods), one for each index.

        Raises:
            AttributeError: There is no such attribute.
        """
        chosen = list(self._get_indices(indices))
        holder = self._sub_environments
        if holder is None:
            return [getattr(self._owner(attr_name), attr_name)] * len(chosen)
        # Asked first, because a worker process does not survive an AttributeError; and by `get_wrapper_attr`, because
        # the engines' own `get_attr` calls methods.
        if not all(holder.call("has_wrapper_attr", attr_name)):
            raise AttributeError(f"the sub-environments have no attribute {attr_name!r}")
        values = holder.call("get_wrapper_attr", attr_name)
        return [values[index] for index in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of sub-environments.

        Raises:
            ValueError: An engine without separate sub-environments is asked to set it for some of them only.
        """
        chosen = set(self._get_indices(indices))
        holder = self._sub_environments
        if holder is not None:
            partial = len(chosen) < self.num_envs
            kept = self.get_attr(attr_name) if partial else [value] * self.num_envs
            holder.set_attr(attr_name, [value if index in chosen else kept[index] for index in range(self.num_envs)])
        elif len(chosen) < self.num_envs:
            raise ValueError(f"{self.engine} has one {attr_name!r} for all its sub-environments")
        else:
            setattr(self._owner(attr_name, default=self.engine.unwrapped), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Results of a method, one for each index.

        An engine that steps all sub-environments in one piece is called once. An array with a row for each of them, as
        of `action_masks()`, is given row by row, anything else to every index.

        Raises:
            AttributeError: There is no such method.
            ValueError: Only some sub-environments of an `AsyncVectorEnv`, which calls all or none.
        """
        chosen = list(self._get_indices(indices))
        holder = self._sub_environments
        if isinstance(holder, AsyncVectorEnv):
            if set(chosen) != set(range(self.num_envs)):
                raise ValueError("an AsyncVectorEnv calls a method of all its sub-environments or of none")
            if not all(holder.call("has_wrapper_attr", method_name)):
                raise AttributeError(f"the sub-environments have no method {method_name!r}")
            results = holder.call(method_name, *method_args, **method_kwargs)
            return [results[index] for index in chosen]
        if holder is not None:
            return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, chosen)]
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        by_row = isinstance(result, np.ndarray) and result.ndim > 1 and len(result) == self.num_envs
        return [result[index] if by_row else result for index in chosen]

    def _owner(self, name: str, default: Any = None) -> Any:
        """The outermost layer of the engine that has an attribute `name`."""
        layer: Any = self.engine
        while not hasattr(layer, name):
            if layer is self.engine.unwrapped:
                if default is not None:
                    return default
                raise AttributeError(f"{self.engine} has no attribute {name!r}")
            layer = layer.env
        return layer

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each sub-environment is wrapped so; false where that cannot be seen, as in another process."""
        holder = self._sub_environments
        envs: Sequence[Any] = holder.envs if isinstance(holder, SyncVectorEnv) else [None] * self.num_envs
        chosen = self._get_indices(indices)
        return [envs[index] is not None and is_wrapped(envs[index], wrapper_class) for index in chosen]
