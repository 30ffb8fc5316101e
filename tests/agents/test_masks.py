"""Action masks through the harness: who understands them never does what is forbidden, and the others see none."""

from __future__ import annotations

import json
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
from conftest import short_run
from gymnasium import spaces

import agents.record
from agents.compare.applicability import sift
from agents.compare.plan import make_plan
from agents.config import resolve
from agents.environments import make_evaluation_env, make_training_env, policy_for
from agents.errors import UserError
from agents.evaluate import evaluate
from agents.run import resume
from envs.coordination import Coordination

COORDINATION = "gumbel_rl/Coordination-v0"
MASKED = {"env": COORDINATION, "env_kwargs": {"masked": True}}
SAC = {"agent": "gumbel-sac", "learning_starts": 20, "buffer_size": 500, "train_freq": 2, "batch_size": 8}
AC = {"agent": "gumbel-ac", "n_steps": 10}
REINFORCE = {"agent": "reinforce"}
PPO = {"agent": "maskable-ppo", "n_steps": 10, "batch_size": 10}
FEW = {"timesteps": 80, "n_envs": 2, "eval_every": 40, "periodic_episodes": 2, "eval_episodes": 2}


class Strict(gym.Env):
    """Five steps; a choice of each factor is forbidden, another one at every step, and to take it is an error."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = spaces.MultiDiscrete([3, 2])
    observation_space = spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def mask(self):
        mask = np.ones(5, dtype=bool)
        mask[[self.steps % 3, 3 + self.steps % 2]] = False
        return mask

    def observe(self):
        return np.full(3, self.steps / 10, dtype=np.float32)

    def info(self):
        return {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = int(self.np_random.integers(5))
        self.end = self.steps + 5
        return self.observe(), self.info()

    def step(self, action):
        mask = self.mask()
        assert mask[action[0]] and mask[3 + action[1]], f"{action} is forbidden"  # noqa: PT018
        self.steps += 1
        return self.observe(), 1.0, self.steps == self.end, False, self.info()

    def render(self):
        return np.zeros((22, 32, 3), dtype=np.uint8)


class ByMethod(Strict):
    action_masks = Strict.mask


class ByInfo(Strict):
    def info(self):
        return {"action_mask": self.mask()}


class ByObservation(ByInfo):
    observation_space = spaces.Dict({"vector": Strict.observation_space, "action_mask": spaces.MultiBinary(5)})

    def observe(self):
        return {"vector": super().observe(), "action_mask": self.mask().astype(np.int8)}


class InATuple(ByMethod):
    observation_space = spaces.Tuple((Strict.observation_space, spaces.Discrete(2)))

    def observe(self):
        return super().observe(), self.steps % 2


STRICT = {cls.__name__: f"tiny/Strict{cls.__name__}-v0" for cls in (ByMethod, ByInfo, ByObservation, InATuple)}
for cls in (ByMethod, ByInfo, ByObservation, InATuple):
    gym.register(STRICT[cls.__name__], cls)


def result(run):
    return json.loads(run.result.read_text())


def name(value):
    """Of a parameter."""
    return value.get("agent", " ".join(value)) if isinstance(value, dict) else value


def interrupt(run):
    """Make a finished run one that was interrupted after its first checkpoint."""
    for name in ("result.json", "model.zip"):
        (run.path / name).unlink()
    for checkpoint in sorted(run.checkpoints.iterdir())[1:]:
        shutil.rmtree(checkpoint)


@pytest.mark.parametrize(
    ("agent", "how", "keys"),
    [
        *((agent, how, {}) for agent in (SAC, AC, REINFORCE) for how in STRICT),
        *((PPO, how, {}) for how in ("ByMethod", "InATuple")),
        *((agent, "ByMethod", {"normalize": True}) for agent in (SAC, AC, PPO)),
        (SAC, "ByObservation", {"normalize": True}),
    ],
    ids=name,
)
def test_nothing_forbidden_is_ever_done(agent, how, keys, tmp_path):
    run = short_run(tmp_path / "run", env=STRICT[how], **agent, **FEW, **keys)
    assert result(run)["eval_return_mean"] == 5.0
    assert {score.mean for score in evaluate(run, episodes=3).values()} == {5.0}
    assert agents.record.record(run, tmp_path / "a.gif", stochastic=True).stat().st_size
    interrupt(run)
    assert result(resume(run))["timesteps"] >= FEW["timesteps"]


def test_masks_come_from_other_processes():
    env = make_training_env(resolve({"agent": "gumbel-sac", **MASKED, "engine": "subproc", "n_envs": 2}), 0)
    try:
        mask = env.reset()["action_mask"]
        assert mask.shape == (2, 40)
        np.testing.assert_array_equal(mask, env.env_method("action_masks"))
        assert not mask.all()
    finally:
        env.close()


def test_who_does_not_see_the_mask_does_what_is_forbidden(tmp_path):
    with pytest.raises(AssertionError, match="is forbidden"):
        short_run(tmp_path / "run", env=STRICT["ByMethod"], agent="ppo", **FEW)


def test_only_those_who_understand_masks_observe_them():
    for agent, masked, expected in (
        ("gumbel-sac", True, "MultiInputPolicy"),
        ("gumbel-sac", False, "MlpPolicy"),
        ("gumbel-ac", True, "MultiInputPolicy"),
        ("ppo", True, "MlpPolicy"),
    ):
        config = resolve({"agent": agent, "env": COORDINATION, "env_kwargs": {"masked": masked}, "n_envs": 4})
        for env in (make_training_env(config, 0), make_evaluation_env(config, 4, seed=0)):
            assert policy_for(env.observation_space) == expected
            # The mask is a wrapper's work, which vector engines do not take; who needs none keeps the engine.
            assert hasattr(env.unwrapped, "envs") == (expected == "MultiInputPolicy")
            env.close()


@pytest.mark.parametrize("engine", ["auto", "dummy"])
@pytest.mark.parametrize("agent", [SAC, AC, REINFORCE, PPO], ids=name)
def test_masked_coordination(agent, engine, tmp_path, monkeypatch):
    invalid = []
    step = Coordination._step

    def spy(self, *given):
        returned = step(self, *given)
        invalid.append(returned[-1]["invalid_actions"])
        return returned

    monkeypatch.setattr(Coordination, "_step", spy)
    # Four environments: enough for the vector engine.
    run = short_run(tmp_path / "run", **MASKED, **agent, **{**FEW, "n_envs": 4, "eval_episodes": 4}, engine=engine)
    evaluate(run, episodes=4)
    counts = np.concatenate(invalid)
    assert len(counts) > FEW["timesteps"] + 80
    assert not counts.any()


def test_masks_need_an_engine_with_wrappers(tmp_path):
    with pytest.raises(UserError, match="a vector entry point takes no wrapper; use engine 'dummy'"):
        short_run(tmp_path / "run", **MASKED, **SAC, **FEW, engine="vector")


@pytest.mark.parametrize("env", ["CartPole-v1", STRICT["ByInfo"], STRICT["ByObservation"]])
def test_maskable_ppo_needs_the_method(env, tmp_path):
    reason = r"maskable-ppo needs masks, and {} has no method action_masks\(\): take ppo"
    with pytest.raises(UserError, match=reason.format("the environment")):
        short_run(tmp_path / "run", env=env, **PPO, **FEW)
    assert not (tmp_path / "run").exists()
    (entry,) = sift(make_plan([env], ["maskable-ppo", "ppo"], 1)).not_applicable
    assert re.fullmatch(reason.format(env), entry["reason"])


def test_gymnasiums_taxi_is_masked():
    env = make_training_env(resolve({"agent": "gumbel-sac", "env": "Taxi-v4", "n_envs": 1}), 0)
    assert set(env.observation_space.spaces) == {"observation", "action_mask"}


def test_continuous_actions_are_refused_as_such(tmp_path):
    class Continuous(ByMethod):
        action_space = spaces.Box(-1.0, 1.0, (2,))

    gym.register("tiny/StrictContinuous-v0", Continuous)
    with pytest.raises(UserError, match="gumbel-sac does not support the action space Box"):
        short_run(tmp_path / "run", env="tiny/StrictContinuous-v0", **SAC, **FEW)
