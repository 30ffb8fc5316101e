"""Tiny environments, short runs, and the command line in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agents.command_line import run_command
from agents.config import resolve
from agents.run import train
from agents.run_directory import RunDirectory

# The same small networks and few steps everywhere: what is tested is not how well agents learn.
SHORT = {"timesteps": 600, "n_envs": 4, "eval_every": 300, "eval_episodes": 4, "net_arch": [8]}


class Tiny(gym.Env):
    """Five random observations an episode; the reward is whether the first choice of the action is 0."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    LENGTH = 5

    def __init__(self, observation, action, render_mode=None):
        self.observation_space = observation
        self.action_space = action
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), float(np.ravel(action)[0] == 0), self.steps == self.LENGTH, False, {}

    def render(self):
        return np.full((21, 31, 3), 40 * self.steps, dtype=np.uint8)


BOX = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (36, 40, 3), dtype=np.uint8)
OBSERVATIONS = {
    "Box": BOX,
    "Matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "Image": IMAGE,
    "SmallImage": spaces.Box(0, 255, (8, 8, 3), dtype=np.uint8),
    "ChannelsFirst": spaces.Box(0, 255, (3, 36, 40), dtype=np.uint8),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
    "Dict": spaces.Dict({"vector": BOX, "image": IMAGE, "index": spaces.Discrete(3)}),
    "Tuple": spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2))),
}
ACTIONS = {
    "Discrete": spaces.Discrete(3),
    "DiscreteFrom": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-1.0, 1.0, (2,)),
}
for name, space in OBSERVATIONS.items():
    gym.register(f"tiny/Observe{name}-v0", Tiny, kwargs={"observation": space, "action": ACTIONS["Discrete"]})
for name, space in ACTIONS.items():
    gym.register(f"tiny/Act{name}-v0", Tiny, kwargs={"observation": BOX, "action": space})


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that a refused command writes; checks that there is nothing else."""
        assert self.status == 2, self
        assert self.out == "", self
        assert self.err.startswith("error: "), self
        assert self.err.count("\n") == 1, self
        return self.err.removeprefix("error: ").rstrip()


@pytest.fixture
def command(capsys):
    """Runs a command's `main` as its script does."""

    def run(main, *argv: object) -> Outcome:
        capsys.readouterr()
        status, path = 0, list(sys.path)
        try:
            run_command(lambda: main([str(word) for word in argv]))
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.path[:] = path
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return run


def short_run(path: Path, **keys: object) -> RunDirectory:
    return train(resolve({**SHORT, **keys}), path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> RunDirectory:
    """A finished run of the default agent on CartPole, with normalisation."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    keys = {"normalize": True, "temperature": "exponential:1.0:0.3", "threshold": 5.0, "n_steps": 32}
    return short_run(path, env="CartPole-v1", **keys)
