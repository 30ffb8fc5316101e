"""Every kind of observation and action, through the harness."""

from __future__ import annotations

import json

import pytest
from conftest import ACTIONS, OBSERVATIONS, short_run

from agents.config import resolve
from agents.environments import make_training_env, policy_for
from agents.errors import UserError
from agents.evaluate import evaluate

OURS = ("gumbel-ac", "gumbel-sac", "reinforce")
# A convolution of 64 channels at every step: no more of them than are needed.
FEW = {"timesteps": 24, "n_envs": 2, "eval_every": 0, "periodic_episodes": 2, "eval_episodes": 2}
ADDED = {
    "gumbel-ac": {"n_steps": 6},
    "gumbel-sac": {"learning_starts": 8, "buffer_size": 100, "batch_size": 8},
    "reinforce": {},
    "ppo": {"n_steps": 6, "batch_size": 6},
    "a2c": {},
    "dqn": {},
    "qrdqn": {},
}  # and `maskable-ppo`, for which test_masks.py has environments


@pytest.mark.parametrize("agent", OURS)
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_observations(kind, agent, tmp_path):
    run = short_run(tmp_path, env=f"tiny/Observe{kind}-v0", agent=agent, **FEW, **ADDED[agent])
    told = json.loads(run.result.read_text())
    assert told["timesteps"] >= 24
    assert evaluate(run, episodes=2)["deterministic"].mean == told["eval_return_mean"]


@pytest.mark.parametrize("agent", ADDED)
@pytest.mark.parametrize("kind", ACTIONS)
def test_actions(kind, agent, tmp_path):
    keys = {"env": f"tiny/Act{kind}-v0", "agent": agent, **FEW, **ADDED[agent]}
    hyperparameters = resolve({"agent": agent}).hyperparameters
    if kind in (*hyperparameters.action_spaces, "DiscreteFrom" if agent in OURS else None):
        assert short_run(tmp_path / "run", **keys).finished
    else:
        with pytest.raises(UserError, match=rf"{agent} does not support the action space .*; supported are Discrete"):
            short_run(tmp_path / "run", **keys)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("Box", "MlpPolicy"),
        ("Image", "CnnPolicy"),
        ("SmallImage", "MlpPolicy"),
        ("ChannelsFirst", "CnnPolicy"),
        ("Discrete", "MlpPolicy"),
        ("Dict", "MultiInputPolicy"),
        ("Tuple", "MlpPolicy"),
    ],
)
def test_the_policy_is_chosen_by_the_observations(kind, policy):
    env = make_training_env(resolve({"env": f"tiny/Observe{kind}-v0", "n_envs": 1}), seed=0)
    assert policy_for(env.observation_space) == policy
    if policy == "CnnPolicy":
        assert env.observation_space.shape == (3, 36, 40)


def test_normalization_of_a_dict_leaves_images_and_indices_alone(tmp_path):
    run = short_run(tmp_path, env="tiny/ObserveDict-v0", normalize=True, **FEW, n_steps=6)
    env = make_training_env(run.read_config(), 0, run.path / "vecnormalize.pkl")
    env.training = False
    observation = env.reset()
    assert set(env.venv.obs_rms if hasattr(env.venv, "obs_rms") else env.obs_rms) == {"vector"}
    assert observation["image"].dtype.name == "uint8"
    assert env.venv.obs_rms["vector"].count > 20


@pytest.mark.parametrize("kind", ["Discrete", "Image", "MultiBinary"])
def test_refuses_to_normalize(kind, tmp_path):
    with pytest.raises(UserError, match="normalize needs Box observations that are no images"):
        short_run(tmp_path / "run", env=f"tiny/Observe{kind}-v0", normalize=True, **FEW)
    assert not (tmp_path / "run").exists()


def test_only_the_reward_is_normalized(tmp_path):
    run = short_run(tmp_path, env="tiny/ObserveDiscrete-v0", normalize_reward=True, **FEW, n_steps=6)
    assert (run.path / "vecnormalize.pkl").exists()
    told = json.loads(run.result.read_text())
    assert told["eval_return_mean"] == int(2 * told["eval_return_mean"]) / 2  # rewards of 0 and 1, as they are
