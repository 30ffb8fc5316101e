"""`gapped-st`: the Jacobian of every outcome, its mean and covariance, and what its gaps do.

Where samples are drawn, the false-alarm rate is 1e-6 for each check (see `oracles`).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from enumeration import (
    SIZES,
    assert_equal,
    covariance,
    enumerated,
    gradients_given_outcomes,
    logits_of,
    sampled,
    softmax_jacobian,
)
from oracles import OBJECTIVES, assert_mean, exact_expectation, outcome_probs
from torch import Tensor

from gumbel_rl.estimators import GappedStraightThrough, StraightThrough
from gumbel_rl.gumbel import gumbel_noise

SPACES: list[tuple[int, ...]] = [(2,), *SIZES, (4,), (5,), (2, 3, 4)]
GAPS: list[float | str] = [1.0, 0.0, 2.5, "p"]


def moved(logits: Tensor, choice: int, gap: float | str) -> Tensor:
    """The logits of one factor with the choice on top, by the gap, one number after the other."""
    values = logits.tolist()
    if gap == "p":
        p = float(logits.softmax(-1)[choice])
        gap = -math.log(1 - p) / p
    top = max(values)
    return torch.tensor(
        [top if k == choice else min(value, top - gap) for k, value in enumerate(values)], dtype=torch.float64
    )


def jacobian_of(temperature: float, gap: float | str) -> Any:
    return lambda logits, k: softmax_jacobian((moved(logits, k, gap) / temperature).softmax(-1)) / temperature


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SPACES, ids=str)
@pytest.mark.parametrize(("temperature", "gap"), [(1.0, gap) for gap in GAPS] + [(0.5, 1.0), (2.0, "p")])
def test_every_outcome_has_the_jacobian_of_the_paper(
    temperature: float, gap: float | str, sizes: tuple[int, ...], kind: str
) -> None:
    # Logits that are not normalised: nothing may depend on their offset.
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes) + 3.0
    expected = gradients_given_outcomes(logits, sizes, f, jacobian_of(temperature, gap))
    probability, value, gradient = enumerated(GappedStraightThrough(temperature, gap=gap), sizes, f, logits, 1)
    assert_equal(gradient, expected)
    assert_equal(probability @ value, exact_expectation(logits, sizes, f)[0])


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_samples_have_the_predicted_mean_and_covariance(sizes: tuple[int, ...], kind: str) -> None:
    f, logits = OBJECTIVES[kind](sizes), logits_of(sizes)
    expected, probs = gradients_given_outcomes(logits, sizes, f, jacobian_of(0.7, 1.0)), outcome_probs(logits, sizes)
    _, drawn = sampled(GappedStraightThrough(0.7), sizes, f, repeats=20_000)
    assert_mean(drawn, probs @ expected)
    deviation = drawn - probs @ expected
    assert_mean(deviation[:, :, None] * deviation[:, None, :], covariance(probs, expected))
    assert (probs @ expected - exact_expectation(logits, sizes, f)[1]).abs().max() > 1e-3  # it is biased


def test_by_hand() -> None:
    # Logits 1, 0, -1 and the sample the second: it is raised to 1, the first lowered to 0, and the third is far enough.
    logits = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    p = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64).softmax(-1)
    _, _, gradient = enumerated(GappedStraightThrough(), (3,), lambda z: z[..., 1], logits, 1)
    assert_equal(gradient[1], torch.stack([-p[0] * p[1], p[1] * (1 - p[1]), -p[1] * p[2]]))


def test_a_certain_best_choice_moves_nothing() -> None:
    # The logits have their gap without help: straight-through at temperature 1, for the most probable sample.
    logits, f = torch.tensor([2.0, 0.5, -1.0], dtype=torch.float64), OBJECTIVES["nonlinear"]((3,))
    _, _, gapped = enumerated(GappedStraightThrough(), (3,), f, logits, 1)
    _, _, plain = enumerated(StraightThrough(), (3,), f, logits, 1)
    assert_equal(gapped[0], plain[0])
    assert (gapped[1:] - plain[1:]).abs().max() > 0.01


@pytest.mark.parametrize("choice", range(3))
def test_the_gap_p_is_what_noise_puts_between_the_sample_and_the_next(choice: int) -> None:
    log_p = logits_of((3,)).log_softmax(-1)
    noise = gumbel_noise((200_000, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best, second = (log_p + noise).topk(2, -1).values.unbind(-1)
    chosen = (log_p + noise).argmax(-1) == choice
    p = log_p[choice].exp()
    expected = -(1 - p).log() / p
    assert_mean((best - second)[chosen], expected)
    gap = GappedStraightThrough(gap="p")._gap(log_p, torch.eye(3, dtype=torch.float64)[choice])
    torch.testing.assert_close(gap, expected[None])


def test_the_gap_p_stays_finite_where_the_sample_is_certain_or_all_but_impossible() -> None:
    logits = torch.tensor([0.0, -300.0], requires_grad=True)
    log_p = logits.log_softmax(-1)
    estimator = GappedStraightThrough(gap="p")
    for choice, expected in ((0, 11.51), (1, 1.0)):
        one_hot = torch.eye(2)[choice]
        assert float(estimator._gap(log_p.detach(), one_hot)) == pytest.approx(expected, abs=0.02)
        (slope,) = torch.autograd.grad(estimator.surrogate(log_p, one_hot)[0], logits, retain_graph=True)
        assert slope.isfinite().all()


@pytest.mark.parametrize("gap", [-0.1, float("nan"), float("inf"), "P", "1.0"])
def test_gaps_that_make_no_sense_are_refused(gap: Any) -> None:
    with pytest.raises(ValueError, match="gap must be a number of at least 0, or 'p', got"):
        GappedStraightThrough(gap=gap)
