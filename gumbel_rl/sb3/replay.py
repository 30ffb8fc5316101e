"""A replay buffer for discrete actions: small integers, observations once, n-step returns for every kind of space.

Shapes: `E` environments, `B` rows of a batch, `D` factors of an action, `n` steps of a return.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from gumbel_rl.sb3.replay_storage import (
    ActionLayout,
    Columns,
    FinalObservations,
    IntArray,
    ObservationLayout,
    differing,
    identical,
    warn_of_memory,
)


class Transitions(NamedTuple):
    """A batch, with the names of Stable-Baselines3's `ReplayBufferSamples`.

    Attributes:
        observations: `[B, ...]`, or a dict of such.
        actions: Indices `[B, D]` counted from 0, int64; for a `OneHotBox` its entries `[B, N]` of -1 and +1.
        next_observations: `[B, ...]`, after the last step of the return.
        dones: `[B, 1]`, 1 where that step terminated the episode.
        rewards: Sums `[B, 1]` of the discounted rewards of up to `n` steps.
        discounts: `[B, 1]`, what the value of `next_observations` counts: `gamma ** steps`, 0 after a termination.
    """

    observations: PyTorchObs
    actions: Tensor
    next_observations: PyTorchObs
    dones: Tensor
    rewards: Tensor
    discounts: Tensor


class DiscreteReplayBuffer(ReplayBuffer):
    """Replay buffer of an off-policy algorithm whose actions are discrete.

    An observation is kept once: the next observation of a row is the observation of the row after it. Where an episode
    ends, the final observation is kept apart; it is that which a truncated episode bootstraps from. The same is done
    where rows do not continue one another for another reason, such as an environment that was reset between two calls
    of `learn()`: such a break is taken for a truncation.

    It may be given to Stable-Baselines3's algorithms as `replay_buffer_class`, for example to `DQN`.

    Args:
        buffer_size: Number of transitions, of all environments together.
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary or a Dict of these.
        action_space: Discrete, MultiDiscrete, MultiBinary, or a `OneHotBox`, which the plug-in policies act in.
        device: Where batches are put.
        n_envs: `E`.
        optimize_memory_usage: Must be false: Stable-Baselines3's switch for keeping observations once, which is
            always so here and needs no compromise over truncations.
        handle_timeout_termination: Whether to bootstrap where a time limit cut an episode short; if not, it counts as
            terminated.
        gamma: Discount, a step. Stock algorithms cannot hand theirs on: give the same in `replay_buffer_kwargs`.
        n_steps: `n`. A return stops earlier where the episode ends, and at the newest transition.
        include_newest: Begin every batch with the newest transition of each environment (combined experience replay,
            Zhang and Sutton 2017, https://arxiv.org/abs/1712.01275).
        seed: Of the generator that draws the rows; `None` for the seed torch was given last, which is the algorithm's.

    Raises:
        TypeError: A space is of another kind.
        ValueError: A number is out of its range, or `optimize_memory_usage` is true.
        MemoryError: The system refuses to reserve that much memory. Where it reserves more than is free, and psutil is
            installed, there is a warning.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        gamma: float,
        n_steps: int = 1,
        include_newest: bool = False,
        seed: int | None = None,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("this buffer keeps observations once in any case: leave optimize_memory_usage False")
        if buffer_size < 1 or n_envs < 1 or n_steps < 1 or not 0 <= gamma <= 1:
            raise ValueError(
                "buffer_size, n_envs and n_steps must be at least 1 and gamma between 0 and 1, got "
                f"{buffer_size}, {n_envs}, {n_steps} and {gamma}"
            )
        self.observation_layout, self.action_layout = ObservationLayout(observation_space), ActionLayout(action_space)
        # Stable-Baselines3 knows no MultiBinary actions of several dimensions: it is told of plain factors.
        flat_space = spaces.MultiDiscrete(list(self.action_layout.factors.sizes))
        BaseBuffer.__init__(self, buffer_size, observation_space, flat_space, device, n_envs)
        self.action_space = action_space
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps = n_steps
        self.gamma = gamma
        self.include_newest = include_newest
        self.rng = np.random.default_rng(torch.initial_seed() if seed is None else seed)
        self._allocate()

    def _allocate(self) -> None:
        # One row more than there are transitions: it holds the observations after the newest.
        self._rows = self.buffer_size + 1
        shape = (self._rows, self.n_envs)
        size = (self.observation_layout.row_bytes + self.action_layout.row_bytes + 4 + 1 + 4) * self._rows * self.n_envs
        warn_of_memory(size, f"a full replay buffer of {self.buffer_size * self.n_envs:,} transitions", stacklevel=4)
        try:
            self.stored = self.observation_layout.zeros(*shape)
            self.actions = self.action_layout.zeros(*shape)
            self.rewards = np.zeros(shape, dtype=np.float32)
            self.terminated = np.zeros(shape, dtype=np.bool_)
            # Where an episode ended with that row: the slot of its final observation, otherwise 0.
            self.slots = np.zeros(shape, dtype=np.int32)
        except MemoryError as error:
            raise MemoryError(
                f"{self.buffer_size * self.n_envs:,} transitions need {size / 1e9:.3g} "
                "GB, which the system does not have; choose a smaller buffer_size"
            ) from error
        self.finals = FinalObservations(self.observation_layout, self._rows * self.n_envs)

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        self.slots[:] = 0
        self.finals = FinalObservations(self.observation_layout, self._rows * self.n_envs)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Add a transition of each environment.

        Args:
            obs: `[E, ...]`, an array or a dict of arrays.
            next_obs: `[E, ...]`, the final observation where an episode ended.
            action: `[E, *shape]`, as the environment takes it.
            reward: `[E]`.
            done: `[E]`, whether the episode ended.
            infos: `E` dicts, with `TimeLimit.truncated` where it did not terminate.

        Raises:
            ValueError: An action lies outside of its space.
        """
        indices = self.action_layout.encode(action, self.n_envs)
        row, after = self.pos, (self.pos + 1) % self._rows
        self._begin(row, self.observation_layout.encode(obs, self.n_envs))
        # The oldest transition makes room for the observations after this one.
        if self.full:
            self.finals.release(self.slots[after])
            self.slots[after] = 0
        following = self.observation_layout.encode(next_obs, self.n_envs)
        for key, column in following.items():
            self.stored[key][after] = column
        self.actions[row] = indices
        self.rewards[row] = reward
        self.terminated[row] = False
        if np.count_nonzero(done):
            done = np.asarray(done, dtype=np.bool_)
            truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=np.bool_)
            self.terminated[row] = done & ~(truncated & self.handle_timeout_termination)
            self._end(row, done, following)
        self.pos = after
        self.full = self.full or after == self.buffer_size

    def _begin(self, row: int, observations: Columns) -> None:
        """Write the observations that a row begins with, and end the episodes that these do not continue."""
        expected = {key: column[row] for key, column in self.stored.items()}
        if identical(observations, expected):
            return
        if self.size():
            self._end(row - 1, differing(observations, expected) & (self.slots[row - 1] == 0), expected)
        for key, column in observations.items():
            self.stored[key][row] = column

    def _end(self, row: int, where: NDArray[np.bool_], finals: Columns) -> None:
        if where.any():
            self.slots[row, where] = self.finals.keep({key: column[where] for key, column in finals.items()})

    def sample(  # type: ignore[override]  # SB3 has a class of its own for Dict observations too
        self, batch_size: int, env: VecNormalize | None = None, rng: np.random.Generator | None = None
    ) -> Transitions:
        """Transitions drawn uniformly with replacement, of all that are held.

        Args:
            batch_size: `B`.
            env: Normalises observations and rewards, if given.
            rng: Draws the rows in place of the buffer's own generator.

        Raises:
            ValueError: Nothing has been added yet.
        """
        size = self.size() * self.n_envs
        if not size:
            raise ValueError("there is nothing to sample: no transition has been added yet")
        ages = (self.rng if rng is None else rng).integers(size, size=batch_size)
        if self.include_newest:
            ages[: self.n_envs] = np.arange(min(self.n_envs, batch_size))
        return self._get_samples((self.pos * self.n_envs - 1 - ages) % (self._rows * self.n_envs), env)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: IntArray, env: VecNormalize | None = None
    ) -> Transitions:
        """Transitions of given rows `[B]`: the row in the ring times `E`, plus the environment."""
        last, steps, returns = self._n_step(batch_inds, env)
        following = self._gather((last + self.n_envs) % (self._rows * self.n_envs))
        slots = self.slots.ravel()[last]
        ended = np.flatnonzero(slots)
        if len(ended):
            for key, column in following.items():
                column[ended] = self.finals.columns[key][slots[ended]]
        terminated = self.terminated.ravel()[last]
        discounts = np.where(terminated, 0.0, np.float64(self.gamma) ** steps).astype(np.float32)
        return Transitions(
            observations=self._observations(self._gather(batch_inds), env),
            actions=self.action_layout.decode(self.actions.reshape(-1, self.actions.shape[2])[batch_inds], self.device),
            next_observations=self._observations(following, env),
            dones=self._to_torch(terminated[:, None].astype(np.float32)),
            rewards=self._to_torch(returns[:, None]),
            discounts=self._to_torch(discounts[:, None]),
        )

    def _n_step(self, rows: IntArray, env: VecNormalize | None) -> tuple[IntArray, IntArray, NDArray[np.float32]]:
        """The last row, the number of steps and the discounted rewards `[B]` of the returns that begin in rows."""
        if self.n_steps == 1:
            return rows, np.ones_like(rows), self._normalize_reward(self.rewards.ravel()[rows], env)
        offsets = np.arange(self.n_steps)
        window = (rows[:, None] + offsets * self.n_envs) % (self._rows * self.n_envs)  # [B, n]
        newest = (self.pos - 1) % self._rows
        stops = (self.slots.ravel()[window] > 0) | (window // self.n_envs == newest)
        stops[:, -1] = True
        steps = stops.argmax(1) + 1
        rewards = self._normalize_reward(self.rewards.ravel()[window], env)
        # Rows after the last may hold anything, even what times 0 is no number.
        terms = np.where(offsets < steps[:, None], rewards * np.float64(self.gamma) ** offsets, 0.0)
        return window[np.arange(len(rows)), steps - 1], steps, terms.sum(1).astype(np.float32)

    def _gather(self, rows: IntArray) -> Columns:
        flat = {key: column.reshape(-1, *column.shape[2:]) for key, column in self.stored.items()}
        return {key: column.take(rows, axis=0) for key, column in flat.items()}

    def _observations(self, columns: Columns, env: VecNormalize | None) -> PyTorchObs:
        observations: PyTorchObs = self._to_torch(self._normalize_obs(self.observation_layout.decode(columns), env))
        return observations

    def _to_torch(self, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: self._to_torch(value) for key, value in values.items()}
        return torch.as_tensor(values, device=self.device)  # no copy: the arrays were made for this batch

    # What has never been written is not saved, and takes no memory after loading either.
    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if not self.full:
            state |= {name: state[name][: self.pos + 1] for name in ("actions", "rewards", "terminated", "slots")}
            state["stored"] = {key: column[: self.pos + 1] for key, column in self.stored.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self.full:
            self._allocate()
            for name in ("actions", "rewards", "terminated", "slots"):
                getattr(self, name)[: self.pos + 1] = state[name]
            for key, column in self.stored.items():
                column[: self.pos + 1] = state["stored"][key]
            self.finals = state["finals"]
