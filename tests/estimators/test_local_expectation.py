"""Local expectation gradients against their definition, spelt out sample by sample and swap by swap.

That they are unbiased is tested with the other estimators, in `test_oracle`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from oracles import (
    OBJECTIVES,
    Objective,
    exact_expectation,
    linear,
    multilinear,
    nonlinear,
    outcome_probs,
    outcomes,
    weights,
)
from torch import Tensor

from gumbel_rl import ActionFactors, Estimator, FactoredCategorical
from gumbel_rl.estimators import Exact, LocalExpectation, StraightThrough

# Discrete(4), MultiDiscrete([2, 3]), MultiBinary(3), and ragged ones with a choice of one.
SIZES: list[tuple[int, ...]] = [(4,), (2, 3), (2, 2, 2), (3, 1, 2, 4), (1,)]


def logits_of(sizes: Sequence[int]) -> Tensor:
    return 0.8 * weights(sum(sizes), 10)


def estimates(
    estimator: Estimator, sizes: Sequence[int], f: Objective, noise: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Values `[*batch]` and gradients `[*batch, N]` with noise `[S, *batch, N]` and the same logits throughout."""
    leaf = logits_of(sizes).expand(noise.shape[1:]).clone().requires_grad_()
    surrogate = estimator(FactoredCategorical(leaf, ActionFactors(tuple(sizes)), mask), f, noise)
    return surrogate.detach(), torch.autograd.grad(surrogate.sum(), leaf)[0]


def swaps_of(z: Tensor, sizes: Sequence[int]) -> list[list[Tensor]]:
    """For each factor the one-hot `z` `[N]` with that factor's choice replaced by each in turn."""
    blocks = list(z.split(list(sizes)))
    return [
        [torch.cat([*blocks[:d], torch.eye(n, dtype=z.dtype)[k], *blocks[d + 1 :]]) for k in range(n)]
        for d, n in enumerate(sizes)
    ]


def definition(z: Tensor, sizes: Sequence[int], f: Objective, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient `[N]` for the sample `z` `[N]`: `mean_d E_d` and `d/dlogits sum_d E_d`."""
    leaf = logits.clone().requires_grad_()
    expectations = [
        (block.softmax(-1) * torch.stack([f(swap) for swap in swaps])).sum()
        for block, swaps in zip(leaf.split(list(sizes)), swaps_of(z, sizes), strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(expectations).sum(), leaf)
    return torch.stack(expectations).mean().detach(), gradient


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 7, 4096])
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_outcome_gives_what_the_definition_says(sizes: tuple[int, ...], kind: str, chunk_size: int) -> None:
    f, vertices = OBJECTIVES[kind](sizes), outcomes(sizes)
    values, gradients = zip(*(definition(z, sizes, f, logits_of(sizes)) for z in vertices), strict=True)
    value, gradient = estimates(LocalExpectation(chunk_size=chunk_size), sizes, f, 1e3 * vertices[None])
    assert_equal(value, torch.stack(values))
    assert_equal(gradient, torch.stack(gradients))
    # Samples are averaged, in batches of any shape.
    pairs = torch.stack([vertices, vertices.flip(0)])[:, None, :, None]
    value, gradient = estimates(LocalExpectation(samples=2, chunk_size=chunk_size), sizes, f, 1e3 * pairs)
    assert value.shape == (1, len(vertices), 1)
    mean_value, mean_gradient = ((x + x.flip(0)) / 2 for x in (torch.stack(values), torch.stack(gradients)))
    assert_equal(value[0, :, 0], mean_value)
    assert_equal(gradient[0, :, 0], mean_gradient)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_one_factor_is_exact_and_has_no_variance(kind: str) -> None:
    f = OBJECTIVES[kind]((4,))
    noise = FactoredCategorical(torch.zeros(50, 4, dtype=torch.float64), ActionFactors((4,))).noise((1,))
    exact_value, exact_gradient = estimates(Exact(), (4,), f, noise)
    value, gradient = estimates(LocalExpectation(), (4,), f, noise)
    assert_equal(value, exact_value)
    assert_equal(gradient, exact_gradient)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_on_multilinear_objectives_the_gradient_is_that_of_straight_through(sizes: tuple[int, ...]) -> None:
    noise = FactoredCategorical(torch.zeros(50, sum(sizes), dtype=torch.float64), ActionFactors(sizes)).noise((3,))
    for f in (linear(sizes), multilinear(sizes)):
        _, gradient = estimates(LocalExpectation(samples=3), sizes, f, noise)
        _, straight_through = estimates(StraightThrough(samples=3), sizes, f, noise)
        assert_equal(gradient, straight_through)
    if len(sizes) > 1:
        _, gradient = estimates(LocalExpectation(samples=3), sizes, nonlinear(sizes), noise)
        _, straight_through = estimates(StraightThrough(samples=3), sizes, nonlinear(sizes), noise)
        assert not torch.allclose(gradient, straight_through, atol=1e-3)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", [(2, 3), (2, 2, 2), (3, 1, 2, 4)], ids=str)
def test_the_value_varies_less_than_that_of_a_sample(sizes: tuple[int, ...], kind: str) -> None:
    f, vertices, probs = OBJECTIVES[kind](sizes), outcomes(sizes), outcome_probs(logits_of(sizes), sizes)
    value, _ = estimates(LocalExpectation(), sizes, f, 1e3 * vertices[None])
    expectation, _ = exact_expectation(logits_of(sizes), sizes, f)
    assert probs @ (value - expectation).square() < probs @ (f(vertices) - expectation).square()


# What is evaluated.


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_sample_and_each_swap_are_evaluated_once(sizes: tuple[int, ...]) -> None:
    evaluated: list[Tensor] = []

    def f(actions: Tensor) -> Tensor:
        evaluated.append(actions)
        return nonlinear(sizes)(actions)

    for z in outcomes(sizes):
        evaluated.clear()
        estimates(LocalExpectation(), sizes, f, 1e3 * z.expand(1, 1, -1))
        (actions,) = evaluated
        assert actions.shape == (sum(sizes) - len(sizes) + 1, 1, sum(sizes))
        expected = {tuple(swap.tolist()) for swaps in swaps_of(z, sizes) for swap in swaps}
        assert {tuple(action.tolist()) for action in actions[:, 0]} == expected
        assert len(expected) == len(actions)


@pytest.mark.parametrize(("chunk_size", "calls"), [(1, 5), (15, 5), (30, 3), (74, 2), (75, 1), (1000, 1)])
def test_chunks_bound_what_is_evaluated_at_once(chunk_size: int, calls: int) -> None:
    # 3 samples of 5 batch elements, at which the sample and 4 swaps are evaluated: 75 actions.
    sizes, shapes = (2, 4), []

    def f(actions: Tensor) -> Tensor:
        shapes.append(actions.shape)
        return nonlinear(sizes)(actions)

    noise = FactoredCategorical(torch.zeros(5, 6, dtype=torch.float64), ActionFactors(sizes)).noise((3,))
    _, gradient = estimates(LocalExpectation(3, chunk_size), sizes, f, noise)
    assert len(shapes) == calls
    assert all(shape[1:] == (5, 6) and shape[0] * 5 <= max(chunk_size, 15) for shape in shapes)
    assert sum(shape[0] for shape in shapes) == 15
    assert_equal(gradient, estimates(LocalExpectation(3), sizes, nonlinear(sizes), noise)[1])


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        LocalExpectation(chunk_size=0)


def test_an_empty_batch() -> None:
    dist = FactoredCategorical(torch.zeros(0, 5, requires_grad=True), ActionFactors((2, 3)))
    assert LocalExpectation(samples=2)(dist, nonlinear((2, 3))).shape == (0,)


# Choices that cannot happen.


@pytest.mark.parametrize("nonsense", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("by", ["mask", "logits"])
def test_what_f_says_of_forbidden_choices_does_not_leak(by: str, nonsense: float) -> None:
    sizes, kept = (2, 3, 3), (1, 2, 3)
    mask = torch.tensor([True, False, True, True, False, True, True, True])
    f = nonlinear(sizes)

    def undefined_elsewhere(actions: Tensor) -> Tensor:
        return torch.where((actions[..., ~mask] == 0).all(-1), f(actions), nonsense)

    logits = logits_of(sizes).expand(200, -1).clone()
    dist = FactoredCategorical(logits, ActionFactors(sizes))
    noise = dist.noise((2,))
    if by == "logits":
        logits[:, ~mask] = -torch.inf
    logits.requires_grad_()
    masked = FactoredCategorical(logits, ActionFactors(sizes), mask if by == "mask" else None)
    surrogate = LocalExpectation(samples=2)(masked, undefined_elsewhere, noise)
    (gradient,) = torch.autograd.grad(surrogate.sum(), logits)
    # The same without the choices.
    embed = torch.eye(8, dtype=torch.float64)[mask]
    leaf = logits.detach()[:, mask].requires_grad_()
    reduced = LocalExpectation(samples=2)(
        FactoredCategorical(leaf, ActionFactors(kept)), lambda z: f(z @ embed), noise[..., mask]
    )
    assert_equal(surrogate, reduced)
    assert_equal(gradient[:, mask], torch.autograd.grad(reduced.sum(), leaf)[0])
    assert (gradient[:, ~mask] == 0).all()


# Numbers.


def test_many_factors() -> None:
    # 5^40 joint actions. With a linear objective the gradient is exact.
    sizes = (5,) * 40
    noise = FactoredCategorical(torch.zeros(8, 200, dtype=torch.float64), ActionFactors(sizes)).noise((1,))
    _, gradient = estimates(LocalExpectation(), sizes, linear(sizes), noise)
    assert_equal(gradient, estimates(Exact(multilinear=True), sizes, linear(sizes), noise)[1])


def test_a_large_constant_in_the_objective_costs_no_precision() -> None:
    sizes = (2, 3)
    leaf = logits_of(sizes).float().expand(100, -1).clone().requires_grad_()
    dist = FactoredCategorical(leaf, ActionFactors(sizes))
    noise = dist.noise((1,))
    gradients = []
    for constant in (0.0, 1e6):

        def f(z: Tensor, constant: float = constant) -> Tensor:
            return (8 * nonlinear(sizes)(z)).round() + constant  # whole numbers, which float32 adds exactly

        gradients.append(torch.autograd.grad(LocalExpectation()(dist, f, noise).sum(), leaf, retain_graph=True)[0])
    assert gradients[0].abs().sum() > 0
    assert torch.equal(*gradients)


@pytest.mark.parametrize("chunk_size", [1, 4096])
def test_parameters_inside_the_objective_get_the_gradient_of_the_value(chunk_size: int) -> None:
    sizes = (2, 3)
    theta = weights(5, 13).requires_grad_()

    def f(z: Tensor) -> Tensor:
        return (z * theta).sum(-1).sin()

    for z in outcomes(sizes):
        blocks = logits_of(sizes).split(list(sizes))
        value = torch.stack(
            [
                (block.softmax(-1) * torch.stack([f(swap) for swap in swaps])).sum()
                for block, swaps in zip(blocks, swaps_of(z, sizes), strict=True)
            ]
        ).mean()
        dist = FactoredCategorical(logits_of(sizes).requires_grad_(), ActionFactors(sizes))
        surrogate = LocalExpectation(chunk_size=chunk_size)(dist, f, 1e3 * z[None])
        assert_equal(torch.autograd.grad(surrogate, theta)[0], torch.autograd.grad(value, theta)[0])
