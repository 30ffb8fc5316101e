"""Environments and agents for the tests of the algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from envs.tabular import TabularMDPVectorEnv
from gumbel_rl import GumbelActorCritic, Reinforce
from gumbel_rl.sb3 import VectorEnvAdapter

Algorithm = TypeVar("Algorithm", GumbelActorCritic, Reinforce)


class Scripted(gym.Env):
    """Episodes of fixed lengths and ends, one after the other and round again; rewards depend on time and action.

    Observations are `[1, episode number, steps since its start]`, so that a linear critic tells every one apart.
    """

    def __init__(self, episodes: Sequence[tuple[int, str]], actions: int = 3) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self.episodes = episodes
        self.number = -1

    def _observe(self) -> Any:
        return np.array([1.0, self.number, self.time], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.number += 1
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        reward = 1.0 + self.time - 0.5 * float(action) + 0.1 * self.number
        self.time += 1
        length, end = self.episodes[self.number % len(self.episodes)]
        over = self.time == length
        return self._observe(), reward, over and end == "terminated", over and end == "truncated", {}


class Spaces(gym.Env):
    """Random observations of a space, a check of every action, short episodes that end in both ways."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), (action, self.action_space)
        self.count += 1
        return self.observation_space.sample(), float(np.sum(action)), self.count % 3 == 0, self.count % 5 == 0, {}


class LimitedMDP(TabularMDPVectorEnv):
    """The tabular MDP with a time limit, and with actions that decide more about where they lead."""

    def __init__(self, limit: int, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self.transitions = self.transitions**6 / (self.transitions**6).sum(-1, keepdims=True)
        self.limit = limit

    def reset(self, **arguments: Any) -> Any:
        self._elapsed = np.zeros(self.num_envs, dtype=int)
        return super().reset(**arguments)

    def step(self, actions: Any) -> Any:
        observation, rewards, terminated, _, infos = super().step(actions)
        self._elapsed += 1
        truncated = (self._elapsed >= self.limit) & ~terminated
        self._elapsed[terminated | truncated] = 0
        if truncated.any():
            final = infos["final_obs"] if infos else observation
            self._state = self._state.copy()
            last = np.where(truncated, observation, final)
            self._state[truncated] = self._draw_start(int(truncated.sum()))
            infos = {"final_obs": last, "_final_obs": terminated | truncated}
        return self._observe(self._state), rewards, terminated, truncated, infos


class Scale(BaseFeaturesExtractor):
    """The least extractor that learns, for three numbers."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, observations: Tensor) -> Tensor:
        return observations * self.scale


def vectorised(*environments: gym.Env[Any, Any]) -> DummyVecEnv:
    """Environments side by side."""
    return DummyVecEnv([lambda env=env: env for env in environments])


def limited_mdp(limit: int, num_envs: int, **options: Any) -> VectorEnvAdapter:
    """`LimitedMDP` for Stable-Baselines3."""
    return VectorEnvAdapter(LimitedMDP(limit, num_envs, **options))


def one_step_agent(cls: type[Algorithm], env, **options) -> Algorithm:
    """An agent whose policy is far from uniform, and whose actor takes plain gradient steps of length 1."""
    arguments = {
        "learning_rate": 1.0,
        "max_grad_norm": math.inf,
        "policy_kwargs": {"net_arch": {"pi": [3], "vf": []}, "optimizer_class": torch.optim.SGD},
        "seed": 0,
    }
    model = cls("MlpPolicy", env, **arguments | options)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.actor.parameters():
            parameter.normal_()
    return model


class Memory(KVWriter):
    """Remembers what is logged: one dictionary a dump, with the step under `step`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append({**key_values, "step": step})

    def close(self) -> None:
        pass

    def values(self, tag: str) -> list[Any]:
        """What was logged under a tag, dump by dump, where it was."""
        return [row[tag] for row in self.rows if tag in row]

    @classmethod
    def of(cls, model: Any) -> Memory:
        """Attached to a model."""
        memory = cls()
        model.set_logger(Logger(folder=None, output_formats=[memory]))
        return memory
