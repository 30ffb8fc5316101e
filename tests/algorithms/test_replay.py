"""The replay buffer, against a list of transitions and Python loops, and by hand."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_contents import BOX, OBSERVATIONS, as_bytes, counted, everything
from scipy import stats

from gumbel_rl.sb3.replay import DiscreteReplayBuffer
from gumbel_rl.sb3.replay_storage import differing, identical
from gumbel_rl.wrappers import MASK_KEY

ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=-2),
    "wide": spaces.Discrete(300),
    "multi-discrete": spaces.MultiDiscrete([[3, 2], [4, 257]], start=[[0, 1], [-1, 7]]),
    "multi-binary": spaces.MultiBinary((2, 3)),
}


def batch(observations: list[Any]) -> Any:
    """What a `VecEnv` makes of observations."""
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)


class Reference:
    """Transitions of one environment in a list, with the returns as loops."""

    def __init__(self, n_steps: int, gamma: float) -> None:
        self.n_steps, self.gamma = n_steps, gamma
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        if self.rows and as_bytes(self.rows[-1]["next_obs"]) != as_bytes(row["obs"]):
            self.rows[-1]["done"] = True
        self.rows.append(row)

    def transitions(self, capacity: int) -> list[Any]:
        found = []
        for first in range(max(len(self.rows) - capacity, 0), len(self.rows)):
            total, row = 0.0, self.rows[first]
            for step in range(self.n_steps):
                row = self.rows[first + step]
                total += self.gamma**step * row["reward"]
                if row["done"] or first + step == len(self.rows) - 1:
                    break
            observations = as_bytes(self.rows[first]["obs"]), as_bytes(row["next_obs"])
            discount = 0.0 if row["terminated"] else self.gamma ** (step + 1)
            found.append(
                (observations[0], self.rows[first]["action"], observations[1], row["terminated"], total, discount)
            )
        return found


def indices_by_hand(space: spaces.Space[Any], action: Any) -> tuple[int, ...]:
    return tuple((np.asarray(action, dtype=np.int64) - getattr(space, "start", 0)).ravel().tolist())


@settings(max_examples=150, deadline=None)
@given(
    observation=st.sampled_from(sorted(OBSERVATIONS)),
    action=st.sampled_from(sorted(ACTIONS)),
    n_envs=st.integers(1, 4),
    capacity=st.integers(1, 9),
    n_steps=st.integers(1, 5),
    length=st.integers(1, 40),
    end=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    broken=st.sampled_from([0.0, 0.0, 0.15]),
    pickled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_everything_held_is_what_a_list_holds(
    observation, action, n_envs, capacity, n_steps, length, end, broken, pickled, seed
):
    space, action_space = copy.deepcopy(OBSERVATIONS[observation]), copy.deepcopy(ACTIONS[action])
    space.seed(seed)
    action_space.seed(seed)
    generator = np.random.default_rng(seed)
    gamma = 0.5  # together with whole rewards, sums are exact
    buffer = DiscreteReplayBuffer(
        capacity * n_envs + n_envs // 2, space, action_space, "cpu", n_envs, n_steps=n_steps, gamma=gamma
    )
    references = [Reference(n_steps, gamma) for _ in range(n_envs)]
    current = [space.sample() for _ in range(n_envs)]
    for time in range(length):
        following = [space.sample() for _ in range(n_envs)]
        actions = [action_space.sample() for _ in range(n_envs)]
        rewards = generator.integers(-99, 100, n_envs).astype(np.float32)
        done = generator.random(n_envs) < end
        truncated = done & (generator.random(n_envs) < 0.5)
        infos = [{"TimeLimit.truncated": bool(t)} if d else {} for t, d in zip(truncated, done, strict=True)]
        given_arrays = [batch(current), batch(following), np.stack(actions), rewards.copy(), done.copy()]
        buffer.add(*given_arrays, infos)
        for number, reference in enumerate(references):
            reference.add(
                obs=current[number],
                next_obs=following[number],
                action=indices_by_hand(action_space, actions[number]),
                reward=rewards[number].item(),
                terminated=bool(done[number] and not truncated[number]),
                done=bool(done[number]),
            )
        for array in given_arrays:  # what was given belongs to the caller, who may write to it
            for part in array.values() if isinstance(array, dict) else [array]:
                part[...] = 0
        restart = done | (generator.random(n_envs) < broken)
        current = [space.sample() if new else old for new, old in zip(restart, following, strict=True)]
        if pickled and time == length // 2:
            buffer = pickle.loads(pickle.dumps(buffer))
    assert buffer.size() == min(length, capacity)
    samples = everything(buffer)
    assert counted(samples) == Counter(row for reference in references for row in reference.transitions(capacity))
    # Every slot is held once, or free once.
    used = buffer.slots[buffer.slots > 0].tolist()
    held = len(next(iter(buffer.finals.columns.values())))
    assert sorted(used + buffer.finals.free.tolist()) == list(range(1, held))
    assert held <= buffer.slots.size + 1


def filled(
    steps: int = 50, n_envs: int = 2, capacity: int = 20, end: float = 0.2, space: Any = BOX, **options: Any
) -> DiscreteReplayBuffer:
    """A buffer of random episodes; rewards number the transitions."""
    options = {"seed": 0, "gamma": 0.5} | options
    buffer = DiscreteReplayBuffer(capacity * n_envs, space, spaces.Discrete(5), "cpu", n_envs, **options)
    generator = np.random.default_rng(1)
    space.seed(0)
    current = batch([space.sample() for _ in range(n_envs)])
    for time in range(steps):
        following = batch([space.sample() for _ in range(n_envs)])
        done = generator.random(n_envs) < end
        rewards = time * n_envs + np.arange(n_envs)
        buffer.add(current, following, generator.integers(5, size=n_envs), rewards, done, [{}] * n_envs)
        current = following  # where an episode ended, the next happens to begin with what it ended with
    return buffer


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("done", "truncated", "last", "discount", "terminated"),
    [(True, False, 9, 0, 1), (True, True, 9, 0.25, 0), (False, False, 3, 0.125, 0)],
    ids=["terminated", "truncated", "goes on"],
)
def test_returns_by_hand(done, truncated, last, discount, terminated):
    # Observations 0, 1, 2 and 3, or 9 where the episode ended after two steps; rewards 1, 2, 4; gamma 1/2, n 3.
    space = spaces.Box(0, 9, (1,), np.float32)
    buffer = DiscreteReplayBuffer(3, space, spaces.Discrete(2), "cpu", n_steps=3, gamma=0.5)
    reached = 9 if done else 2
    for obs, following, reward, over in ((0, 1, 1, False), (1, reached, 2, done), (2, 3, 4, False)):
        infos = [{"TimeLimit.truncated": over and truncated}]
        buffer.add(column(obs), column(following), np.array([1]), np.array([reward]), np.array([over]), infos)
    samples = everything(buffer)  # newest first
    first = 2
    assert samples.observations[:, 0].tolist() == [2, 1, 0]
    assert samples.actions.tolist() == [[1]] * 3
    assert samples.next_observations[first].item() == last
    assert samples.rewards[first].item() == (2 if done else 3)
    assert samples.discounts[first].item() == discount
    assert samples.dones[first].item() == terminated
    # The newest goes no further, and its value counts.
    assert [samples.rewards[0].item(), samples.discounts[0].item(), samples.dones[0].item()] == [4, 0.5, 0]
    for tensor, dtype in (("actions", torch.int64), ("rewards", torch.float32), ("discounts", torch.float32)):
        assert getattr(samples, tensor).dtype == dtype
        assert getattr(samples, tensor).shape == (3, 1)


def test_without_handling_of_time_limits_they_terminate():
    buffer = DiscreteReplayBuffer(3, BOX, spaces.Discrete(2), "cpu", gamma=0.5, handle_timeout_termination=False)
    row = np.ones((1, 3), np.float32)
    buffer.add(row, row, np.array([1]), np.array([0]), np.array([True]), [{"TimeLimit.truncated": True}])
    assert everything(buffer).discounts.item() == 0


def test_rewards_that_are_no_numbers_stay_where_they_are():
    buffer = filled(steps=30, n_steps=3)
    buffer.rewards[buffer.pos] = np.nan  # the row that is no transition
    buffer.rewards[buffer.pos - 1] = np.inf  # the newest
    returns = everything(buffer).rewards
    assert not returns.isnan().any()
    assert returns.isinf().sum() <= 3 * buffer.n_envs


def test_a_nan_observed_continues_an_episode():
    buffer = DiscreteReplayBuffer(9, BOX, spaces.Discrete(2), "cpu", n_steps=2, gamma=0.5)
    row = np.array([[np.nan, 0, 1]], np.float32)
    for _ in range(4):
        buffer.add(row, row, np.array([1]), np.array([1]), np.array([False]), [{}])
    assert everything(buffer).rewards.ravel().tolist() == [1, 1.5, 1.5, 1.5]


def test_rows_differ_in_any_key_and_any_byte():
    numbers = np.array([[0.0, 1.0], [np.nan, 2.0], [3.0, 4.0], [5.0, 6.0]])
    first = {"x": numbers, "n": np.zeros((4, 1), np.int64)}
    other = {"x": numbers.copy(), "n": np.zeros((4, 1), np.int64)}
    assert identical(first, other)
    assert not differing(first, other).any()
    other["x"][2, 0] = -3.0
    other["n"][0] = 2**40
    for one, two in ((first, other), (other, first)):
        assert not identical(one, two)
        assert differing(one, two).tolist() == [True, False, True, False]
    assert differing({"x": numbers}, {"x": np.nextafter(numbers, 9)}).tolist() == [True] * 4


def test_all_transitions_are_equally_likely():
    buffer = filled(steps=47, n_envs=3, capacity=20)
    draws = 120_000
    rewards = buffer.sample(draws).rewards.ravel().numpy().astype(int)
    held = np.arange((47 - 20) * 3, 47 * 3)
    counts = np.bincount(rewards, minlength=held[-1] + 1)
    assert counts[: held[0]].sum() == 0
    assert stats.chisquare(counts[held]).pvalue > 1e-6
    # Draws are independent of one another: so are the first and the second of every pair.
    first, second = ((rewards.reshape(-1, 2) - held[0]) // 12).T
    table = np.zeros((5, 5))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-6


def test_before_it_is_full_only_what_was_added_is_drawn():
    buffer = filled(steps=3, n_envs=2, capacity=20)
    assert sorted(set(buffer.sample(200).rewards.ravel().tolist())) == [0, 1, 2, 3, 4, 5]


def test_seeds_repeat_and_nothing_else_is_drawn_from():
    one, same, other = filled(seed=3), filled(seed=3), filled(seed=4)
    np.random.seed(0)  # noqa: NPY002  # the state that is not to be touched
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    draws = [buffer.sample(16).rewards for buffer in (one, same, other)]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(one.sample(16).rewards, draws[0])
    own, given_generator = copy.deepcopy(one.rng), np.random.default_rng(9)
    drawn = one.sample(16, rng=given_generator).rewards
    assert one.rng.bit_generator.state == own.bit_generator.state
    assert torch.equal(same.sample(16, rng=np.random.default_rng(9)).rewards, drawn)


def test_without_a_seed_torch_gives_it():
    buffers = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        buffers.append(filled(seed=None))
    draws = [buffer.sample(16).rewards.tolist() for buffer in buffers]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("steps", [7, 50], ids=["filling", "full"])
def test_a_pickled_buffer_goes_on_as_the_first_would_have(steps):
    buffer = filled(steps)
    buffer.sample(5)
    restored = pickle.loads(pickle.dumps(buffer))
    row = np.ones((2, 3), np.float32)
    for one in (buffer, restored):
        one.add(row, row, np.zeros(2), np.array([7, 8]), np.array([True, False]), [{}, {}])
    first, second = buffer.sample(64), restored.sample(64)
    for name in first._fields:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert counted(everything(buffer)) == counted(everything(restored))


def test_what_is_not_filled_is_not_saved():
    buffer = filled(steps=10, capacity=100_000)
    assert len(pickle.dumps(buffer)) < 10_000
    assert pickle.loads(pickle.dumps(buffer)).rewards.shape == buffer.rewards.shape


def test_the_newest_are_in_every_batch():
    buffer = filled(steps=47, n_envs=3, include_newest=True)
    newest = {46 * 3 + env for env in range(3)}
    for _ in range(20):
        rewards = buffer.sample(8).rewards.ravel().tolist()
        assert set(rewards[:3]) == newest
    assert set(buffer.sample(2).rewards.ravel().tolist()) < newest
    assert len(set(buffer.sample(500).rewards.ravel().tolist())) == 60


def test_batches_share_no_memory_with_the_buffer():
    buffer = filled()
    before = counted(everything(buffer))
    samples = everything(buffer)
    for tensor in samples:
        tensor.zero_()
    assert counted(everything(buffer)) == before


def test_reset_forgets():
    buffer = filled()
    buffer.reset()
    assert buffer.size() == 0
    row = np.full((2, 3), 5, np.float32)
    buffer.add(row, row + 1, np.zeros(2), np.array([7, 8]), np.zeros(2, bool), [{}, {}])
    samples = everything(buffer)
    assert sorted(samples.rewards.ravel().tolist()) == [7, 8]
    assert torch.equal(samples.next_observations, torch.full((2, 3), 6.0))


@pytest.mark.parametrize(
    ("space", "dtype", "columns"),
    [
        (spaces.Discrete(256), np.uint8, 1),
        (spaces.Discrete(257), np.uint16, 1),
        (spaces.Discrete(65_537), np.uint32, 1),
        (spaces.MultiDiscrete([10] * 32), np.uint8, 32),
        (spaces.MultiBinary(7), np.uint8, 7),
    ],
    ids=str,
)
def test_actions_are_the_smallest_integers(space, dtype, columns):
    buffer = DiscreteReplayBuffer(10, BOX, space, "cpu", 2, gamma=0.5)
    assert buffer.actions.dtype == dtype
    assert buffer.actions.shape == (6, 2, columns)


def test_masks_are_bits_and_numbers_keep_their_dtype():
    space = spaces.Dict({"image": spaces.Box(0, 255, (4, 4), np.uint8), MASK_KEY: spaces.Box(0, 1, (320,), np.float32)})
    buffer = DiscreteReplayBuffer(9, space, spaces.MultiDiscrete([10] * 32), "cpu", gamma=0.5)
    assert buffer.stored["image"].nbytes == 10 * 16
    assert buffer.stored[MASK_KEY].nbytes == 10 * 40


def test_final_observations_take_what_they_need():
    image = spaces.Box(0, 255, (10,), np.uint8)
    rare, always = filled(2000, capacity=500, end=0.01, space=image), filled(2000, capacity=500, end=1.0, space=image)
    assert len(rare.finals.columns[""]) < 60  # about ten at a time
    assert len(always.finals.columns[""]) == 501 * 2 + 1


def test_memory_that_is_not_there(monkeypatch):
    memory = types.SimpleNamespace(available=30_000_000)
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(virtual_memory=lambda: memory))
    with pytest.warns(UserWarning, match=r"2,000,000 transitions takes 0\.044 GB, but 0\.03 GB"):
        DiscreteReplayBuffer(2_000_000, BOX, spaces.Discrete(2), "cpu", gamma=0.5)
    memory.available = 2**63
    DiscreteReplayBuffer(2_000_000, BOX, spaces.Discrete(2), "cpu", gamma=0.5)
    with pytest.raises(MemoryError, match=r"need 2\.2e\+08 GB, .* choose a smaller buffer_size"):
        DiscreteReplayBuffer(10**16, BOX, spaces.Discrete(2), "cpu", gamma=0.5)
    monkeypatch.setitem(sys.modules, "psutil", None)
    DiscreteReplayBuffer(2_000_000, BOX, spaces.Discrete(2), "cpu", gamma=0.5)


def test_refusals():
    def make(**options: Any) -> DiscreteReplayBuffer:
        arguments = {"buffer_size": 8, "observation_space": BOX, "action_space": spaces.Discrete(3, start=2)}
        return DiscreteReplayBuffer(**(arguments | {"n_envs": 2, "gamma": 0.5} | options))

    for bad in ({"buffer_size": 0}, {"n_envs": 0}, {"n_steps": 0}, {"gamma": 1.1}, {"optimize_memory_usage": True}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make(**bad)
    with pytest.raises(TypeError, match="supported are Discrete"):
        make(action_space=BOX)
    with pytest.raises(TypeError, match="supported are Box"):
        make(observation_space=spaces.Text(3))
    with pytest.raises(ValueError, match="nothing to sample"):
        make().sample(4)
    rows, rewards, done = np.zeros((2, 3), np.float32), np.zeros(2), np.zeros(2, bool)
    for outside in ([1, 2], [2, 5], [2.5, 3]):
        buffer = make()
        with pytest.raises(ValueError, match="is not in Discrete"):
            buffer.add(rows, rows, np.array(outside), rewards, done, [{}, {}])
        assert buffer.size() == 0
