"""Problems of the laboratory: closed-form expectations against enumeration, masks, ragged factors, references."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from oracles import outcome_probs, outcomes
from torch import Tensor

from gumbel_rl import ActionFactors, FactoredCategorical
from gumbel_rl.diagnostics import logits_gradient
from gumbel_rl.estimators import Exact
from gumbel_rl.lab import OBJECTIVES, built_in, from_objective, make_objective

SIZES = [(3,), (2, 3), (4, 2, 3), (2, 2, 2)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_expectations_are_those_of_enumeration(kind: str, sizes: tuple[int, ...]) -> None:
    problem = built_in(kind, sizes, instances=3)
    vertices = outcomes(sizes)
    values = problem.f(vertices[:, None].expand(-1, 3, -1))  # [V, B]
    for row in range(3):
        leaf = problem.dist.logits[row].clone().requires_grad_()
        value = (outcome_probs(leaf, sizes) * values[:, row]).sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(problem.gradient[row], gradient, rtol=1e-10, atol=1e-12)
        expectation = problem.f.expectation(problem.dist)[row]  # type: ignore[attr-defined]
        torch.testing.assert_close(expectation, value.detach(), rtol=1e-10, atol=1e-12)


def slopes(f: object, z: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)  # type: ignore[operator]
    return slope


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_multilinear_says_whether_the_slope_of_a_factor_depends_on_its_own_choice(kind: str) -> None:
    sizes, f = (3, 2), built_in(kind, (3, 2), instances=1).f
    own = []
    for other, (one, two) in itertools.product(range(2), itertools.combinations(range(3), 2)):
        points = [
            torch.cat([torch.eye(3, dtype=torch.float64)[k], torch.eye(2, dtype=torch.float64)[other]])[None]
            for k in (one, two)
        ]
        own.append(torch.allclose(slopes(f, points[0])[:, :3], slopes(f, points[1])[:, :3]))
    assert all(own) == built_in(kind, sizes).multilinear
    assert any(own) == built_in(kind, sizes).multilinear


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_values_vary_alike_however_many_factors_there_are(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = []
    for count in (4, 64):
        factors = ActionFactors((4,) * count)
        f = make_objective(kind, factors, 512, generator)
        dist = FactoredCategorical(torch.zeros(512, factors.width, dtype=torch.float64), factors)
        torch.manual_seed(0)
        spread.append(float(f(dist.sample((20,))).std(0).mean()))
    assert 0.6 < spread[0] / spread[1] < 1.6


def test_enumeration_and_the_probabilities_give_the_closed_form() -> None:
    for kind in OBJECTIVES:
        problem = built_in(kind, (2, 4, 3), masked=0.5)
        again = from_objective("again", problem.dist, problem.f, multilinear=False)
        torch.testing.assert_close(again.gradient, problem.gradient, rtol=1e-10, atol=1e-12)
        if problem.multilinear:
            again = from_objective("again", problem.dist, problem.f, multilinear=True)
            torch.testing.assert_close(again.gradient, problem.gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.99])
def test_masks_forbid_a_share_and_leave_a_choice(share: float) -> None:
    sizes = (2, 5, 10)
    problem = built_in("nonlinear", sizes, instances=50, masked=share)
    assert problem.dist.mask is not None
    for block, n in zip(problem.dist.mask.split(list(sizes), -1), sizes, strict=True):
        assert (block.sum(-1) == n - math.floor(n * share)).all()
        assert block.any(0).all()  # not always the same ones
    assert (problem.gradient[~problem.dist.mask] == 0).all()
    assert torch.isfinite(problem.gradient).all()


def test_a_problem_is_made_again_by_its_seed() -> None:
    one, two, other = (built_in("nonlinear", (3, 2), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.gradient, two.gradient)
    assert not torch.allclose(one.gradient, other.gradient)


def test_where_no_exact_gradient_exists_it_says_so_or_samples() -> None:
    sizes = (4,) * 9  # 262,144 joint actions
    problem = built_in("nonlinear", sizes, instances=2)
    with pytest.raises(ValueError, match=r"262,144 joint actions .* --reference-samples"):
        from_objective("far", problem.dist, problem.f, multilinear=False)
    torch.manual_seed(0)
    sampled = from_objective("far", problem.dist, problem.f, multilinear=False, reference_samples=4000)
    assert "not exact" in sampled.reference
    # The squared distance is a sum of squares that are nearly normal: its expectation is the stated variance, and it
    # exceeds eight times that with a chance far below 1e-6 for 72 components, none of which has half of the variance.
    distance = float((sampled.gradient - problem.gradient).square().sum())
    assert sampled.reference_error / 8 < distance < 8 * sampled.reference_error


def test_one_evaluation_at_the_probabilities_however_many_factors() -> None:
    problem = built_in("multilinear", (4,) * 9, instances=2)
    again = from_objective("again", problem.dist, problem.f, multilinear=True)
    torch.testing.assert_close(again.gradient, problem.gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        logits_gradient(Exact(multilinear=True), problem.dist, problem.f)[0], problem.gradient, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "linnear"}, "did you mean 'linear'"),
        ({"instances": 0}, "instances must be at least 1"),
        ({"masked": 1.0}, "below 1, got 1"),
        ({"sizes": (3, 0)}, "at least one choice"),
    ],
)
def test_mistakes(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built_in(**{"objective": "linear", "sizes": (3, 2), **arguments})  # type: ignore[arg-type]
