"""Wrappers: actions as one-hots and back, masks as observations, and what a mask forbids is never executed."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from oracles import assert_frequencies
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from gumbel_rl import ActionFactors
from gumbel_rl.sb3 import ActionMaskObservation, OneHotActions
from gumbel_rl.wrappers import OneHotBox, check_mask

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "discrete-start": spaces.Discrete(3, start=-2),
    "discrete-one": spaces.Discrete(1),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multidiscrete-ragged": spaces.MultiDiscrete([2, 5, 1, 3]),
    "multidiscrete-grid-start": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[1, -1], [0, 7]])),
    "multidiscrete-uint8": spaces.MultiDiscrete([2, 3], dtype=np.uint8),
    "multibinary": spaces.MultiBinary(4),
    "multibinary-grid": spaces.MultiBinary([2, 1, 2]),
}


class Recorder(gym.Env[Any, Any]):
    """Remembers the actions it is given and refuses those that are not in its space; terminates after 5 steps."""

    def __init__(self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] | None = None) -> None:
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.actions: list[Any] = []
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.actions.append(action)
        self.steps += 1
        return self.observation(), 0.5, self.steps == 5, False, self.info()

    def observation(self) -> Any:
        return self.observation_space.sample()

    def info(self) -> dict[str, Any]:
        return {}


class InfoMasked(Recorder):
    """Gives `masks[t]` at step `t` of an episode, as `info["action_mask"]`."""

    def __init__(self, action_space: spaces.Space[Any], masks: list[Any], *args: Any) -> None:
        super().__init__(action_space, *args)
        self.masks = masks

    def info(self) -> dict[str, Any]:
        return {"action_mask": copy.copy(self.masks[self.steps])}


class MethodMasked(InfoMasked):
    """Gives the same by the method `action_masks`, and in `info` another that must not count."""

    def action_masks(self) -> Any:
        return self.masks[self.steps]

    def info(self) -> dict[str, Any]:
        return {"action_mask": np.zeros(99)}


# OneHotBox


@pytest.mark.parametrize("sizes", [(4,), (2, 3), (2, 5, 1, 3), (1,), (2, 2, 2)], ids=str)
def test_samples_are_vertices_and_uniform(sizes: tuple[int, ...]) -> None:
    space = OneHotBox(ActionFactors(sizes), seed=1)
    draws = np.stack([space.sample() for _ in range(3000)])
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) <= {-1.0, 1.0}
    assert all(space.contains(draw) for draw in draws[:20])
    blocks = torch.from_numpy((draws + 1) / 2).split(list(sizes), -1)
    for block in blocks:
        assert torch.equal(block.sum(-1), torch.ones(3000))
    # Jointly uniform: no factor follows another.
    joint = torch.zeros(3000, dtype=torch.long)
    for n, block in zip(sizes, blocks, strict=True):
        joint = joint * n + block.argmax(-1)
    count = int(np.prod(sizes))
    if count > 1:
        assert_frequencies(torch.nn.functional.one_hot(joint, count), torch.ones(count))


def test_masked_samples_are_uniform_over_what_is_allowed() -> None:
    space = OneHotBox(ActionFactors((2, 4)), seed=2)
    mask = np.array([0, 1, 1, 0, 1, 1], dtype=np.int8)
    draws = torch.from_numpy(np.stack([space.sample(mask=mask) for _ in range(2000)]) + 1) / 2
    assert torch.equal(draws[:, :2], torch.tensor([0.0, 1.0]).expand(2000, 2))
    assert_frequencies(draws[:, 2:], torch.tensor([1.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(5), r"needs 6 entries, one for each choice of \(2, 4\), got 5"),
        (np.zeros(6), "factor 0 has none left"),
        (np.array([1, 0, 0, 0, 0, 0]), "factor 1 has none left"),
    ],
)
def test_masks_of_samples_are_checked(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneHotBox(ActionFactors((2, 4))).sample(mask=mask)


def test_sampling_with_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="uniformly, not with given probabilities"):
        OneHotBox(ActionFactors((2,))).sample(probability=np.array([0.5, 0.5]))  # type: ignore[arg-type]


def test_a_seed_fixes_the_samples() -> None:
    def draws(space: OneHotBox) -> list[list[float]]:
        return [space.sample().tolist() for _ in range(20)]

    factors = ActionFactors((3, 4))
    first = draws(OneHotBox(factors, seed=5))
    assert draws(OneHotBox(factors, seed=5)) == first
    assert draws(OneHotBox(factors, seed=6)) != first
    late = OneHotBox(factors)
    late.seed(5)
    assert draws(late) == first


@pytest.mark.parametrize(
    "duplicate", [lambda space: pickle.loads(pickle.dumps(space)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_copies_of_the_space_know_the_factors_and_go_on_with_the_samples(duplicate: Any) -> None:
    space = OneHotBox(ActionFactors((2, 3), start=(1, 0)), seed=3)
    space.sample()
    twin = duplicate(space)
    assert twin == space
    assert twin.factors == space.factors
    assert [twin.sample().tolist() for _ in range(9)] == [space.sample().tolist() for _ in range(9)]


def test_equality_goes_by_the_factors() -> None:
    space, plain = OneHotBox(ActionFactors((2, 4))), spaces.Box(-1.0, 1.0, (6,), np.float32)
    assert space == OneHotBox(ActionFactors((2, 4), start=(1, 1)))
    for other in (OneHotBox(ActionFactors((4, 2))), OneHotBox(ActionFactors((6,))), plain, spaces.Discrete(6)):
        # A plain Box of the same shape and bounds would call them equal, were it asked.
        assert space != other
        assert other != space
        assert not space == other  # noqa: SIM201 - both operators are meant
        assert not other == space  # noqa: SIM201
    assert repr(space) == "OneHotBox(2, 4)"


# OneHotActions


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_every_vertex_becomes_its_action(name: str) -> None:
    space = ACTION_SPACES[name]
    recorder = Recorder(space)
    env = OneHotActions(recorder)
    factors = env.factors
    assert env.action_space == OneHotBox(factors)
    env.reset(seed=0)
    actions: list[Any] = []
    for choice in itertools.product(*map(range, factors.sizes)):
        one_hot = np.concatenate([2.0 * np.eye(n)[k] - 1.0 for n, k in zip(factors.sizes, choice, strict=True)])
        assert env.action_space.contains(one_hot.astype(np.float32))
        env.reset()
        env.step(one_hot.astype(np.float32))
        expected = np.reshape(np.add(choice, factors.start), factors.shape).astype(space.dtype)
        action = recorder.actions[-1]
        assert np.array_equal(action, expected)
        assert action.dtype == space.dtype
        assert action.shape == expected.shape == space.shape
        assert isinstance(action, np.ndarray) == (not isinstance(space, spaces.Discrete))
        actions.append(action)
    assert len({action.tobytes() for action in actions}) == factors.joint_size
    # And the encoding of an action is the vertex it came from.
    assert np.array_equal(factors.decode(factors.encode(np.array(actions))), np.array(actions))


def test_the_largest_entry_of_each_block_is_the_choice() -> None:
    env = OneHotActions(Recorder(spaces.MultiDiscrete([2, 3], start=[0, 10])))
    assert env.action(np.array([-0.9, -0.8, -0.3, -0.1, -0.2], dtype=np.float32)).tolist() == [1, 11]


@pytest.mark.parametrize("action", [0, np.int64(1), [0, 1], np.zeros(4), np.zeros((1, 5)), np.zeros(10)], ids=repr)
def test_what_is_no_one_hot_is_refused(action: Any) -> None:
    env = OneHotActions(Recorder(spaces.MultiDiscrete([2, 3])))
    env.reset()
    with pytest.raises(
        ValueError, match=r"takes 5 entries, one for each choice of \(2, 3\), got an action of shape \("
    ):
        env.step(action)


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_the_checkers_of_gymnasium_and_sb3_have_nothing_to_say(name: str) -> None:
    space = ACTION_SPACES[name]
    width = ActionFactors.from_space(space).width
    masks = [np.ones(width, dtype=np.int8)] * 6
    for env in (OneHotActions(Recorder(space)), OneHotActions(ActionMaskObservation(InfoMasked(space, masks)))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # True of every wrapper; and this environment was not made by its id.
            warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
            warnings.filterwarnings("ignore", message=".*alternative render modes due to the environment not having a")
            sb3_check_env(env)
            gymnasium_check_env(env)


def test_an_environment_made_by_its_id_can_be_made_again_from_its_spec() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        warnings.filterwarnings("ignore", message=".*Box observation space m.* value is -?infinity")  # CartPole's own
        env = OneHotActions(gym.make("CartPole-v1"))
        sb3_check_env(env)
        gymnasium_check_env(env, skip_render_check=True)
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, OneHotActions)
    assert again.action_space == env.action_space


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Dict({"a": spaces.Discrete(2)}), OneHotBox], ids=str)
def test_other_action_spaces_are_refused(space: Any) -> None:
    space = space(ActionFactors((2,))) if space is OneHotBox else space
    for wrapper in (OneHotActions, ActionMaskObservation):
        with pytest.raises(TypeError, match="supported are Discrete, MultiDiscrete and MultiBinary"):
            wrapper(Recorder(space))


def test_what_is_no_single_environment_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"got SyncVectorEnv.*make_vec_env\(\.\.\., wrapper_class=OneHotActions\)"):
        OneHotActions(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))  # type: ignore[arg-type]


# Masks


def random_masks(factors: ActionFactors, count: int, seed: int) -> list[np.ndarray[Any, Any]]:
    """Masks that forbid about two thirds of the choices and leave one of each factor."""
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        blocks = [generator.random(n) < 1 / 3 for n in factors.sizes]
        for block in blocks:
            block[generator.integers(len(block))] = True
        masks.append(np.concatenate(blocks).astype(np.int8))
    return masks


@pytest.mark.parametrize("convention", [InfoMasked, MethodMasked])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_random_actions_never_execute_what_is_forbidden(name: str, convention: type[InfoMasked]) -> None:
    space = ACTION_SPACES[name]
    factors = ActionFactors.from_space(space)
    masks = random_masks(factors, 6, seed=1)
    recorder = convention(space, masks)
    env = OneHotActions(ActionMaskObservation(recorder))
    env.action_space.seed(0)
    kept = 0
    for _ in range(20):
        observation, _ = env.reset()
        for step in range(5):
            assert env.observation_space.contains(observation)
            assert np.array_equal(observation["action_mask"], masks[step])
            wanted = env.action_space.sample()
            observation, *_ = env.step(wanted)
            executed = factors.encode(recorder.actions[-1])
            assert (executed.numpy() <= masks[step]).all()
            asked = (wanted + 1) / 2
            if (asked <= masks[step]).all():  # an allowed action is executed as it is
                assert np.array_equal(asked, executed)
                kept += 1
    assert kept
    assert len(recorder.actions) == 100


def test_the_mask_of_a_new_episode_replaces_that_of_the_last() -> None:
    masks = [np.array([1, 0]), np.array([0, 1])]
    recorder = InfoMasked(spaces.Discrete(2), masks)
    env = OneHotActions(ActionMaskObservation(recorder))
    left, right = np.array([1.0, -1.0]), np.array([-1.0, 1.0])
    env.reset()
    env.step(right)
    env.reset()
    env.step(right)
    assert recorder.actions == [0, 0]
    with pytest.raises(IndexError):
        env.step(left)
    assert recorder.actions == [0, 0, 1]


@pytest.mark.parametrize("as_list", [list, tuple])
def test_a_mask_may_come_factor_by_factor(as_list: Any) -> None:
    parts = [as_list([np.array([True, False]), [0, 1, 1]])] * 6
    env = ActionMaskObservation(InfoMasked(spaces.MultiDiscrete([2, 3]), parts))
    observation, _ = env.reset()
    assert observation["action_mask"].tolist() == [1, 0, 0, 1, 1]
    assert observation["action_mask"].dtype == np.int8
    assert env.observation_space["action_mask"] == spaces.MultiBinary(5)


def test_a_flat_list_and_an_array_of_another_shape_are_masks_too() -> None:
    factors = ActionFactors((2, 2))
    for mask in ([1, 0, 1, 1], np.array([[1, 0], [1, 1]]), torch.tensor([1.0, 0.0, 1.0, 1.0])):
        assert check_mask(mask, factors).tolist() == [True, False, True, True]


def test_a_mask_in_the_environments_own_dict_keeps_its_type_and_shape() -> None:
    space = spaces.Dict({"x": spaces.Discrete(3), "action_mask": spaces.Box(0.0, 1.0, (2, 2), np.float32)})

    class Own(Recorder):
        def observation(self) -> Any:
            return {"x": np.int64(1), "action_mask": np.array([[0, 1], [1, 0]], dtype=np.float32)}

    env = OneHotActions(Own(spaces.MultiDiscrete([2, 2]), space))
    observation, _ = env.reset()
    assert space.contains(observation)
    assert observation["action_mask"].dtype == np.float32
    assert env.action(np.array([1.0, -1.0, -1.0, 1.0])).tolist() == [1, 0]


def test_dict_observations_gain_the_key_and_others_become_an_entry() -> None:
    masks = [np.ones(2)] * 6
    nested = ActionMaskObservation(InfoMasked(spaces.Discrete(2), masks))
    observation, _ = nested.reset()
    assert set(observation) == {"observation", "action_mask"}
    assert nested.observation_space["observation"] == spaces.Box(-1.0, 1.0, (2,), np.float32)
    inner = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, (3,))})
    env = ActionMaskObservation(InfoMasked(spaces.Discrete(2), masks, inner))
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"a", "b", "action_mask"}
    assert env.observation_space.contains(observation)
    assert "action_mask" not in inner.spaces  # the environment's own space is left as it was


@pytest.mark.parametrize("forbidden", [[0, 0, 0, 0], [1, 0, 0, 0]])
def test_a_terminal_state_may_forbid_everything_and_no_other(forbidden: list[int]) -> None:
    masks = [np.ones(4)] * 5 + [np.array(forbidden)]
    env = OneHotActions(ActionMaskObservation(InfoMasked(spaces.MultiDiscrete([2, 2]), masks)))
    env.reset()
    for _ in range(5):
        observation, _, terminated, _, _ = env.step(env.action_space.sample())
    assert terminated
    assert observation["action_mask"].tolist() == [1, 1, 1, 1]
    early = OneHotActions(ActionMaskObservation(InfoMasked(spaces.MultiDiscrete([2, 2]), [masks[0], masks[5]])))
    early.reset()
    with pytest.raises(ValueError, match="must allow a choice of every factor"):
        early.step(early.action_space.sample())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(4), r"needs 5 entries, one for each choice of \(2, 3\), got 4"),
        ([np.ones(2), np.ones(2)], "needs 5 entries"),
        ([], "needs 5 entries"),
        (None, "needs 5 entries"),
        (np.array([1, 1, 0, 0, 0]), "factor 1 has none left"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, message: str) -> None:
    env = ActionMaskObservation(InfoMasked(spaces.MultiDiscrete([2, 3]), [mask]))
    with pytest.raises(ValueError, match=message):
        env.reset()


def test_an_environment_without_a_mask_is_refused_at_the_first_reset() -> None:
    with pytest.raises(ValueError, match=r"gives no action mask: it needs a method action_masks\(\), or info\['action"):
        ActionMaskObservation(Recorder(spaces.Discrete(2))).reset()


def test_a_second_mask_is_refused() -> None:
    env = ActionMaskObservation(InfoMasked(spaces.Discrete(2), [np.ones(2)]))
    with pytest.raises(ValueError, match="has an entry 'action_mask' already"):
        ActionMaskObservation(env)
