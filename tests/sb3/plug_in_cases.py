"""Small environments and models for the tests of the plug-in policies."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.vec_env import VecEnv

from gumbel_rl.sb3 import GumbelSACPolicy, GumbelTD3Policy, OneHotActions, sac_defaults

OFF_POLICY: list[type[Any]] = [SAC, TD3, DDPG]

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "discrete-start": spaces.Discrete(3, start=-1),
    "ragged": spaces.MultiDiscrete([2, 5, 3]),
    "ragged-start": spaces.MultiDiscrete([3, 2], start=[4, -7]),
    "matrix": spaces.MultiDiscrete(np.array([[2, 3], [3, 2]])),
    "single-choice": spaces.MultiDiscrete([1, 3]),
    "binary": spaces.MultiBinary(3),
    "binary-matrix": spaces.MultiBinary((2, 2)),
}


def sizes(space: Any) -> list[int]:
    """Number of choices of each factor, worked out without the library."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.flat]
    return [2] * int(np.prod(space.shape))


def blocks(space: Any) -> list[slice]:
    """Where each factor's choices are in a flat one-hot or mask."""
    ends = np.cumsum(sizes(space))
    return [slice(int(end) - n, int(end)) for n, end in zip(sizes(space), ends, strict=True)]


def one_hot(space: Any, action: Any) -> NDArray[np.float32]:
    """An action of the environment as a flat one-hot, worked out without the library."""
    indices = (np.asarray(action) - np.asarray(getattr(space, "start", 0))).reshape(-1)
    row = np.zeros(sum(sizes(space)), np.float32)
    for block, index in zip(blocks(space), indices, strict=True):
        row[block.start + int(index)] = 1.0
    return row


class Matching(gym.Env[Any, Any]):
    """The reward of a step is the share of factors whose choice is the last one; observations are noise.

    It fails on an action that is not one of the space, keeps what was executed in the info, and if masked forbids each
    choice with probability .5 and counts the forbidden ones that it is asked to execute.
    """

    def __init__(
        self, action_space: spaces.Space[Any], length: int = 10, masked: bool = False, float_mask: bool = False
    ) -> None:
        self.action_space = action_space
        self.vector = spaces.Box(-10.0, 10.0, (3,), np.float32)
        self.observation_space: spaces.Space[Any] = self.vector
        self.masked, self.length = masked, length
        self.width = sum(sizes(action_space))
        if masked:
            mask = spaces.Box(0.0, 1.0, (self.width,), np.float32) if float_mask else spaces.MultiBinary(self.width)
            self.observation_space = spaces.Dict({"observation": self.vector, "action_mask": mask})
        self.invalid = self.steps = self.time = 0
        self.mask = np.ones(self.width, np.bool_)

    def _observation(self) -> Any:
        vector = self.np_random.normal(size=3).clip(-10, 10).astype(np.float32)
        if not self.masked:
            return vector
        self.mask = self.np_random.random(self.width) < 0.5
        for block in blocks(self.action_space):
            self.mask[self.np_random.integers(block.start, block.stop)] = True
        return {"observation": vector, "action_mask": self.mask.astype(self.observation_space["action_mask"].dtype)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        executed = one_hot(self.action_space, action)
        self.invalid += int((executed * ~self.mask).sum())
        self.steps += 1
        self.time += 1
        reward = float(np.mean([executed[block.stop - 1] for block in blocks(self.action_space)]))
        # Half of the episodes end by themselves and half are cut.
        over = self.time >= self.length
        terminated = over and self.steps // self.length % 2 == 0
        return self._observation(), reward, terminated, over and not terminated, {"executed": executed}


def make_env(name: str = "discrete", **options: Any) -> OneHotActions:
    """`Matching` on an action space of the table, as one-hots."""
    return OneHotActions(Matching(ACTION_SPACES[name], **options))


def make_model(algorithm: type[Any], env: Any, policy_kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    """A stock algorithm with the plug-in policy: tiny networks, learning from step 20 on."""
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "buffer_size": 1000,
        "learning_starts": 20,
        "batch_size": 16,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [8]} | (policy_kwargs or {}),
    }
    space_owner: gym.Env[Any, Any] | VecEnv = env
    if algorithm is SAC:
        settings["target_entropy"] = sac_defaults(space_owner)["target_entropy"]
        return SAC(GumbelSACPolicy, env, **settings | options)
    if algorithm is TD3:
        settings["target_policy_noise"] = 0.0
    return algorithm(GumbelTD3Policy, env, **settings | options)


def stored_actions(model: Any) -> NDArray[np.float32]:
    """The actions in the replay buffer, a row each: `[rows, N]`."""
    buffer = model.replay_buffer
    filled = buffer.buffer_size if buffer.full else buffer.pos
    return buffer.actions[:filled].reshape(-1, buffer.actions.shape[-1])


def assert_vertices(space: Any, actions: NDArray[np.float32]) -> None:
    """Every row is exactly -1 and +1, with a single +1 in each factor's block."""
    assert len(actions)
    assert set(np.unique(actions)) <= {-1.0, 1.0}
    for block in blocks(space):
        np.testing.assert_array_equal((actions[:, block] == 1.0).sum(-1), 1)


def parameters(module: Any) -> list[NDArray[Any]]:
    return [parameter.detach().cpu().numpy().copy() for parameter in module.parameters()]


def same(one: list[NDArray[Any]], other: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
