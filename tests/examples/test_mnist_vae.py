"""The categorical VAE in miniature: its bounds and gradients against sums over all latent variables."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import assert_mean, outcome_probs, outcomes
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from examples.mnist.importance import importance_weighted_bound
from examples.mnist.latents import Latents, estimator_from
from examples.mnist.vae import CategoricalVAE

PIXELS = 4
LATENTS = [Latents(2, 3), Latents(3, 2)]


pytestmark = pytest.mark.usefixtures("double_precision")


def make(latents: Latents, estimator: str = "exact") -> CategoricalVAE:
    torch.manual_seed(3)
    model = CategoricalVAE(latents, estimator_from(estimator), PIXELS)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the flat beginning
            parameter.copy_(torch.randn_like(parameter))
    return model


DIGIT = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)


def sizes(latents: Latents) -> list[int]:
    return [latents.categories] * latents.variables


def log_p_digit(model: CategoricalVAE, vertices: Tensor) -> Tensor:
    """`log p(x | z)` of every outcome, pixel by pixel."""
    logits = model.decoder(vertices[:, 1::2] if model.latents.binary else vertices)
    return sum(
        (logsigmoid(logits[:, i]) if DIGIT[i] == 1 else logsigmoid(-logits[:, i]) for i in range(PIXELS)),
        torch.zeros(len(vertices)),
    )


def posterior(model: CategoricalVAE, outputs: Tensor) -> Tensor:
    """`q(z | x)` of every outcome, from what the encoder says."""
    if model.latents.binary:
        outputs = torch.stack([torch.zeros_like(outputs), outputs], -1).flatten()
    return outcome_probs(outputs, sizes(model.latents))


def enumerated(model: CategoricalVAE, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood and ELBO of the digit, for what the encoder says."""
    vertices = outcomes(sizes(model.latents))
    log_joint = log_p_digit(model, vertices) - math.log(len(vertices))
    q = posterior(model, outputs)
    return log_joint.logsumexp(0), (q * (log_joint - q.log())).sum()


@pytest.mark.parametrize("latents", LATENTS, ids=str)
def test_bits_are_independent_bernoulli_variables(latents: Latents) -> None:
    outputs = torch.linspace(-1, 2, latents.width)
    probs = latents.distribution(outputs).probs
    if latents.binary:
        torch.testing.assert_close(latents.features(probs), outputs.sigmoid())
    else:
        torch.testing.assert_close(latents.features(probs), outputs.reshape(2, 3).softmax(-1).flatten())


@pytest.mark.parametrize("latents", LATENTS, ids=str)
def test_divergence_in_closed_form(latents: Latents) -> None:
    model = make(latents)
    q = posterior(model, model.encoder(DIGIT))
    expected = (q * (q.log() + math.log(len(q)))).sum()
    torch.testing.assert_close(model.divergence(model.posterior(DIGIT)), expected)


@pytest.mark.parametrize("latents", LATENTS, ids=str)
def test_exact_bound_and_all_its_gradients(latents: Latents) -> None:
    model = make(latents)
    parameters = list(model.parameters())
    loss, bound = model.loss(DIGIT[None])
    _, elbo = enumerated(model, model.encoder(DIGIT))
    torch.testing.assert_close(bound, elbo)
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(-elbo, parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


class Given(nn.Module):
    """An encoder that says of every digit what it is given, so that each copy of a digit has a gradient of its own."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, pixels: Tensor) -> Tensor:
        return self.outputs


@pytest.mark.parametrize("latents", LATENTS, ids=str)
@pytest.mark.parametrize("estimator", ["score-function:baseline=mean", "rloo", "rebar", "local-expectation"])
def test_unbiased_estimators_of_the_bound_and_its_gradient(latents: Latents, estimator: str) -> None:
    # 20,000 copies of one digit; false alarm 1e-6 for the value and for the gradient.
    model = make(latents, estimator)
    outputs = model.encoder(DIGIT).detach()
    leaf = outputs.clone().requires_grad_()
    _, elbo = enumerated(model, leaf)
    (gradient,) = torch.autograd.grad(elbo, leaf)
    copies = outputs.repeat(20_000, 1).requires_grad_()
    model.encoder = Given(copies)  # type: ignore[assignment]
    torch.manual_seed(0)
    bounds = model.bound(DIGIT.repeat(20_000, 1))
    (gradients,) = torch.autograd.grad(bounds.sum(), copies)
    assert_mean(bounds.detach(), elbo.detach())
    assert_mean(gradients, gradient)


@pytest.mark.parametrize("latents", LATENTS, ids=str)
def test_weights_are_unbiased_and_their_logarithm_gives_the_elbo(latents: Latents) -> None:
    # 100,000 weights; false alarm 1e-6 for each of the two means.
    model = make(latents)
    log_p, elbo = (value.detach() for value in enumerated(model, model.encoder(DIGIT)))
    torch.manual_seed(0)
    log_weights = model.log_weights(DIGIT[None], 100_000).squeeze(-1).detach()
    assert_mean((log_weights - log_p).exp(), 1.0)
    assert_mean(log_weights, elbo)


@pytest.mark.parametrize("latents", LATENTS, ids=str)
def test_the_bound_reaches_the_log_likelihood(latents: Latents) -> None:
    # The relative error of the mean weight is its standard deviation, 10 at most here, over the root of m: 0.02.
    model = make(latents)
    log_p, elbo = (value.detach() for value in enumerated(model, model.encoder(DIGIT)))
    torch.manual_seed(0)
    (many,) = importance_weighted_bound(model.log_weights, DIGIT[None], 300_000, at_once=50_000)
    assert abs(float(many - log_p)) < 0.1
    few = importance_weighted_bound(model.log_weights, DIGIT.repeat(20_000, 1), 5)
    assert float(elbo) + 0.1 < float(few.mean()) < float(log_p) - 0.005  # in between, and not by chance


@pytest.mark.parametrize(("samples", "at_once"), [(1, 10), (7, 3), (7, 7), (7, 100), (12, 4), (12, 1)])
def test_the_bound_is_the_same_in_parts(samples: int, at_once: int) -> None:
    pixels = torch.arange(5.0)[:, None]
    drawn: list[Tensor] = []

    def log_weights(digits: Tensor, count: int) -> Tensor:
        assert count * len(digits) <= max(at_once, 1)
        # Weight number i of a digit, i counted over the parts.
        before = sum(len(part) for part, row in zip(drawn, rows, strict=True) if torch.equal(row, digits))
        numbers = torch.arange(before, before + count)[:, None]
        rows.append(digits)
        drawn.append(torch.sin(numbers + 3.0 * digits.T) * 300)  # too large to be exponentiated alone
        return drawn[-1]

    rows: list[Tensor] = []
    found = importance_weighted_bound(log_weights, pixels, samples, at_once)
    every = torch.sin(torch.arange(samples)[:, None] + 3.0 * pixels.T) * 300
    torch.testing.assert_close(found, every.logsumexp(0) - math.log(samples))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        importance_weighted_bound(lambda pixels, count: torch.zeros(count, 1), torch.zeros(1, 1), 0)
    for text in ("20", "20x1", "0x10", "20x10x2", "axb"):
        with pytest.raises(ValueError, match="VARIABLESxCATEGORIES"):
            Latents.parse(text)
    assert Latents.parse("20x10") == Latents(20, 10)
    with pytest.raises(ValueError, match="did you mean 'rloo'"):
        estimator_from("rlo")
    with pytest.raises(ValueError, match="id:key=value"):
        estimator_from("rloo:4")
    with pytest.raises(TypeError, match="no option 'sample'"):
        estimator_from("rloo:sample=4")
    assert estimator_from("rloo:samples=8").samples == 8
    with pytest.raises(ValueError, match="Exact on 20x10 latents takes 1e\\+20 evaluations"):
        CategoricalVAE(Latents(20, 10), estimator_from("exact"))
    CategoricalVAE(Latents(20, 10), estimator_from("local-expectation"))
