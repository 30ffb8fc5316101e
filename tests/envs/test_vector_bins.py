"""Continuous actions in bins, on every engine."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from envs import make_vec_env
from gumbel_rl.sb3 import VectorEnvAdapter
from gumbel_rl.wrappers import DiscretizeVectorActions

BOX = spaces.Box(np.array([[-1.0, 0.0]], np.float32), np.array([[1.0, 4.0]], np.float32))
BINS = [3, [0.5, 4.0]]
VALUES = [[-1.0, 0.0, 1.0], [0.5, 4.0, 4.0]]
ID = "bins/Echo-v0"


class Echo(gym.Env[Any, Any]):
    """Observes the action it was given, and rewards its sum; four steps an episode."""

    action_space = BOX
    observation_space = spaces.Box(-9.0, 9.0, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.full(2, -9.0, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float32
        assert BOX.contains(action), action
        self.steps += 1
        return action[0].copy(), float(action.sum()), self.steps == 4, False, {}


class EchoVector(SyncVectorEnv):
    """The same as a vector entry point that resets within the step."""

    def __init__(self, num_envs: int) -> None:
        super().__init__([Echo] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        self.calls = 0

    def step(self, actions: Any) -> Any:
        assert actions.shape == (self.num_envs, 1, 2)
        assert self.action_space.contains(actions)
        self.calls += 1
        return super().step(actions)


gym.register(ID, Echo, vector_entry_point=EchoVector)


@pytest.mark.parametrize("engine", ["vector", "dummy"])
def test_choices_become_their_values(engine: str) -> None:
    env = make_vec_env(ID, 6, 0, engine, bins=BINS)
    assert env.action_space == spaces.MultiDiscrete([3, 2])
    env.reset()
    choices = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])
    expected = np.array([[VALUES[0][i], VALUES[1][j]] for i, j in choices])
    for step in range(4):
        observations, rewards, dones, infos = env.step(choices)
        seen = np.array([info["terminal_observation"] for info in infos]) if step == 3 else observations
        assert np.array_equal(seen, expected)
        assert np.array_equal(rewards, expected.sum(-1))
        assert dones.all() == (step == 3)
    # Statistics of whole episodes, whatever the engine.
    assert [info["episode"]["r"] for info in infos] == (4 * expected.sum(-1)).tolist()
    env.close()


@pytest.mark.parametrize("engine", ["auto", "vector", "dummy"])
def test_the_values_are_found_from_the_vec_env(engine: str) -> None:
    if engine == "vector":
        env = make_vec_env("bins/Whole-v0", 6, 0, engine, bins=BINS)
    else:
        env = make_vec_env(ID, 1, 0, engine, bins=BINS)
    assert env.get_attr("action_values")[0].tolist() == VALUES


class Whole(VectorEnv[Any, Any, Any]):
    """An engine without sub-environments of its own, which stands still."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_action_space, self.single_observation_space = BOX, Echo.observation_space
        self.action_space = spaces.Box(np.tile(BOX.low, (num_envs, 1, 1)), np.tile(BOX.high, (num_envs, 1, 1)))
        self.observation_space = spaces.Box(-9.0, 9.0, (num_envs, 2))


gym.register("bins/Whole-v0", Echo, vector_entry_point=Whole)


def test_auto_takes_the_vector_entry_point() -> None:
    env: Any = make_vec_env(ID, 6, 0, bins=BINS)
    assert isinstance(env.unwrapped, VectorEnvAdapter)
    assert isinstance(env.unwrapped.engine, DiscretizeVectorActions)
    env.reset()
    env.step(np.zeros((6, 2), dtype=int))
    assert env.unwrapped.engine.unwrapped.calls == 1
    # And without, where there is none.
    assert isinstance(make_vec_env("Pendulum-v1", 6, 0, bins=3).unwrapped, DummyVecEnv)


@pytest.mark.slow  # processes start slowly
def test_processes_take_bins() -> None:
    processes, dummy = (make_vec_env("Pendulum-v1", 2, 0, engine, bins=3) for engine in ("subproc", "dummy"))
    assert isinstance(processes.unwrapped, SubprocVecEnv)
    assert [values.tolist() for values in processes.get_attr("action_values")] == [[[-2, 0, 2]]] * 2
    assert np.array_equal(processes.reset(), dummy.reset())
    for choices in ([[0], [2]], [[1], [0]], [[2], [2]]):
        for one, other in zip(processes.step(np.array(choices))[:2], dummy.step(np.array(choices))[:2], strict=True):
            assert np.allclose(one, other, rtol=1e-5)  # the dummy's rewards are float32
    processes.close()


def test_an_argument_of_the_environment_of_that_name_is_its_own() -> None:
    class Named(Echo):
        def __init__(self, bins: str) -> None:
            self.given = bins

    gym.register("bins/Named-v0", Named)
    env = make_vec_env("bins/Named-v0", 1, 0, bins=BINS, env_kwargs={"bins": "mine"})
    assert env.get_attr("given") == ["mine"]
    assert env.action_space == spaces.MultiDiscrete([3, 2])


def test_a_wrapper_sees_the_choices() -> None:
    class Spy(gym.ActionWrapper[Any, Any, Any]):
        def action(self, action: Any) -> Any:
            seen.append(action.tolist())
            return action

    seen: list[Any] = []
    env = make_vec_env(ID, 1, 0, "dummy", bins=BINS, wrapper=Spy)
    env.reset()
    env.step(np.array([[2, 1]]))
    assert seen == [[2, 1]]


@pytest.mark.parametrize("engine", ["auto", "vector", "dummy"])
@pytest.mark.parametrize(
    ("env_id", "bins", "error", "message"),
    [
        ("CartPole-v1", 3, TypeError, r"only a Box action space can be divided into bins, got Discrete\(2\)"),
        (ID, 0, ValueError, r"there must be at least one bin, got 0 for dimension \(0, 0\)"),
        (ID, [3], ValueError, "bins needs one entry a dimension, 2 in all, got 1"),
    ],
)
def test_refuses_alike_on_every_engine(engine: str, env_id: str, bins: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make_vec_env(env_id, 6, 0, engine, bins=bins)


def test_random_actions_are_seeded() -> None:
    def draws(engine: str) -> list[Any]:
        space = make_vec_env(ID, 6, 3, engine, bins=[30, 40]).action_space
        return [space.sample().tolist() for _ in range(5)]

    for engine in ("vector", "dummy"):
        assert draws(engine) == draws(engine)
