"""Continuous actions in bins: which values, in which order, dtype and shape, and the same for vector environments."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

from gumbel_rl import ActionFactors
from gumbel_rl.wrappers import ActionGrid, DiscretizeActions, DiscretizeVectorActions, OneHotActions

LOW, HIGH = np.array([[-1, 0, -4], [2, -8, 0]]), np.array([[1, 10, -2], [3, 8, 1]])
BOXES: dict[str, spaces.Box] = {
    "one": spaces.Box(-2.0, 2.0, (1,)),
    "vector": spaces.Box(np.array([-1.0, 0.0, 5.0]), np.array([1.0, 1.0, 7.0]), dtype=np.float64),
    "scalar": spaces.Box(-1.0, 1.0, ()),
    "matrix": spaces.Box(LOW.astype(np.float32), HIGH.astype(np.float32)),
    "integers": spaces.Box(-3, 120, (2,), np.int8),
}


class Recorder(gym.Env[Any, Any]):
    """Remembers the actions it is given and refuses those that are not in its space; terminates after 5 steps."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.actions: list[Any] = []
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # Without a conversion: a Box takes an array of another dtype for its own if it can be cast.
        assert action.dtype == self.action_space.dtype
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        self.steps += 1
        return self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32), 0.5, self.steps == 5, False, {}


def grids(space: spaces.Box, bins: Any) -> list[list[float]]:
    return [grid.tolist() for grid in ActionGrid(space, bins).grids]


# Which values.


def test_a_number_of_bins_is_for_all_dimensions_and_includes_both_bounds() -> None:
    grid = ActionGrid(BOXES["matrix"], 3)
    assert grid.space == spaces.MultiDiscrete([3] * 6)
    assert grids(BOXES["matrix"], 3) == [[-1, 0, 1], [0, 5, 10], [-4, -3, -2], [2, 2.5, 3], [-8, 0, 8], [0, 0.5, 1]]
    assert grids(BOXES["one"], 5) == [[-2, -1, 0, 1, 2]]
    assert grids(BOXES["one"], np.int64(2)) == [[-2, 2]]


def test_a_single_bin_is_the_middle() -> None:
    assert grids(BOXES["vector"], 1) == [[0], [0.5], [6]]
    # Of bounds whose difference is infinite, too.
    assert grids(spaces.Box(-1.5e308, 1.5e308, (1,), np.float64), 1) == [[0]]


@pytest.mark.parametrize("count", [2, 3, 7, 11, 50, 1001])
@pytest.mark.parametrize("bound", [0.1, 0.4, 1.0, 2.0, 1e30])
def test_bounds_and_middle_are_met_exactly(count: int, bound: float) -> None:
    space = spaces.Box(-bound, bound, (1,), np.float32)
    (grid,) = ActionGrid(space, count).grids
    assert grid.dtype == np.float32
    assert grid[0] == space.low[0]
    assert grid[-1] == space.high[0]
    assert np.array_equal(grid, -grid[::-1])
    if count % 2:
        assert grid[count // 2] == 0
    # Evenly spaced, but for rounding.
    assert np.allclose(np.diff(grid.astype(np.float64)), 2 * bound / (count - 1), rtol=1e-3)


def test_integers_are_rounded_to_the_nearest() -> None:
    assert grids(spaces.Box(0, 10, (1,), np.uint8), 4) == [[0, 3, 7, 10]]
    assert grids(spaces.Box(-3, 4, (1,), np.int64), 8) == [[-3, -2, -1, 0, 1, 2, 3, 4]]


def test_every_dimension_can_have_its_own_number_or_grid() -> None:
    mixed = [2, [0.0, 0.25, 1.0], np.array([6])]
    assert grids(BOXES["vector"], mixed) == [[-1, 1], [0, 0.25, 1], [6]]
    assert grids(BOXES["vector"], (3, 2, 1)) == grids(BOXES["vector"], np.array([3, 2, 1])) == [[-1, 0, 1], [0, 1], [6]]
    assert grids(BOXES["integers"], np.array([[-3, 0], [5, 120]])) == [[-3, 0], [5, 120]]


def test_a_given_value_may_be_a_bound_that_the_dtype_has_rounded_down() -> None:
    space = spaces.Box(-0.7, 0.7, (1,), np.float32)
    assert float(space.high[0]) < 0.7
    (grid,) = ActionGrid(space, [[-0.7, 0.0, 0.7]]).grids
    assert grid.tolist() == [space.low[0], 0, space.high[0]]


def test_action_values_are_the_grids_padded_with_their_last_value() -> None:
    grid = ActionGrid(BOXES["vector"], [1, [0.0, 0.5, 1.0], 2])
    assert grid.action_values.tolist() == [[0, 0, 0], [0, 0.5, 1], [5, 7, 7]]
    assert grid.action_values.dtype == np.float64
    assert (np.diff(grid.action_values) >= 0).all()
    assert grid.space.nvec.tolist() == [1, 3, 2]
    # As the library's critics have them: a row a factor.
    factors = ActionFactors.from_space(grid.space)
    assert grid.action_values.shape == (len(factors.sizes), factors.max_size)
    for values in (grid.action_values, *grid.grids):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1.0


# From choices to actions.


@pytest.mark.parametrize("name", BOXES)
def test_every_choice_is_its_value_at_its_place(name: str) -> None:
    space = BOXES[name]
    bins = [2 + index % 2 for index in range(int(np.prod(space.shape)))]
    recorder = Recorder(space)
    env = DiscretizeActions(recorder, bins)
    assert env.action_space == spaces.MultiDiscrete(bins)
    env.reset(seed=0)
    for choice in itertools.product(*map(range, bins)):
        env.step(np.array(choice))
        action = recorder.actions[-1]
        assert isinstance(action, np.ndarray)
        assert action.dtype == space.dtype
        assert action.shape == space.shape
        assert [env.grids[d].tolist().index(value) for d, value in enumerate(action.flat)] == list(choice)
    # No two of them share memory: an environment may keep or change what it is given.
    recorder.actions[-1][...] = 0
    env.step(np.array(choice))
    assert recorder.actions[-1].flat[-1] == space.high.flat[-1]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_batches_of_any_integers(dtype: Any) -> None:
    grid = ActionGrid(BOXES["matrix"], [2, 3, 2, 3, 2, 3])
    choices = np.random.default_rng(0).integers(0, [2, 3, 2, 3, 2, 3], (4, 5, 6)).astype(dtype)
    batch = grid.actions(choices)
    assert batch.shape == (4, 5, 2, 3)
    assert batch.dtype == np.float32
    for index in np.ndindex(4, 5):
        assert np.array_equal(batch[index], grid.actions(choices[index]))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 3, 0], "there are [2, 3, 2] choices, counted from 0, got [0, 3, 0]"),
        ([0, -1, 0], "there are [2, 3, 2] choices, counted from 0, got [0, -1, 0]"),
        ([0, 1], "one for each of the 3 dimensions, got an array of shape (2,) and type int64"),
        (
            [0.0, 1.0, 1.0],
            "expected integers, one for each of the 3 dimensions, got an array of shape (3,) and type flo",
        ),
        ([[0, 1, 1]], "expected one action, MultiDiscrete([2 3 2]), got an array of shape (1, 3)"),
        (1, "expected one action, MultiDiscrete([2 3 2]), got an array of shape ()"),
    ],
)
def test_what_is_no_action_is_refused(action: Any, message: str) -> None:
    env = DiscretizeActions(Recorder(BOXES["vector"]), [2, 3, 2])
    env.reset()
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(np.array(action))


# What is refused.


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([-1, -np.inf], [1, 1], "dimension 1 of Box(.*) ranges from -inf to 1.0"),
        ([-1, -1, -1], [1, 1, np.inf], "dimension 2 of Box(.*) ranges from -1.0 to inf"),
        ([[-1, -1], [-np.inf, 0]], [[1, 1], [np.inf, 1]], r"dimension \(1, 0\) of Box(.*) ranges from -inf to inf"),
        ([[-np.inf, -1]], [[1, np.inf]], r"dimension \(0, 0\) of Box"),
    ],
)
def test_an_unbounded_dimension_is_named(low: Any, high: Any, message: str) -> None:
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    for wrap in (lambda: ActionGrid(space, 3), lambda: DiscretizeActions(Recorder(space), 3)):
        with pytest.raises(
            ValueError, match=f"(?s)only a bounded action space can be divided into bins, but {message}"
        ):
            wrap()


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Dict(a=BOXES["one"])], ids=str
)
def test_other_spaces_are_refused(space: Any) -> None:
    with pytest.raises(TypeError, match=rf"only a Box .* divided into bins, got {re.escape(str(space))}"):
        DiscretizeActions(Recorder(space), 3)


@pytest.mark.parametrize(
    ("bins", "error", "message"),
    [
        (0, ValueError, "there must be at least one bin, got 0 for dimension 0"),
        ([3, 3, -2], ValueError, "there must be at least one bin, got -2 for dimension 2"),
        (2.5, TypeError, "bins must be a whole number or a sequence with an entry for each dimension, got 2.5"),
        (True, TypeError, "bins must be a whole number or a sequence"),
        (None, TypeError, "bins must be a whole number or a sequence"),
        ("555", TypeError, "bins must be a whole number or a sequence"),
        (np.array(3), TypeError, "bins must be a whole number or a sequence"),
        ([3, 3], ValueError, "bins needs one entry a dimension, 3 in all, got 2"),
        ([3, 2.0, 3], ValueError, "the bins of dimension 1 must be a whole number or an array of values, got 2.0"),
        ([True, 3, 3], ValueError, "the bins of dimension 0 must be a whole number or an array of values, got True"),
        ([3, [], 3], ValueError, "the bins of dimension 1 must be a whole number or an array of values, got []"),
        ([3, "ab", 3], ValueError, "the bins of dimension 1 must be a whole number or an array of values, got 'ab'"),
        ([3, [[0.5]], 3], ValueError, "the bins of dimension 1 must be a whole number or an array of values"),
        ([3, [0, 1.5], 3], ValueError, "the values of dimension 1 must be float64 from 0.0 to 1.0, got [0.0, 1.5]"),
        ([[-1.1, 1], 3, 3], ValueError, "the values of dimension 0 must be float64 from -1.0 to 1.0, got [-1.1, 1.0]"),
        ([[0, np.nan], 3, 3], ValueError, "the values of dimension 0 must be float64 from -1.0 to 1.0, got [0.0, nan]"),
        ([[0.5, 0.5], 3, 3], ValueError, "the values of dimension 0 must ascend strictly, got [0.5, 0.5]"),
        ([[1.0, 0.5], 3, 3], ValueError, "the values of dimension 0 must ascend strictly, got [1.0, 0.5]"),
    ],
)
def test_bins_that_do_not_fit_are_refused(bins: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ActionGrid(BOXES["vector"], bins)


@pytest.mark.parametrize(
    ("space", "bins", "message"),
    [
        (
            BOXES["one"],
            [-2, 0, 2],
            "needs one entry a dimension, 1 in all, got 3; a grid for a single dimension is writ",
        ),
        (spaces.Box(0, 2, (1,), np.uint8), 4, "dimension 0, from 0 to 2 in uint8, has no 4 different values"),
        (spaces.Box(1.0, 1.0, (1,)), 2, "dimension 0, from 1.0 to 1.0 in float32, has no 2 different values"),
        (
            spaces.Box(0, 2, (1,), np.uint8),
            [[0, 256]],
            "the values of dimension 0 must be uint8 from 0 to 2, got [0, 256]",
        ),
        (
            spaces.Box(0, 2, (1,), np.uint8),
            [[0, 0.5]],
            "the values of dimension 0 must be uint8 from 0 to 2, got [0.0, ",
        ),
        (BOXES["one"], [[1.0, 1.0 + 1e-12]], "must ascend strictly, got [1.0, 1.000000000001] in float32"),
        (BOXES["one"], [[0, 1e300]], "the values of dimension 0 must be float32 from -2.0 to 2.0, got [0.0, 1e+300]"),
        (spaces.Box(0.0, 1.0, (0,)), 3, "an action space without dimensions cannot be divided into bins"),
    ],
)
def test_bins_that_do_not_fit_a_space_are_refused(space: spaces.Box, bins: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ActionGrid(space, bins)


def test_a_dimension_with_one_value_has_one_bin() -> None:
    assert grids(spaces.Box(np.array([1.0, 0.0]), np.array([1.0, 2.0]), dtype=np.float64), [1, 2]) == [[1], [0, 2]]


# As a wrapper.


@pytest.mark.parametrize("name", BOXES)
def test_the_checkers_of_gymnasium_and_sb3_have_nothing_to_say(name: str) -> None:
    for env in (
        DiscretizeActions(Recorder(BOXES[name]), 3),
        OneHotActions(DiscretizeActions(Recorder(BOXES[name]), 3)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # True of every wrapper; and this environment was not made by its id.
            warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
            warnings.filterwarnings("ignore", message=".*alternative render modes due to the environment not having a")
            sb3_check_env(env)
            gymnasium_check_env(env)


@pytest.mark.parametrize(
    "bins", [5, [5], [[-2.0, -0.3, 0.1, 2.0]], np.array([[-2.0, 0.3]]), (np.array([-0.1, 0.2]),)], ids=str
)
def test_an_environment_made_by_its_id_can_be_made_again_from_its_spec(bins: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        env = DiscretizeActions(gym.make("Pendulum-v1"), bins)
        sb3_check_env(env)
        gymnasium_check_env(env, skip_render_check=True)
    assert env.spec is not None
    # Also through text, as experiment trackers keep it.
    for spec in (env.spec, gym.envs.registration.EnvSpec.from_json(env.spec.to_json())):
        again = gym.make(spec)
        assert isinstance(again, DiscretizeActions)
        assert again.action_space == env.action_space
        assert [grid.tolist() for grid in again.grids] == [grid.tolist() for grid in env.grids]


@pytest.mark.parametrize(
    "duplicate", [lambda grid: pickle.loads(pickle.dumps(grid)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_copies_of_the_grid_map_alike(duplicate: Any) -> None:
    grid = ActionGrid(BOXES["matrix"], [2, 3, 2, 3, 2, 3])
    twin = duplicate(grid)
    choices = np.array([1, 2, 0, 1, 1, 2])
    assert np.array_equal(twin.actions(choices), grid.actions(choices))
    assert twin.space == grid.space


def test_random_actions_reach_every_value() -> None:
    recorder = Recorder(BOXES["one"])
    env = DiscretizeActions(recorder, 4)
    env.action_space.seed(0)
    env.reset()
    for _ in range(100):  # a value is missed with probability 4 * 0.75^100, 1e-12
        env.step(env.action_space.sample())
    assert {float(action[0]) for action in recorder.actions} == set(env.grids[0].tolist())


def test_the_values_are_found_from_a_vec_env() -> None:
    env = make_vec_env(lambda: DiscretizeActions(Recorder(BOXES["vector"]), [1, 3, 2]), 2)
    assert env.get_attr("action_values")[0].tolist() == [[0, 0, 0], [0, 0.5, 1], [5, 7, 7]]


def test_what_is_no_single_environment_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="got SyncVectorEnv; DiscretizeVectorActions wraps vector"):
        DiscretizeActions(gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync"), 3)  # type: ignore[arg-type]


# As a wrapper of vector environments.


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")  # of no dimension, by Gymnasium's engine
@pytest.mark.parametrize("name", BOXES)
def test_vector_environments_take_the_same_actions(name: str) -> None:
    space = BOXES[name]
    bins = [2 + index % 2 for index in range(int(np.prod(space.shape)))]
    engine = SyncVectorEnv([lambda: Recorder(space)] * 3)
    env = DiscretizeVectorActions(engine, bins)
    single = DiscretizeActions(Recorder(space), bins)
    assert env.single_action_space == single.action_space
    assert env.action_space.shape == (3, len(bins))
    assert [grid.tolist() for grid in env.grids] == [grid.tolist() for grid in single.grids]
    assert np.array_equal(env.action_values, single.action_values)
    env.action_space.seed(1)
    env.reset(seed=0)
    for _ in range(4):
        choices = env.action_space.sample()
        env.step(choices)
        for recorder, choice in zip(engine.envs, choices, strict=True):
            assert np.array_equal(recorder.unwrapped.actions[-1], single.action(choice))


def test_a_vector_environment_is_wanted() -> None:
    with pytest.raises(TypeError, match="VectorEnv"):
        DiscretizeVectorActions(Recorder(BOXES["one"]), 3)  # type: ignore[arg-type]
    discrete = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(TypeError, match="only a Box action space"):
        DiscretizeVectorActions(discrete, 3)
