"""Gumbel noise and what is made of it.

Statistical checks have a false-alarm rate of 1e-6 each (see `oracles`).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import FALSE_ALARM, assert_frequencies, assert_mean, assert_plausible
from scipy import stats
from torch import Tensor

from gumbel_rl import gumbel

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
EULER = 0.5772156649015329
LOGITS = torch.tensor([3.0, 4.5, 2.0, 3.7])  # far from normalised: their exponentials sum to 158


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gumbel_p_value(draws: Tensor) -> float:
    return float(stats.kstest(draws.double().flatten().numpy(), "gumbel_r").pvalue)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_standard_gumbel_and_finite(dtype: torch.dtype) -> None:
    noise = gumbel.gumbel_noise((200_000,), dtype=dtype, generator=generator(0))
    assert noise.dtype == dtype
    assert noise.isfinite().all()
    assert_plausible(gumbel_p_value(noise))
    assert_mean(noise, EULER)
    assert_mean((noise.double() - EULER).square(), math.pi**2 / 6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_finite_at_both_ends_of_the_uniform_numbers(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extremes(shape: tuple[int, ...], dtype: torch.dtype, **_: object) -> Tensor:
        return torch.tensor([0.0, 1.0 - torch.finfo(dtype).eps / 2], dtype=dtype)

    monkeypatch.setattr(torch, "rand", extremes)
    noise = gumbel.gumbel_noise((2,), dtype=dtype)
    assert noise.isfinite().all()
    assert noise[0] < -4
    assert noise[1] > 16


def test_noise_is_repeated_by_its_generator() -> None:
    first, again = (gumbel.gumbel_noise((3, 5), generator=generator(1)) for _ in range(2))
    assert first.shape == (3, 5)
    assert torch.equal(first, again)
    assert not torch.equal(first, gumbel.gumbel_noise((3, 5), generator=generator(2)))


@pytest.mark.parametrize("choices", [2, 4, 20])
def test_gumbel_max_samples_the_categorical(choices: int) -> None:
    logits = torch.randn(choices, generator=generator(3))
    noise = gumbel.gumbel_noise((200_000, choices), generator=generator(4))
    sample = gumbel.gumbel_max(logits, noise)
    assert sample.unique().tolist() == [0.0, 1.0]
    assert (sample.sum(-1) == 1).all()
    assert_frequencies(sample, logits.softmax(-1))


def test_one_hot_argmax_takes_the_first_of_equals() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [-5.0, -7.0, -4.0]])
    assert gumbel.one_hot_argmax(scores).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert gumbel.one_hot_argmax(torch.zeros(0, 3)).shape == (0, 3)


# Posterior noise: drawn given the outcome, and averaged over the outcomes, it must be the prior noise again.


def outcomes_and_posterior(n: int = 200_000, logits: Tensor = LOGITS) -> tuple[Tensor, Tensor, Tensor]:
    prior = gumbel.gumbel_noise((n, len(logits)), generator=generator(5), dtype=logits.dtype)
    one_hot = gumbel.gumbel_max(logits, prior)
    return prior, one_hot, gumbel.posterior_gumbel(logits, one_hot, generator=generator(6))


def test_posterior_noise_averages_to_the_prior_law() -> None:
    _, _, noise = outcomes_and_posterior()
    for column in noise.unbind(-1):
        assert_plausible(gumbel_p_value(column))
    centred = noise.double() - EULER
    products = centred[:, :, None] * centred[:, None, :]  # independent: off-diagonal covariances are zero
    assert_mean(noise, EULER)
    assert_mean(products, torch.eye(len(LOGITS)) * math.pi**2 / 6)


def test_posterior_noise_leads_to_its_outcome() -> None:
    _, one_hot, noise = outcomes_and_posterior()
    assert torch.equal(gumbel.gumbel_max(LOGITS.log_softmax(-1), noise), one_hot)


@pytest.mark.parametrize("choice", range(4))
def test_posterior_noise_has_the_law_of_prior_noise_with_that_outcome(choice: int) -> None:
    prior, one_hot, noise = outcomes_and_posterior()
    given = one_hot[:, choice] == 1
    for column in range(4):
        assert_plausible(stats.ks_2samp(prior[given, column], noise[given, column]).pvalue)


def test_the_check_of_posterior_noise_detects_unnormalised_logits() -> None:
    # The published mistake: -log E as the maximum of z = logits + g, whose maximum is Gumbel around logsumexp(logits).
    _, one_hot, _ = outcomes_and_posterior()
    exponential = -torch.log(torch.rand(one_hot.shape, generator=generator(7)))
    top = (exponential * one_hot).sum(-1, keepdim=True)
    z = -torch.log(torch.where(one_hot.bool(), exponential, exponential / LOGITS.exp() + top))
    assert min(gumbel_p_value(column) for column in (z - LOGITS).unbind(-1)) < FALSE_ALARM**2


def test_posterior_noise_does_not_depend_on_the_offset_of_the_logits() -> None:
    one_hot = torch.eye(4).repeat(50, 1)
    near, far = (
        gumbel.posterior_gumbel(logits, one_hot, generator=generator(8)) for logits in (LOGITS - 3, LOGITS + 64)
    )
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)


def test_posterior_noise_of_a_choice_that_never_happens_is_prior_noise() -> None:
    # log p = -1e9: taken naively, g = z - log p loses every digit.
    one_hot = torch.tensor([1.0, 0.0, 0.0])
    logits = torch.tensor([0.0, -1e9, 0.5]).expand(100_000, 3)
    noise = gumbel.posterior_gumbel(logits, one_hot, generator=generator(9))
    assert_plausible(gumbel_p_value(noise[:, 1]))
    assert noise.isfinite().all()


def test_posterior_noise_broadcasts_and_carries_the_right_gradient() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, generator=generator(10), requires_grad=True)
    one_hot = gumbel.gumbel_max(logits, gumbel.gumbel_noise((2, 3, 4), generator=generator(11)))

    def noise(logits: Tensor) -> Tensor:
        return gumbel.posterior_gumbel(logits, one_hot, generator=generator(12))

    assert noise(logits).shape == (2, 3, 4)
    assert torch.autograd.gradcheck(noise, (logits,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_posterior_noise_keeps_or_widens_the_dtype(dtype: torch.dtype) -> None:
    one_hot = torch.eye(4, dtype=dtype)
    noise = gumbel.posterior_gumbel(LOGITS.to(dtype), one_hot)
    assert noise.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(gumbel.gumbel_max(LOGITS.to(dtype).to(noise.dtype).log_softmax(-1), noise), one_hot.to(noise))


# Gumbel-softmax and straight-through.


def test_gumbel_softmax_by_hand() -> None:
    value = gumbel.gumbel_softmax(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), 0.5)
    ratio = math.exp((1.25 - 0.5) / 0.5)
    torch.testing.assert_close(value, torch.tensor([1 / (1 + ratio), ratio / (1 + ratio)]))


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_gumbel_softmax_refuses_temperatures_that_are_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        gumbel.gumbel_softmax(LOGITS, LOGITS, temperature)


def test_gumbel_softmax_is_differentiable_in_a_tensor_temperature() -> None:
    noise = gumbel.gumbel_noise((4,), dtype=torch.float64, generator=generator(13))
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: gumbel.gumbel_softmax(LOGITS.double(), noise, t), (temperature,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_straight_through_is_exact_forward_and_the_surrogate_backward(dtype: torch.dtype) -> None:
    logits = torch.randn(50_000, 4, generator=generator(14)).to(dtype).requires_grad_()
    soft = logits.softmax(-1)
    hard = gumbel.gumbel_max(logits, gumbel.gumbel_noise((50_000, 4), generator=generator(18))).to(dtype)
    upstream = torch.randn(50_000, 4, generator=generator(15)).to(dtype)
    passed = gumbel.straight_through(hard, soft)
    assert torch.equal(passed, hard)  # not off by 6e-8
    assert torch.equal(gumbel.straight_through(upstream, soft), upstream)  # nor is any other value
    (gradient,) = torch.autograd.grad(passed, logits, upstream, retain_graph=True)
    (expected,) = torch.autograd.grad(soft, logits, upstream)
    assert torch.equal(gradient, expected)
    assert gradient.abs().sum() > 0


def test_straight_through_gives_no_gradient_to_the_value() -> None:
    value = torch.ones(3, requires_grad=True)
    surrogate = torch.zeros(3, requires_grad=True)
    gumbel.straight_through(value, surrogate).sum().backward()
    assert value.grad is None
    assert surrogate.grad is not None


# The softmax for few choices takes another way through torch: same numbers, same gradients.


@pytest.mark.parametrize("shape", [(4,), (0, 3), (5, 3), (700, 3), (40, 16, 4), (300, 1, 10), (1000, 16), (3000, 1)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_agrees_with_torch(shape: tuple[int, ...], name: str) -> None:
    scores = torch.randn(shape, dtype=torch.float64, generator=generator(16), requires_grad=True)
    upstream = torch.randn(shape, dtype=torch.float64, generator=generator(17))
    ours, theirs = getattr(gumbel, name)(scores), getattr(torch, name)(scores, -1)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous()
    gradients = [torch.autograd.grad(result, scores, upstream)[0] for result in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_softmax_takes_minus_infinity() -> None:
    scores = torch.zeros(1000, 3).index_fill_(-1, torch.tensor([1]), -torch.inf).requires_grad_()
    value = gumbel.softmax(scores)
    assert torch.equal(value, torch.tensor([0.5, 0.0, 0.5]).expand(1000, 3))
    (gradient,) = torch.autograd.grad(value[:, 0].sum(), scores)
    assert np.allclose(gradient, [0.25, 0.0, -0.25])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_on_cuda() -> None:
    noise = gumbel.gumbel_noise((200_000,), device="cuda")
    assert noise.device.type == "cuda"
    assert_plausible(gumbel_p_value(noise.cpu()))
    logits = LOGITS.cuda()
    one_hot = gumbel.gumbel_max(logits, noise.reshape(-1, 4))
    posterior = gumbel.posterior_gumbel(logits, one_hot)
    assert torch.equal(gumbel.gumbel_max(logits.log_softmax(-1), posterior), one_hot)
