"""VectorEnvAdapter against SB3's own DummyVecEnv, step by step, and its refusals.

CartPole's transitions from every engine are checked against a single environment in tests/envs/test_vector.py.
"""

from __future__ import annotations

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from gumbel_rl.sb3 import VectorEnvAdapter, partial_reset, register_partial_reset

BOX = spaces.Box(-1, 1, (3,), np.float32)
CHOICES = spaces.Discrete(3, start=1)
OBSERVATION_SPACES = {
    "box": BOX,
    "image": spaces.Box(0, 255, (2, 3, 1), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "multi-binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"vector": BOX, "index": spaces.Discrete(7), "bits": spaces.MultiBinary(2)}),
    "tuple": spaces.Tuple((BOX, spaces.Discrete(7))),
}


class Noise(gym.Env):
    """Random observations, rewards, ends of both kinds (also at once) and infos of every kind, all from the seed."""

    def __init__(self, observation_space=BOX, action_space=CHOICES):
        # A copy, because a space holds the random numbers of its samples.
        self.observation_space, self.action_space, self.render_mode = deepcopy(observation_space), action_space, None
        self.colour = "red"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        return self.observation_space.sample(), {"first": float(self.np_random.random()), "options": str(options or {})}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count += 1
        reward = self.np_random.normal() + np.sum(action)
        terminated, truncated = self.np_random.random(2) < (0.1, 0.15)
        info = {"count": self.count, "label": f"step {self.count}", "nested": {"half": self.count / 2}, "_odd": True}
        if self.count % 3 == 0:
            info["vector"] = self.np_random.random(2)
        return self.observation_space.sample(), reward, bool(terminated), bool(truncated), info

    def paint(self, colour):
        self.colour = colour
        return self.count


def assert_same(ours, theirs):
    """Equal, whether dictionaries, tuples, strings, arrays or numbers (Python's or NumPy's)."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    elif isinstance(theirs, str):
        assert ours == theirs
    else:
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_array_equal(ours, theirs)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype


def assert_same_run(adapter, reference, steps, seed=3):
    """Run both with the same random actions and compare everything that they return."""
    ends = {"terminated": 0, "truncated": 0}
    actions = np.random.default_rng(0)
    for env in (adapter, reference):
        env.seed(seed)
        env.set_options({"mood": 1})
    assert_same(adapter.reset(), reference.reset())
    assert_same(adapter.reset_infos, reference.reset_infos)
    assert adapter.reset_infos[0]["options"] == "{'mood': 1}"
    for _ in range(steps):
        if isinstance(adapter.action_space, spaces.Discrete):
            action = actions.integers(1, 4, adapter.num_envs)
        else:
            action = actions.integers(
                adapter.action_space.nvec, size=(adapter.num_envs, len(adapter.action_space.nvec))
            )
        ours, theirs = adapter.step(action), reference.step(action)
        assert_same(ours, theirs)
        assert ours[1].dtype == np.float32
        assert ours[2].dtype == np.bool_
        assert_same(adapter.reset_infos, reference.reset_infos)
        for done, info in zip(ours[2], ours[3], strict=True):
            assert ("terminal_observation" in info) == done
            assert isinstance(info["TimeLimit.truncated"], bool)
            ends["truncated" if info["TimeLimit.truncated"] else "terminated"] += int(done)
    assert min(ends.values()) > steps // 10
    adapter.close()


@pytest.mark.parametrize("copy", [True, False], ids=["copies", "buffers"])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("space", OBSERVATION_SPACES)
def test_sync_engine_runs_exactly_like_sb3(space, mode, copy):
    env_fns = [lambda: Noise(OBSERVATION_SPACES[space])] * 3
    adapter = VectorEnvAdapter(SyncVectorEnv(env_fns, copy=copy, autoreset_mode=mode))
    assert_same_run(adapter, DummyVecEnv(env_fns), 100)


def test_multi_discrete_actions_run_exactly_like_sb3():
    env_fns = [lambda: Noise(action_space=spaces.MultiDiscrete([3, 2]))] * 3
    assert_same_run(VectorEnvAdapter(SyncVectorEnv(env_fns)), DummyVecEnv(env_fns), 100)


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shared", "pipes"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_async_engine_runs_exactly_like_sb3(mode, shared_memory):
    env_fns = [lambda: Noise(OBSERVATION_SPACES["dict"])] * 2
    engine = AsyncVectorEnv(env_fns, shared_memory=shared_memory, autoreset_mode=mode)
    if mode is AutoresetMode.NEXT_STEP and not shared_memory:
        with pytest.raises(TypeError, match="shared_memory=False resets twice"):
            VectorEnvAdapter(engine)
        engine.close()
    else:
        assert_same_run(VectorEnvAdapter(engine), DummyVecEnv(env_fns), 100)


class Counter(VectorEnv):
    """Counts the steps of each sub-environment to its own limit, and returns the same arrays over and over."""

    LIMITS = np.array([2, 3])

    def __init__(self, mode):
        self.metadata = {"autoreset_mode": mode}
        self.num_envs = 2
        self.single_observation_space = spaces.Box(0, 9, (1,), np.float32)
        self.observation_space = spaces.Box(0, 9, (2, 1), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = spaces.MultiDiscrete([2, 2])
        self.count = np.zeros((2, 1), np.float32)
        self.rewards = np.zeros(2, np.float32)
        self.done, self.never = np.zeros(2, bool), np.zeros(2, bool)
        self.last = np.zeros((2, 1), np.float32)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(2, bool))
        self.count[mask] = 0
        return self.count, {}

    def step(self, actions):
        assert self.action_space.contains(actions)
        self.count += 1
        self.rewards[:] = self.count[:, 0]
        self.done[:] = self.count[:, 0] >= self.LIMITS
        infos = {"elapsed": self.count[:, 0].copy(), "speed": 1.5}
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and self.done.any():
            self.last[:] = self.count
            infos = {"final_obs": self.last, "_final_obs": self.done, "final_info": infos}
            self.count[self.done] = 0
        return self.count, self.rewards, self.done, self.never, infos


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
def test_nothing_returned_changes_when_the_engine_reuses_its_arrays(mode):
    env = VectorEnvAdapter(Counter(mode))
    seen = [env.reset()]
    rewards, dones, infos = [], [], []
    for _ in range(6):
        step = env.step(np.array([1.0, 0.0]))  # a float dtype, which the engine would refuse
        for log, value in zip((seen, rewards, dones, infos), step, strict=True):
            log.append(value)
    np.testing.assert_array_equal(np.stack(seen)[..., 0], [[0, 0], [1, 1], [0, 2], [1, 0], [0, 1], [1, 2], [0, 0]])
    np.testing.assert_array_equal(rewards, [[1, 1], [2, 2], [1, 3], [2, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(dones, [[0, 0], [1, 0], [0, 1], [1, 0], [0, 0], [1, 1]])
    last = [[info["terminal_observation"].tolist() for info in row if "terminal_observation" in info] for row in infos]
    assert last == [[], [[2]], [[3]], [[2]], [], [[2], [3]]]
    assert infos[-1][1]["elapsed"] == 3
    assert infos[-1][1]["speed"] == 1.5


def test_a_next_step_engine_without_partial_reset_is_refused(monkeypatch):
    with pytest.raises(TypeError, match=r"Counter resets in the next step .*NEXT_STEP.* use AutoresetMode\.SAME_STEP"):
        VectorEnvAdapter(Counter(AutoresetMode.NEXT_STEP))

    monkeypatch.setattr(partial_reset, "_PARTIAL_RESETS", dict(partial_reset._PARTIAL_RESETS))
    register_partial_reset(Counter)(lambda engine, mask: engine.reset(options={"reset_mask": mask}))
    env = VectorEnvAdapter(Counter(AutoresetMode.NEXT_STEP))
    env.reset()
    env.step(np.zeros(2))
    np.testing.assert_array_equal(env.step(np.zeros(2))[0], [[0], [2]])


def test_seeds_and_options_serve_for_one_reset():
    env = VectorEnvAdapter(CartPoleVectorEnv(2))
    env.set_options({"low": 0.2, "high": 0.3})
    assert env.seed(4) == [4, 5]
    first, second = env.reset(), env.reset()
    assert ((first >= 0.2) & (first <= 0.3)).all()
    assert (np.abs(second) <= 0.05).all()
    third = env.reset()
    assert (second != third).all()
    env.seed(4)
    fourth = env.reset()
    np.testing.assert_allclose((first - 0.2) / 0.1, (fourth + 0.05) / 0.1, atol=1e-5)


def test_other_refusals():
    with pytest.raises(TypeError, match=r"expected a gymnasium\.vector\.VectorEnv, got CartPoleEnv"):
        VectorEnvAdapter(gym.make("CartPole-v1").unwrapped)
    with pytest.raises(TypeError, match=r"Counter does not say how it resets.*not 'sometimes'"):
        VectorEnvAdapter(Counter("sometimes"))
    with pytest.raises(TypeError, match="behind the back of its wrapper TransformReward: adapt CartPoleVectorEnv"):
        VectorEnvAdapter(gym.wrappers.vector.TransformReward(CartPoleVectorEnv(2), np.negative))
    nested = spaces.Dict({"inner": spaces.Dict({"box": BOX})})
    with pytest.raises(TypeError, match=r"observation space Dict.* is not supported; supported are Box, Discrete"):
        VectorEnvAdapter(SyncVectorEnv([lambda: Noise(nested)]))
    adapter = VectorEnvAdapter(CartPoleVectorEnv(2))
    adapter.set_options([{"low": 0.0}, {"low": 0.01}])
    with pytest.raises(ValueError, match="the same options"):
        adapter.reset()


def test_wrapped_engines_are_reset_through_their_wrappers():
    engine = SyncVectorEnv([Noise] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = VectorEnvAdapter(
        gym.wrappers.vector.TransformObservation(engine, lambda x: 0 * x + 7, engine.observation_space)
    )
    observations, dones = env.reset(), np.zeros(2, bool)
    while not dones.any():
        assert (observations == 7).all()
        observations, _, dones, _ = env.step(np.ones(2))
    assert (observations == 7).all()


def test_partial_reset_of_cart_poles_touches_only_its_columns():
    engine = CartPoleVectorEnv(4)
    env = VectorEnvAdapter(engine)
    env.set_options({"low": 0.01, "high": 0.02})
    env.seed(0)
    env.reset()
    engine.state[0, [1, 3]] = 3.0  # beyond the edge
    before = engine.state.copy()
    observations, _, dones, infos = env.step(np.zeros(4))
    assert dones.tolist() == [False, True, False, True]
    assert ((observations[dones] >= 0.01) & (observations[dones] <= 0.02)).all()
    assert engine.steps.tolist() == [1, 0, 1, 0]
    assert not engine.prev_done.any()
    np.testing.assert_allclose(observations[~dones][:, 0], before[0, ~dones] + 0.02 * before[1, ~dones], rtol=1e-6)
    assert infos[1]["terminal_observation"][0] > 2.9


class MaskedCartPoles(CartPoleVectorEnv):
    """An engine in one piece whose methods answer for all sub-environments at once, or for the engine."""

    def action_masks(self):
        return np.eye(3, 2, dtype=bool)

    def name(self):
        return "poles"


def test_methods_of_an_engine_in_one_piece():
    env = VectorEnvAdapter(MaskedCartPoles(3))
    assert [mask.tolist() for mask in env.env_method("action_masks")] == [[True, False], [False, True], [False, False]]
    assert [mask.tolist() for mask in env.env_method("action_masks", indices=[1])] == [[False, True]]
    assert env.env_method("name") == ["poles"] * 3


@pytest.mark.parametrize("engine_class", [SyncVectorEnv, AsyncVectorEnv])
def test_attributes_and_methods_of_sub_environments(engine_class):
    env = VectorEnvAdapter(engine_class([Noise] * 3))
    reference = DummyVecEnv([Noise] * 3)
    for vec in (env, reference):
        vec.reset()
        assert vec.get_attr("colour") == ["red"] * 3
        vec.set_attr("colour", "blue", indices=[0, 2])
        assert vec.get_attr("colour") == ["blue", "red", "blue"]
        assert vec.get_attr("colour", indices=1) == ["red"]
        assert vec.has_attr("colour")
        assert not vec.has_attr("flavour")
        assert vec.env_method("paint", "green") == [0, 0, 0]
        assert vec.get_attr("colour") == ["green"] * 3
        assert vec.get_attr("count") == [0, 0, 0]
        with pytest.raises(AttributeError):
            vec.env_method("sing")
    if engine_class is SyncVectorEnv:
        assert callable(env.get_attr("paint", 0)[0])
        assert env.env_method("paint", "black", indices=[1]) == [0]
        assert env.get_attr("colour") == ["green", "black", "green"]
    else:
        with pytest.raises(ValueError, match="all its sub-environments or of none"):
            env.env_method("paint", "black", indices=[1])
    env.close()


def test_attributes_and_methods_of_an_engine_without_sub_environments():
    env = VectorEnvAdapter(CartPoleVectorEnv(3))
    assert env.get_attr("gravity") == [9.8] * 3
    env.set_attr("gravity", 1.6)
    assert env.engine.unwrapped.gravity == 1.6
    assert len(env.env_method("reset", seed=1, indices=[0, 2])) == 2
    with pytest.raises(ValueError, match="one 'gravity' for all"):
        env.set_attr("gravity", 9.8, indices=0)
    assert not env.has_attr("flavour")
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3


def test_env_is_wrapped():
    env = VectorEnvAdapter(SyncVectorEnv([lambda: gym.wrappers.TimeLimit(Noise(), 5), Noise]))
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [True, False]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, indices=1) == [False]


def test_rendering_tiles_the_frames():
    pytest.importorskip("pygame")
    env = VectorEnvAdapter(CartPoleVectorEnv(4, render_mode="rgb_array"))
    assert env.render_mode == "rgb_array"
    env.reset()
    assert [image.shape for image in env.get_images()] == [(400, 600, 3)] * 4
    assert env.render().shape == (800, 1200, 3)
    env.close()
    blind = VectorEnvAdapter(CartPoleVectorEnv(2))
    with pytest.warns(UserWarning, match="no images"):
        assert blind.get_images() == [None, None]


def test_an_sb3_algorithm_learns_on_it():
    env = VecMonitor(
        VectorEnvAdapter(SyncVectorEnv([lambda: Noise(OBSERVATION_SPACES["dict"], spaces.Discrete(3))] * 4))
    )
    model = A2C("MultiInputPolicy", env, device="cpu", seed=0).learn(100)
    assert model.num_timesteps == 100
    assert len(model.ep_info_buffer) > 5
