"""FactoredCategorical against torch.distributions, factor by factor, with masks, extremes and every dtype.

Statistical checks have a false-alarm rate of 1e-6 each (see `oracles`).
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F
from oracles import assert_frequencies, assert_mean, outcome_probs, outcomes
from torch import Tensor
from torch.distributions import kl_divergence

from gumbel_rl import ActionFactors, FactoredCategorical

SIZES: list[tuple[int, ...]] = [(4,), (2, 2, 2), (2, 3, 4), (1, 3), (10,) * 8]
BATCHES: list[tuple[int, ...]] = [(), (7,), (2, 3)]
# Large enough for the softmax over few choices to take its quick way.
SHAPES = [(sizes, batch) for sizes in SIZES for batch in BATCHES] + [((2, 3, 4), (300,)), ((10,) * 8, (40,))]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(
    sizes: Sequence[int],
    batch: Sequence[int] = (),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.5,
) -> FactoredCategorical:
    factors = ActionFactors(tuple(sizes))
    logits = scale * torch.randn(*batch, factors.width, dtype=dtype, generator=generator(seed))
    return FactoredCategorical(logits.requires_grad_(), factors)


def per_factor(flat: Tensor, dist: FactoredCategorical) -> list[Tensor]:
    return list(flat.split(list(dist.factors.sizes), dim=-1))


def peers(dist: FactoredCategorical) -> list[td.OneHotCategorical]:
    return [td.OneHotCategorical(logits=block) for block in per_factor(dist.logits, dist)]


def total(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def random_vertex(dist: FactoredCategorical, seed: int = 1) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dist.sample()


def assert_same_with_gradient(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Same values, and same gradients of a random projection of them."""
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(theirs.shape, dtype=theirs.dtype, generator=generator(99))
    for first, second in zip(
        torch.autograd.grad(ours, inputs, upstream, retain_graph=True),
        torch.autograd.grad(theirs, inputs, upstream, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(first, second)


# Against torch.distributions, factor by factor: equal and ragged factors are the same thing to the reference.


@pytest.mark.parametrize(("sizes", "batch"), SHAPES, ids=str)
def test_probs_log_prob_entropy_and_mode_are_torchs(sizes: tuple[int, ...], batch: tuple[int, ...]) -> None:
    dist = make(sizes, batch)
    reference = peers(dist)
    assert dist.batch_shape == batch
    assert dist.event_shape == (sum(sizes),)
    assert_same_with_gradient(dist.probs, torch.cat([peer.probs for peer in reference], -1), dist.logits)
    assert torch.equal(dist.mean, dist.probs)
    assert_same_with_gradient(dist.log_probs, torch.cat([peer.logits for peer in reference], -1), dist.logits)
    vertex = random_vertex(dist)
    expected = total([p.log_prob(block) for p, block in zip(reference, per_factor(vertex, dist), strict=True)])
    assert_same_with_gradient(dist.log_prob(vertex), expected, dist.logits)
    assert_same_with_gradient(dist.entropy(), total([peer.entropy() for peer in reference]), dist.logits)
    assert torch.equal(dist.mode, torch.cat([peer.mode for peer in reference], -1))


@pytest.mark.parametrize(("sizes", "batch"), SHAPES, ids=str)
def test_kl_is_torchs(sizes: tuple[int, ...], batch: tuple[int, ...]) -> None:
    p, q = make(sizes, batch, seed=0), make(sizes, batch, seed=1)
    expected = total([td.kl_divergence(a, b) for a, b in zip(peers(p), peers(q), strict=True)])
    assert_same_with_gradient(kl_divergence(p, q), expected, p.logits, q.logits)
    torch.testing.assert_close(kl_divergence(p, p), torch.zeros(batch, dtype=torch.float64))


def test_kl_refuses_other_factors() -> None:
    with pytest.raises(ValueError, match=r"same factors, got sizes \(2, 3\) and \(3, 2\)"):
        kl_divergence(make((2, 3)), make((3, 2)))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("sizes", "batch"), SHAPES, ids=str)
def test_relaxed_log_prob_is_torchs(sizes: tuple[int, ...], batch: tuple[int, ...], temperature: float) -> None:
    dist = make(sizes, batch)
    points = 0.7 * torch.randn(3, *batch, sum(sizes), dtype=torch.float64, generator=generator(2))
    value = torch.cat([block.softmax(-1) for block in per_factor(points, dist)], -1).requires_grad_()
    t = torch.tensor(temperature, dtype=torch.float64)
    reference = [td.RelaxedOneHotCategorical(t, logits=block) for block in per_factor(dist.logits, dist)]
    expected = total([p.log_prob(block) for p, block in zip(reference, per_factor(value, dist), strict=True)])
    assert_same_with_gradient(dist.relaxed_log_prob(value, temperature), expected, dist.logits, value)
    torch.testing.assert_close(dist.relaxed_log_prob(value, t), expected)


def test_relaxed_log_prob_is_the_density_of_the_relaxed_samples() -> None:
    # Two choices: the density of z_1 on (0, 1) integrates to 1 over any interval as often as samples fall into it.
    dist = make((2,), seed=3)
    grid = torch.linspace(0.2, 0.7, 20_001, dtype=torch.float64)
    density = dist.relaxed_log_prob(torch.stack([grid, 1 - grid], -1), 0.8).exp()
    mass = torch.trapezoid(density, grid).detach()
    sample = dist.rsample(temperature=0.8, noise=dist.noise((200_000,), generator=generator(4)))[:, 0]
    assert_mean(((sample > 0.2) & (sample < 0.7)).double(), mass)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("sizes", "batch"), SHAPES, ids=str)
def test_rsample_is_torchs_gumbel_softmax_on_the_same_noise(
    sizes: tuple[int, ...], batch: tuple[int, ...], hard: bool
) -> None:
    dist = make(sizes, batch)
    theirs, noises = [], []
    for seed, block in enumerate(per_factor(dist.logits, dist)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            noises.append(-torch.empty_like(block).exponential_().log().detach())
            torch.manual_seed(seed)
            theirs.append(F.gumbel_softmax(block, tau=0.6, hard=hard))
    ours = dist.rsample(temperature=0.6, hard=hard, noise=torch.cat(noises, -1))
    assert_same_with_gradient(ours, torch.cat(theirs, -1), dist.logits)


# Sampling.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(4,), (2, 3, 4)], ids=str)
def test_samples_have_the_joint_law(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    dist = make(sizes, seed=5, dtype=dtype)
    joint = outcome_probs(dist.logits.detach().double(), sizes)
    torch.manual_seed(6)
    indices = FactoredCategorical(dist.logits.detach().expand(100_000, -1), dist.factors).sample_indices()
    for sample in (
        dist.sample((100_000,)),
        dist.rsample((100_000,), temperature=0.5, hard=True).detach(),
        dist.factors.one_hot(indices, dtype),
    ):
        assert sample.dtype == dtype
        matches = sample.double() @ outcomes(sizes).T == len(sizes)
        assert (matches.sum(-1) == 1).all()  # each is exactly one vertex
        assert_frequencies(matches, joint)


def test_bfloat16_samples_are_not_biased_by_ties() -> None:
    # Noise rounded to bfloat16 ties in 1 row of 250, and argmax gives every tie to the first choice.
    dist = FactoredCategorical(torch.zeros(2, dtype=torch.bfloat16), ActionFactors((2,)))
    assert dist.noise().dtype == torch.float32
    torch.manual_seed(7)
    assert_mean(dist.sample((4_000_000,))[:, 0], 0.5)


def test_sample_does_not_depend_on_temperature_and_has_no_gradient() -> None:
    dist = make((2, 3, 4), (50,))
    noise = dist.noise((3,), generator=generator(8))
    sample = dist.sample(noise=noise)
    assert not sample.requires_grad
    for temperature in (0.01, 0.5, 100.0):
        assert torch.equal(dist.rsample(temperature=temperature, hard=True, noise=noise), sample)


def test_the_limits_of_the_temperature() -> None:
    dist = make((4,), (100,))
    noise = dist.noise(generator=generator(9))
    torch.testing.assert_close(dist.rsample(temperature=1e-5, noise=noise), dist.sample(noise=noise), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        dist.rsample(temperature=1e5, noise=noise), torch.full((100, 4), 0.25).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("sizes", [(3,), (2, 3)], ids=str)
def test_nothing_is_overwritten_in_place(sizes: tuple[int, ...]) -> None:
    dist = make(sizes, (20,))
    noise = dist.noise(generator=generator(10))
    logits_before, noise_before = dist.logits.detach().clone(), noise.clone()
    relaxed = dist.rsample(temperature=0.7, noise=noise)
    relaxed_before = relaxed.detach().clone()
    hard = dist.rsample(temperature=0.7, hard=True, noise=noise)
    dist.sample(noise=noise)
    dist.relaxed_log_prob(relaxed, 0.7)
    assert ((relaxed > 0) & (relaxed < 1)).all()
    assert torch.equal(relaxed, relaxed_before)
    assert torch.equal(noise, noise_before)
    assert torch.equal(dist.logits, logits_before)
    # The straight-through sample has, to the last bit, the gradient of the relaxed one.
    upstream = torch.randn(relaxed.shape, dtype=torch.float64, generator=generator(11))
    (expected,) = torch.autograd.grad(relaxed, dist.logits, upstream, retain_graph=True)
    (gradient,) = torch.autograd.grad(hard, dist.logits, upstream)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 4)], ids=str)
def test_shapes(batch: tuple[int, ...], sample_shape: tuple[int, ...]) -> None:
    dist = make((2, 3), batch)
    shape = (*sample_shape, *batch, 5)
    assert dist.noise(sample_shape).shape == shape
    assert dist.sample(sample_shape).shape == shape
    assert dist.rsample(sample_shape).shape == shape
    assert dist.log_prob(dist.sample(sample_shape)).shape == shape[:-1]
    assert dist.relaxed_log_prob(dist.rsample(sample_shape), 1.0).shape == shape[:-1]
    assert dist.entropy().shape == batch
    assert dist.mode.shape == (*batch, 5)
    assert dist.enumerate_support().shape == (6, *batch, 5)
    assert dist.enumerate_support(expand=False).shape == (6, *(1,) * len(batch), 5)
    assert dist.expand((3, *batch)).sample().shape == (3, *batch, 5)


def test_enumeration_sums_to_one() -> None:
    dist = make((2, 3, 4), (7,))
    support = dist.enumerate_support()
    torch.testing.assert_close(dist.log_prob(support).exp().sum(0), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(
        dist.log_prob(support).exp()[:, 0], outcome_probs(dist.logits[0], (2, 3, 4))
    )  # and in the order of the factors, the last one fastest


@pytest.mark.parametrize("temperature", [0, -0.5, math.nan])
def test_temperatures_that_are_not_positive_are_refused(temperature: float) -> None:
    dist = make((3,))
    with pytest.raises(ValueError, match="temperature must be positive"):
        dist.rsample(temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        dist.relaxed_log_prob(dist.probs, temperature)


# Masks. The reference is the distribution over the allowed choices alone.

MASK_SIZES = (2, 4, 3)
MASK = torch.tensor([1, 1, 0, 1, 1, 0, 0, 0, 1], dtype=torch.bool)  # 2, 2 and 1 choices left
ALLOWED = (2, 2, 1)


def masked_and_reduced(
    batch: tuple[int, ...] = (6,), sizes: tuple[int, ...] = MASK_SIZES, dtype: torch.dtype = torch.float64
) -> tuple[FactoredCategorical, FactoredCategorical, Tensor]:
    """A masked distribution, the one over what the mask leaves, and their common logits."""
    logits = 1.5 * torch.randn(*batch, sum(sizes), dtype=dtype, generator=generator(12))
    logits.requires_grad_()
    masked = FactoredCategorical(logits, ActionFactors(sizes), MASK)
    return masked, FactoredCategorical(logits[..., MASK], ActionFactors(ALLOWED)), logits


def test_masked_choices_have_probability_zero_and_the_rest_is_renormalised() -> None:
    masked, reduced, logits = masked_and_reduced()
    assert (masked.probs[..., ~MASK] == 0).all()
    assert_same_with_gradient(masked.probs[..., MASK], reduced.probs, logits)
    assert_same_with_gradient(masked.entropy(), reduced.entropy(), logits)
    vertex = reduced.sample()
    full = torch.zeros(6, 9, dtype=torch.float64).masked_scatter(MASK, vertex)
    assert_same_with_gradient(masked.log_prob(full), reduced.log_prob(vertex), logits)


def test_masked_relaxed_samples_and_their_density_live_on_the_sub_simplex() -> None:
    masked, reduced, logits = masked_and_reduced()
    noise = masked.noise((5,), generator=generator(13))
    relaxed, expected = (
        masked.rsample(temperature=0.7, noise=noise),
        reduced.rsample(temperature=0.7, noise=noise[..., MASK]),
    )
    assert (relaxed[..., ~MASK] == 0).all()
    assert_same_with_gradient(relaxed[..., MASK], expected, logits)
    # Its gradient passes through log z, whose slope at the masked zeros is infinite.
    assert_same_with_gradient(masked.relaxed_log_prob(relaxed, 0.7), reduced.relaxed_log_prob(expected, 0.7), logits)


def test_masked_kl() -> None:
    masked, reduced, logits = masked_and_reduced()
    factors = masked.factors
    other = torch.randn(6, 9, dtype=torch.float64, generator=generator(14))
    narrow = FactoredCategorical(other, factors, MASK)
    reduced_other = FactoredCategorical(other[..., MASK], reduced.factors)
    assert_same_with_gradient(kl_divergence(masked, narrow), kl_divergence(reduced, reduced_other), logits)
    # From a masked to an unmasked distribution: the terms of masked choices are 0 log 0 = 0.
    wide = kl_divergence(masked, FactoredCategorical(other, factors))
    (gradient,) = torch.autograd.grad(wide.sum(), logits)
    assert wide.isfinite().all()
    assert gradient.isfinite().all()
    # What is possible here and impossible there: infinitely far, kept finite.
    far = kl_divergence(FactoredCategorical(other, factors), narrow)
    assert far.isfinite().all()
    assert (far > 1e6).all()


def test_masked_choices_are_never_drawn() -> None:
    masked, _, _ = masked_and_reduced((20_000,))
    torch.manual_seed(15)
    for sample in (masked.sample(), masked.mode, masked.rsample(hard=True)):
        assert (sample[..., ~MASK] == 0).all()
        assert (sample.sum(-1) == 3).all()


QUANTITIES: dict[str, Callable[[FactoredCategorical], Tensor]] = {
    "probs": lambda dist: dist.probs.square(),
    "log_probs": lambda dist: dist.log_probs,
    "entropy": lambda dist: dist.entropy(),
    "log_prob": lambda dist: dist.log_prob(dist.sample((3,))),
    "kl": lambda dist: kl_divergence(dist, FactoredCategorical(torch.zeros_like(dist.logits), dist.factors, dist.mask)),
    "kl-unmasked": lambda dist: kl_divergence(dist, FactoredCategorical(torch.zeros_like(dist.logits), dist.factors)),
    "rsample": lambda dist: dist.rsample((3,), 0.5).square(),
    "rsample-hard": lambda dist: dist.rsample((3,), 0.5, hard=True).square(),
    "relaxed_log_prob": lambda dist: dist.relaxed_log_prob(dist.rsample((3,), 0.5), 0.5),
    "expectation": lambda dist: dist.log_prob(dist.enumerate_support()).exp().square(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(9,), (3, 3, 3), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_no_nan_in_values_or_gradients(quantity: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    factors = ActionFactors(sizes)
    ordinary = torch.randn(4, 9, generator=generator(16))
    for name, logits, mask in [
        ("plain", ordinary, None),
        ("masked", ordinary, MASK),
        ("masked row by row", ordinary, MASK | torch.tensor([[False], [True], [False], [True]])),
        ("minus infinity as a mask", ordinary.masked_fill(~MASK, -torch.inf), None),
        ("far apart", ordinary * 1e4, None),
        ("far apart and masked", ordinary * 1e4, MASK),
        ("far below zero and masked", ordinary - 6e4, MASK),
        ("far above zero and masked", ordinary + 6e4, MASK),
    ]:
        leaf = logits.to(dtype).requires_grad_()
        torch.manual_seed(17)
        value = QUANTITIES[quantity](FactoredCategorical(leaf, factors, mask))
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert value.isfinite().all(), name
        assert gradient.isfinite().all(), name
        if mask is not None and not quantity.startswith("kl"):
            assert (gradient[~mask.expand_as(gradient)] == 0).all(), name


@pytest.mark.parametrize("offset", [-3e38, -2e9, 2e9, 1e38])
def test_a_mask_holds_at_any_scale_of_the_logits(offset: float) -> None:
    logits = torch.tensor([offset, offset, 0.0])
    dist = FactoredCategorical(logits, ActionFactors((3,)), torch.tensor([True, True, False]))
    assert dist.probs.tolist() == [0.5, 0.5, 0.0]
    assert dist.entropy().item() == pytest.approx(math.log(2))
    assert (dist.sample((1000,))[:, 2] == 0).all()


def test_minus_infinity_masks_like_the_mask() -> None:
    masked, _, logits = masked_and_reduced()
    implicit = FactoredCategorical(logits.masked_fill(~MASK, -torch.inf), masked.factors)
    assert_same_with_gradient(implicit.probs, masked.probs, logits)
    assert_same_with_gradient(implicit.entropy(), masked.entropy(), logits)
    value = masked.rsample()
    assert_same_with_gradient(implicit.relaxed_log_prob(value, 1.0), masked.relaxed_log_prob(value, 1.0), logits)


def test_the_density_of_samples_that_have_underflowed_is_finite() -> None:
    logits = (5 * torch.randn(500, 3, generator=generator(18))).requires_grad_()
    dist = FactoredCategorical(logits, ActionFactors((3,)))
    sample = dist.rsample(temperature=0.05, noise=dist.noise(generator=generator(19)))
    assert (sample == 0).any()
    density = dist.relaxed_log_prob(sample, 0.05)
    (gradient,) = torch.autograd.grad(density.sum(), logits)
    assert density.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mask", [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
def test_a_factor_with_everything_masked_is_refused(mask: list[int]) -> None:
    with pytest.raises(ValueError, match="every choice masked"):
        FactoredCategorical(torch.zeros(2, 5), ActionFactors((2, 3)), torch.tensor([[1] * 5, mask], dtype=torch.bool))


def test_masks_broadcast_and_expand() -> None:
    logits = torch.randn(3, 4, 5)
    mask = torch.tensor([[True, True, True, False, True]])
    dist = FactoredCategorical(logits, ActionFactors((2, 3)), mask)
    assert (dist.probs[..., 3] == 0).all()
    expanded = dist.expand((2, 3, 4))
    assert torch.equal(expanded.probs, dist.probs.expand(2, 3, 4, 5))


@pytest.mark.parametrize("shape", [(4,), (2, 1), (2, 2, 5), (3, 5)])
def test_masks_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mask of shape .* does not fit logits of shape"):
        FactoredCategorical(torch.zeros(2, 5), ActionFactors((2, 3)), torch.ones(shape, dtype=torch.bool))


def test_logits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(2, 4\) do not fit 5 choices"):
        FactoredCategorical(torch.zeros(2, 4), ActionFactors((2, 3)))
    with pytest.raises(ValueError, match="do not fit"):
        FactoredCategorical(torch.tensor(1.0), ActionFactors((1,)))
    with pytest.raises(TypeError, match="floating-point"):
        FactoredCategorical(torch.zeros(2, 5, dtype=torch.int64), ActionFactors((2, 3)))


# Dtypes, devices, copies.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_and_precision(dtype: torch.dtype) -> None:
    dist = make((2, 3, 4), (50,), dtype=dtype)
    reference = FactoredCategorical(dist.logits.detach().double(), dist.factors)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    noise = reference.noise(generator=generator(20))
    for tensor in (
        dist.sample(),
        dist.rsample(),
        dist.rsample(hard=True),
        dist.mode,
        dist.probs,
        dist.enumerate_support(),
    ):
        assert tensor.dtype == dtype
    vertex = dist.mode
    pairs = [
        (dist.entropy(), reference.entropy()),
        (dist.log_prob(vertex), reference.log_prob(vertex.double())),
        (kl_divergence(dist, dist.expand((50,))), torch.zeros(50)),
    ]
    for ours, exact in pairs:  # narrow logits lose nothing more: everything inside is float32
        assert ours.dtype == wide
        torch.testing.assert_close(ours, exact.to(wide), rtol=1e-5, atol=1e-5)
    for ours, exact in [
        (dist.probs, reference.probs),
        (dist.rsample(noise=noise.to(wide), temperature=0.7), reference.rsample(noise=noise, temperature=0.7)),
    ]:
        torch.testing.assert_close(ours.double(), exact, rtol=torch.finfo(dtype).eps * 4, atol=1e-6)
    (gradient,) = torch.autograd.grad(dist.entropy().sum(), dist.logits)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("sizes", [(3,), (2, 3)], ids=str)
def test_no_operation_mixes_devices(sizes: tuple[int, ...]) -> None:
    # "meta" tensors have a device and no data: mixing them with the CPU's fails as mixing a GPU's does.
    logits = torch.zeros(4, sum(sizes), device="meta", requires_grad=True)
    dist = FactoredCategorical(logits, ActionFactors(sizes))
    tensors = [
        dist.sample((2,)),
        dist.rsample(hard=True),
        dist.rsample(temperature=torch.tensor(0.5)),
        dist.log_prob(dist.sample()),
        dist.relaxed_log_prob(dist.rsample(), 0.5),
        dist.relaxed_log_prob(dist.rsample(), torch.tensor(0.5)),
        dist.entropy(),
        dist.mode,
        dist.enumerate_support(),
        kl_divergence(dist, dist),
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    dist.entropy().sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_cuda_gives_what_the_cpu_gives(quantity: str, dtype: torch.dtype) -> None:
    logits = torch.randn(4, 9, generator=generator(21), dtype=torch.float32).to("cuda", dtype).requires_grad_()
    dist = FactoredCategorical(logits, ActionFactors((2, 4, 3)), MASK.cuda())
    value = QUANTITIES[quantity](dist)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.device.type == "cuda"
    assert gradient.isfinite().all()
    if quantity in ("probs", "entropy", "kl", "expectation"):
        twin = QUANTITIES[quantity](FactoredCategorical(logits.detach().cpu(), dist.factors, MASK))
        torch.testing.assert_close(value.cpu(), twin)


def test_probabilities_first_read_without_gradient_have_one_later() -> None:
    dist = make((2, 3), (4,))
    with torch.no_grad():
        dist.probs.sum()
        dist.entropy()
    assert dist.probs.requires_grad
    assert dist.entropy().requires_grad


def test_copies_draw_the_same() -> None:
    dist = FactoredCategorical(torch.randn(4, 9), ActionFactors(MASK_SIZES), MASK)
    noise = dist.noise((3,))
    for twin in (pickle.loads(pickle.dumps(dist)), copy.deepcopy(dist)):
        assert torch.equal(twin.sample(noise=noise), dist.sample(noise=noise))
        assert torch.equal(twin.entropy(), dist.entropy())


def test_torch_sees_a_distribution_with_gradients_and_a_support() -> None:
    dist = make((2, 3), (4,))
    assert isinstance(dist, td.Distribution)
    assert dist.has_rsample
    assert dist.has_enumerate_support
    assert td.Independent(dist, 1).log_prob(dist.sample()).shape == ()
