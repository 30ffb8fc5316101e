"""ActionFactors: from Gymnasium's spaces to one-hots and back."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gumbel_rl import ActionFactors

SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "discrete-start": spaces.Discrete(3, start=-2),
    "discrete-one": spaces.Discrete(1),
    "multidiscrete": spaces.MultiDiscrete([3, 3]),
    "multidiscrete-ragged": spaces.MultiDiscrete([2, 5, 1, 3]),
    "multidiscrete-grid-start": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, -1], [0, 7]])),
    "multidiscrete-uint8": spaces.MultiDiscrete([2, 3], dtype=np.uint8),
    "multidiscrete-uint16": spaces.MultiDiscrete([2, 3], dtype=np.uint16),
    "multibinary": spaces.MultiBinary(5),
    "multibinary-grid": spaces.MultiBinary([2, 3, 2]),
}
BATCHES: list[tuple[int, ...]] = [(), (6,), (2, 3), (0,)]


def draw(space: spaces.Space[Any], batch: tuple[int, ...]) -> np.ndarray[Any, Any]:
    space.seed(0)
    samples = [np.asarray(space.sample()) for _ in range(math.prod(batch))]
    return np.array(samples, dtype=space.dtype).reshape((*batch, *(space.shape or ())))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_actions_survive_the_round_trip(name: str, batch: tuple[int, ...]) -> None:
    space = SPACES[name]
    factors = ActionFactors.from_space(space)
    actions = draw(space, batch)
    one_hot = factors.encode(actions)
    assert one_hot.shape == (*batch, factors.width)
    assert one_hot.dtype == torch.float32
    decoded = factors.decode(one_hot)
    assert decoded.dtype == space.dtype
    assert decoded.shape == actions.shape
    assert np.array_equal(decoded, actions)
    assert all(space.contains(action) for action in decoded.reshape((-1, *factors.shape)))
    assert batch or space.contains(decoded)


@pytest.mark.parametrize("name", SPACES)
def test_every_vertex_is_one_action_of_the_space(name: str) -> None:
    space = SPACES[name]
    factors = ActionFactors.from_space(space)
    vertices = factors.vertices()
    assert vertices.shape == (factors.joint_size, factors.width)
    actions = factors.decode(vertices)
    assert len({action.tobytes() for action in actions}) == factors.joint_size
    assert all(space.contains(action) for action in actions)
    assert torch.equal(factors.encode(actions), vertices)


def test_blocks_by_hand() -> None:
    factors = ActionFactors.from_space(spaces.MultiDiscrete([2, 3], start=[0, 10]))
    assert factors.sizes == (2, 3)
    assert factors.width == 5
    assert factors.max_size == 3
    assert factors.joint_size == 6
    assert not factors.equal_sizes
    assert factors.max_entropy == pytest.approx(math.log(6))
    assert factors.encode(np.array([1, 12])).tolist() == [0, 1, 0, 0, 1]
    assert factors.decode(torch.tensor([0.2, 0.1, 0.0, 0.5, 0.4])).tolist() == [0, 11]
    assert factors.indices(torch.tensor([0.2, 0.1, 0.0, 0.5, 0.4])).tolist() == [0, 1]
    assert factors.to_env(torch.tensor([[1, 2]])).tolist() == [[1, 12]]
    assert factors.vertices()[:2].tolist() == [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0]]  # the last factor runs fastest


def test_a_factor_whose_scores_are_all_negative_is_decoded_right() -> None:
    # Padding must never win the argmax, whatever the sign of the entries.
    factors = ActionFactors((2, 3))
    assert factors.indices(torch.tensor([-5.0, -4.0, -3.0, -1.0, -2.0])).tolist() == [1, 1]


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (2, 5, 1, 3)])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_flatten_undoes_pad(sizes: tuple[int, ...], batch: tuple[int, ...]) -> None:
    factors = ActionFactors(sizes)
    flat = torch.randn(*batch, factors.width, requires_grad=True)
    padded = factors.pad(flat, -7.0)
    assert padded.shape == (*batch, len(sizes), max(sizes))
    valid = factors.valid(flat.device)
    assert (padded[..., ~valid] == -7.0).all()
    assert torch.equal(factors.flatten(padded), flat)
    upstream = torch.randn_like(padded)
    (gradient,) = torch.autograd.grad(padded, flat, upstream)
    assert torch.equal(gradient, factors.flatten(upstream))


@st.composite
def space_and_batch(draw: st.DrawFn) -> tuple[spaces.Space[Any], tuple[int, ...]]:
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    count = math.prod(shape)
    kind = draw(st.sampled_from(["discrete", "multidiscrete", "multibinary"]))
    space: spaces.Space[Any]
    if kind == "discrete":
        space = spaces.Discrete(draw(st.integers(1, 40)), start=draw(st.integers(-50, 50)))
    elif kind == "multidiscrete":
        nvec = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
        start = draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count))
        space = spaces.MultiDiscrete(np.reshape(nvec, shape), start=np.reshape(start, shape))
    else:
        space = spaces.MultiBinary(shape)
    return space, tuple(draw(st.lists(st.integers(1, 3), max_size=2)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(space_and_batch())
def test_any_supported_space_survives_the_round_trip(case: tuple[spaces.Space[Any], tuple[int, ...]]) -> None:
    space, batch = case
    factors = ActionFactors.from_space(space)
    actions = draw(space, batch)
    one_hot = factors.encode(actions)
    assert one_hot.shape == (*batch, factors.width)
    assert (factors.pad(one_hot, 0.0).sum(-1) == 1).all()
    decoded = factors.decode(one_hot)
    assert decoded.dtype == space.dtype
    assert np.array_equal(decoded, actions)
    assert space.contains(decoded.reshape((-1, *factors.shape))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_hots_have_the_asked_dtype(dtype: torch.dtype) -> None:
    factors = ActionFactors((2, 3))
    assert factors.encode(np.array([1, 2]), dtype).dtype == dtype
    assert factors.vertices(dtype=dtype).dtype == dtype
    assert factors.decode(factors.vertices(dtype=dtype)).tolist() == [[i, j] for i in range(2) for j in range(3)]


def test_encode_takes_numbers_lists_tensors_and_whole_floats() -> None:
    discrete = ActionFactors.from_space(spaces.Discrete(3, start=1))
    assert discrete.encode(2).tolist() == [0, 1, 0]
    assert discrete.encode(np.int64(2)).tolist() == [0, 1, 0]
    assert discrete.encode(torch.tensor([2.0])).tolist() == [[0, 1, 0]]  # replay buffers store actions as floats
    frozen = np.array([3])
    frozen.flags.writeable = False
    assert discrete.encode(frozen).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([2, 1]), "outside"),
        (np.array([0, 3]), "outside"),
        (np.array([-1, 0]), "outside"),
        (np.array([0.5, 1.0]), "whole"),
        (np.array([np.nan, 1.0]), "whole|outside"),
        (np.array([0, 1, 2]), r"\(3,\) do not end in \(2,\)"),
        (np.array(1), r"\(\) do not end in \(2,\)"),
        (np.array([[0], [1]]), "do not end in"),
    ],
)
def test_encode_refuses_what_is_not_an_action(actions: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionFactors((2, 3)).encode(actions)


def test_encode_respects_start() -> None:
    with pytest.raises(ValueError, match="outside"):
        ActionFactors.from_space(spaces.Discrete(3, start=5)).encode(4)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 1), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)])]
)
def test_other_spaces_are_refused_by_name(space: spaces.Space[Any]) -> None:
    with pytest.raises(TypeError, match="supported are Discrete, MultiDiscrete and MultiBinary") as error:
        ActionFactors.from_space(space)
    assert type(space).__name__ in str(error.value)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one choice"):
        ActionFactors((2, 0))
    with pytest.raises(ValueError, match="at least one choice"):
        ActionFactors(())
    with pytest.raises(ValueError, match="do not fit"):
        ActionFactors((2, 3), shape=(3,))
    with pytest.raises(ValueError, match="do not fit"):
        ActionFactors((2, 3), start=(1,))


def test_equality_and_hash_go_by_the_space() -> None:
    one, same = (ActionFactors.from_space(spaces.MultiDiscrete([2, 3])) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != ActionFactors.from_space(spaces.MultiDiscrete([2, 3], start=[1, 0]))
    assert one != ActionFactors((2, 3), dtype=np.int32)
    assert repr(one) == "ActionFactors(sizes=(2, 3), shape=(2,), start=(0, 0), dtype=int64)"


def test_copies_leave_the_index_tensors_behind() -> None:
    factors = ActionFactors((2, 3), start=(1, 1))
    factors.encode(np.array([1, 1]))  # fills the caches
    for twin in (pickle.loads(pickle.dumps(factors)), copy.deepcopy(factors), copy.copy(factors)):
        assert twin == factors
        assert not any(isinstance(value, dict) for value in vars(twin).values())
        assert torch.equal(twin.encode(np.array([2, 3])), factors.encode(np.array([2, 3])))


def test_index_tensors_made_in_inference_mode_serve_training_too() -> None:
    factors = ActionFactors((2, 3))
    with torch.inference_mode():
        factors.flatten(factors.pad(torch.zeros(5), 0.0))
    flat = torch.zeros(5, requires_grad=True)
    factors.flatten(factors.pad(flat, 0.0)).sum().backward()
    assert flat.grad is not None


def test_index_tensors_follow_the_device() -> None:
    # "meta" tensors have a device and no data: an operation that mixes devices fails as it would on a GPU.
    factors = ActionFactors((2, 3), start=(1, 0))
    one_hot: Tensor = factors.vertices(torch.device("meta"))
    assert factors.to_env(factors.indices(one_hot)).device.type == "meta"
    assert factors.flatten(factors.pad(one_hot, 0.0)).device.type == "meta"


# Masks, and the places of choices


def repair_by_loop(choice: list[int], mask: list[bool], sizes: tuple[int, ...]) -> list[int]:
    """Choice `k` that is forbidden becomes the allowed choice number `k mod m`, of `m`."""
    result, offset = [], 0
    for k, n in zip(choice, sizes, strict=True):
        allowed = [j for j in range(n) if mask[offset + j]]
        result.append(k if k in allowed else allowed[k % len(allowed)])
        offset += n
    return result


def random_masks(factors: ActionFactors, count: int, seed: int) -> Tensor:
    """Masks `[count, N]` that forbid about half of the choices and leave one of each factor."""
    generator = torch.Generator().manual_seed(seed)
    one = factors.one_hot(factors.indices(torch.rand(count, factors.width, generator=generator)))
    return (torch.rand(count, factors.width, generator=generator) < 0.5) | one.bool()


@pytest.mark.parametrize("sizes", [(1,), (4,), (3, 3), (2, 5, 1, 3), (7, 2)], ids=str)
def test_repair_is_the_loop_and_keeps_what_is_allowed(sizes: tuple[int, ...]) -> None:
    factors = ActionFactors(sizes)
    masks = random_masks(factors, 200, seed=1)
    indices = factors.indices(torch.rand(200, factors.width, generator=torch.Generator().manual_seed(2)))
    repaired = factors.repair(indices, masks)
    assert repaired.shape == indices.shape
    assert repaired.dtype == indices.dtype
    for choice, mask, result in zip(indices.tolist(), masks.tolist(), repaired.tolist(), strict=True):
        assert result == repair_by_loop(choice, mask, sizes)
    assert masks.gather(-1, factors.positions(repaired)).all()
    allowed = masks.gather(-1, factors.positions(indices))
    assert torch.equal(repaired[allowed], indices[allowed])
    assert torch.equal(factors.repair(repaired, masks), repaired)
    assert torch.equal(factors.repair(indices, masks), repaired)
    assert torch.equal(factors.repair(indices, torch.ones_like(masks)), indices)
    # Any leading dimensions, and none.
    grid = factors.repair(indices.unflatten(0, (4, 50)), masks.unflatten(0, (4, 50)))
    assert torch.equal(grid.flatten(0, 1), repaired)
    assert torch.equal(factors.repair(indices[0], masks[0]), repaired[0])


def test_repair_by_hand() -> None:
    factors = ActionFactors((2, 5))
    mask = torch.tensor([0, 1, 0, 1, 0, 1, 1]).bool()
    wanted = {(0, 0): [1, 1], (1, 1): [1, 1], (0, 2): [1, 4], (1, 3): [1, 3], (1, 4): [1, 4]}
    for choice, done in wanted.items():
        assert factors.repair(torch.tensor(choice), mask).tolist() == done


def test_repair_spreads_what_is_forbidden_over_what_is_allowed() -> None:
    # Choices 3 to 11 are forbidden: three of them go to each of the others.
    repaired = ActionFactors((12,)).repair(torch.arange(12)[:, None], (torch.arange(12) < 3).expand(12, 12))
    assert repaired.flatten().bincount().tolist() == [4, 4, 4]


def test_positions_and_repeat_by_hand() -> None:
    factors = ActionFactors((2, 1, 3))
    assert factors.positions(torch.tensor([[1, 0, 2], [0, 0, 0]])).tolist() == [[1, 2, 5], [0, 2, 3]]
    rows = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    assert factors.repeat(rows)[:, 0].tolist() == [1, 1, 2, 3, 3, 3]
    assert torch.equal(factors.repeat(rows.expand(4, 5, 3, 2)), factors.repeat(rows).expand(4, 5, 6, 2))


def test_central_logits_by_hand() -> None:
    logits = ActionFactors((1, 2, 5)).central_logits(torch.device("cpu"))
    assert torch.allclose(logits, torch.tensor([0, -2, -2, -2, -0.5, 0, -0.5, -2]))


def test_repair_and_repeat_follow_the_device() -> None:
    factors = ActionFactors((2, 3))
    indices, mask = torch.zeros(7, 2, dtype=torch.long, device="meta"), torch.ones(7, 5, device="meta").bool()
    assert factors.repair(indices, mask).device.type == "meta"
    assert factors.positions(indices).device.type == "meta"
    assert factors.repeat(torch.ones(7, 2, 4, device="meta")).shape == (7, 5, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SPACES)
def test_round_trip_on_cuda(name: str) -> None:
    factors = ActionFactors.from_space(SPACES[name])
    actions = draw(SPACES[name], (6,))
    one_hot = factors.encode(torch.as_tensor(actions).cuda())
    assert one_hot.device.type == "cuda"
    assert np.array_equal(factors.decode(one_hot), actions)
