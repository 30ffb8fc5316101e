"""Every engine, transition by transition, against a single environment put into the same state; choosing an engine."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.monitor import get_monitor_files
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from envs import find_spec, make_env, make_vec_env
from gumbel_rl.sb3 import VectorEnvAdapter

N_ENVS = 4
SYNC = {f"sync-{mode.name}": mode for mode in AutoresetMode}


def make_cart_poles(engine, max_episode_steps):
    if engine in SYNC:
        env_fns = [lambda: make_env("CartPole-v1", max_episode_steps=max_episode_steps)] * N_ENVS
        env = VecMonitor(VectorEnvAdapter(SyncVectorEnv(env_fns, autoreset_mode=SYNC[engine])))
        env.seed(5)
        return env
    return make_vec_env("CartPole-v1", N_ENVS, 5, engine, env_kwargs={"max_episode_steps": max_episode_steps})


def cart_pole_states(env):
    """Exact states `[n, 4]` of the sub-environments."""
    states = env.get_attr("state")
    return np.array(states[0]).T if np.shape(states[0]) == (4, N_ENVS) else np.array(states)


def balance(observations):
    """A policy that keeps the pole up for good."""
    return (observations @ [0.1, 0.5, 3.0, 1.0] > 0).astype(np.int64)


@pytest.mark.parametrize(
    ("engine", "limit"),
    [(engine, limit) for engine in ("vector", "dummy", *SYNC) for limit in (18, 500)]
    + [pytest.param("subproc", 18, marks=pytest.mark.slow)],  # processes start slowly
)
def test_transitions_are_those_of_a_single_environment(engine, limit):
    env = make_cart_poles(engine, limit)
    single = make_env("CartPole-v1", max_episode_steps=limit)
    single.reset()
    actions = np.random.default_rng(1)
    ends = {"terminated": 0, "truncated": 0, "both": 0}
    count = np.zeros(N_ENVS, dtype=int)
    total = np.zeros(N_ENVS, dtype=int)
    finished = np.zeros(N_ENVS, dtype=int)

    observations = env.reset()
    assert len(env.reset_infos) == N_ENVS
    assert len(np.unique(observations[:, 0])) == N_ENVS  # each sub-environment has its own random numbers
    steps = 1500 if limit == 18 else 520
    for _ in range(steps):
        # At random where episodes are to end in all ways; where they are to be long, at random in one of them only.
        action = actions.integers(2, size=N_ENVS)
        if limit == 500:
            action[1:] = balance(observations)[1:]
        states = cart_pole_states(env)
        np.testing.assert_array_equal(observations, states.astype(np.float32))
        observations, rewards, dones, infos = env.step(action)
        assert observations.dtype == np.float32
        total += 1
        count += 1
        for i in range(N_ENVS):
            single.unwrapped.state = states[i]
            single.unwrapped.steps_beyond_terminated = None
            single._elapsed_steps = count[i] - 1
            expected, reward, terminated, truncated, _ = single.step(action[i])
            last = infos[i]["terminal_observation"] if dones[i] else observations[i]
            # One float32 rounding, no more: np.cos and math.cos may differ in the last digit of float64.
            np.testing.assert_allclose(last, expected, rtol=2e-7, atol=1e-9)
            assert rewards[i] == reward == 1.0  # a reset step would have reward 0
            assert dones[i] == (terminated or truncated)
            assert infos[i]["TimeLimit.truncated"] == (truncated and not terminated)
            assert ("terminal_observation" in infos[i]) == ("episode" in infos[i]) == dones[i]
            if dones[i]:
                ends["both" if terminated and truncated else "terminated" if terminated else "truncated"] += 1
                assert infos[i]["episode"]["l"] == infos[i]["episode"]["r"] == count[i] <= limit
                assert (np.abs(observations[i]) <= 0.05).all()
                finished[i] += count[i]
                count[i] = 0
    # Every step of every sub-environment is a transition of an episode.
    np.testing.assert_array_equal(finished + count, total)
    if limit == 18:
        assert min(ends.values()) >= 5, ends
    else:
        assert ends["truncated"] == N_ENVS - 1
        assert (finished[1:] == 500).all()
    env.close()


OWN = ["gumbel_rl/FactoredBandit-v0", "gumbel_rl/TabularMDP-v0"]


@pytest.mark.parametrize(
    ("engine", "env_id", "n_envs"),
    [(engine, env_id, 4) for engine in ("vector", "dummy") for env_id in ("CartPole-v1", *OWN)]
    + [pytest.param("subproc", "gumbel_rl/TabularMDP-v0", 2, marks=pytest.mark.slow)],
)
def test_same_seed_same_trajectories(engine, env_id, n_envs):
    def run(seed):
        env = make_vec_env(env_id, n_envs, seed, engine)
        log = [env.reset()]
        for _ in range(60):
            actions = np.array([env.action_space.sample() for _ in range(n_envs)])
            observations, rewards, dones, infos = env.step(actions)
            log += [observations, rewards, dones, *(info.get("terminal_observation", ()) for info in infos)]
        env.close()
        return np.concatenate([np.ravel(entry) for entry in log]).tolist()

    first = run(7)
    assert first == run(7)
    assert first != run(8)


def test_auto_takes_the_vector_entry_point_where_it_pays():
    def engine_of(*args, **options):
        env = make_vec_env(*args, **options)
        env.close()
        return type(env.unwrapped)

    assert engine_of("CartPole-v1", 16) is VectorEnvAdapter
    assert engine_of("CartPole-v1", 1) is DummyVecEnv
    assert engine_of("CartPole-v1", 1, engine="vector") is VectorEnvAdapter
    assert engine_of("CartPole-v1", 16, engine="dummy") is DummyVecEnv
    assert engine_of("Acrobot-v1", 16) is DummyVecEnv
    assert engine_of("CartPole-v1", 16, wrapper=gym.wrappers.FlattenObservation) is DummyVecEnv
    assert engine_of("CartPole-v1", 16, env_kwargs={"render_mode": "rgb_array"}) is DummyVecEnv
    assert engine_of("CartPole-v1", 16, env_kwargs={"sutton_barto_reward": True}) is VectorEnvAdapter
    assert engine_of("CartPole-v1", 2, engine="subproc") is SubprocVecEnv


class Stubborn(VectorEnv):
    """A vector entry point that the adapter refuses."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs, max_episode_steps):
        single = gym.make("CartPole-v1")
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = single.observation_space, single.action_space
        self.action_space = gym.vector.utils.batch_space(single.action_space, num_envs)


@pytest.mark.parametrize("entry_point", [Stubborn, "a_package_that_is_not_there:Env", "envs.bandit:NoSuchName"])
def test_auto_falls_back_from_an_entry_point_that_does_not_work(entry_point):
    gym.register(
        "Fallback-v0", find_spec("CartPole-v1").entry_point, max_episode_steps=9, vector_entry_point=entry_point
    )
    try:
        env = make_vec_env("Fallback-v0", 8, 0)
        assert type(env.unwrapped) is DummyVecEnv
        env.reset()
        with pytest.raises((TypeError, ImportError, AttributeError)):
            make_vec_env("Fallback-v0", 8, 0, "vector")
    finally:
        del gym.registry["Fallback-v0"]


def test_wrapper_and_arguments_reach_every_sub_environment():
    env = make_vec_env("CartPole-v1", 3, 0, wrapper=gym.wrappers.TimeAwareObservation)
    assert env.reset().shape == (3, 5)
    env = make_vec_env("gumbel_rl/TabularMDP-v0", 8, 0, env_kwargs={"states": 3, "one_hot": True})
    assert env.reset().shape == (8, 3)


@pytest.mark.parametrize("engine", ["vector", "dummy"])
def test_monitor_files(engine, tmp_path):
    env = make_vec_env("CartPole-v1", N_ENVS, 0, engine, monitor_dir=tmp_path / "new")
    env.reset()
    finished = sum(env.step(np.ones(N_ENVS, dtype=np.int64))[2].sum() for _ in range(100))
    env.close()
    files = get_monitor_files(str(tmp_path / "new"))
    assert len(files) == (1 if engine == "vector" else N_ENVS)
    episodes = [row for name in files for row in csv.DictReader(Path(name).read_text().splitlines()[1:])]
    assert len(episodes) == finished > 20
    assert all(float(row["r"]) == float(row["l"]) for row in episodes)


@pytest.mark.parametrize(
    ("mistyped", "right"),
    [
        ("CartPole-v7", "CartPole-v1"),
        ("catrpole", "CartPole-v1"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("FactoredBandit-v0", "gumbel_rl/FactoredBandit-v0"),
        ("", ""),
    ],
)
def test_unknown_id_names_the_nearest(mistyped, right):
    for make in (find_spec, make_env, make_vec_env):
        with pytest.raises(ValueError, match=rf"unknown environment '{mistyped}' \(did you mean '{re.escape(right)}"):
            make(mistyped)


def test_module_ids_import_the_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    entry_point = find_spec("CartPole-v1").entry_point
    source = f"import gymnasium\ngymnasium.register('Own-v0', {entry_point!r}, max_episode_steps=7)\n"
    (tmp_path / "own_tasks.py").write_text(source)
    try:
        assert find_spec("own_tasks:Own-v0").max_episode_steps == 7
        env = make_vec_env("own_tasks:Own-v0", 2, 0)
        env.reset()
        assert [env.step(np.array([0, 1]))[2].all() for _ in range(7)] == [False] * 6 + [True]
        with pytest.raises(ValueError, match="did you mean 'Own-v0'"):
            find_spec("own_tasks:Owl-v0")
    finally:
        gym.registry.pop("Own-v0", None)
        sys.modules.pop("own_tasks", None)
    with pytest.raises(ValueError, match="cannot import 'no_such_module', which is to register environment 'Own-v0'"):
        make_vec_env("no_such_module:Own-v0")


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown engine 'warp'; known are auto, vector, dummy, subproc"):
        make_vec_env("CartPole-v1", engine="warp")
    with pytest.raises(ValueError, match="at least one sub-environment, got n_envs=0"):
        make_vec_env("CartPole-v1", 0)
    with pytest.raises(ValueError, match="Acrobot-v1 has no vector entry point"):
        make_vec_env("Acrobot-v1", engine="vector")
    with pytest.raises(ValueError, match="takes no wrapper"):
        make_vec_env("CartPole-v1", engine="vector", wrapper=gym.wrappers.FlattenObservation)


def test_make_env_renders():
    pytest.importorskip("pygame")
    env = make_env("CartPole-v1", wrapper=gym.wrappers.FlattenObservation, render_mode="rgb_array")
    assert isinstance(env, gym.wrappers.FlattenObservation)
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    env.close()
