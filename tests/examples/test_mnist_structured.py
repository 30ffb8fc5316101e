"""Estimators nested over two stochastic layers, against the sum over the variables of both."""

from __future__ import annotations

import itertools

import pytest
import torch
from oracles import assert_mean
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from examples.mnist.latents import Latents, estimator_from
from examples.mnist.structured import StochasticNetwork, uninformed

DIGIT = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)  # its halves
BITS = 2


pytestmark = pytest.mark.usefixtures("double_precision")


def make(estimator: str) -> StochasticNetwork:
    torch.manual_seed(5)
    model = StochasticNetwork(Latents(BITS, 2), [estimator_from(estimator) for _ in range(2)], pixels=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def enumerated(model: StochasticNetwork, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """`E log p(lower | z)` and `log E p(lower | z)`, with shifts `[2, BITS]` added to the logits of the two layers."""
    upper, lower = DIGIT.chunk(2)
    first, second, last = model.layers
    vertices = [torch.tensor(bits, dtype=torch.float64) for bits in itertools.product((0, 1), repeat=BITS)]

    def log_prob(bits: Tensor, logits: Tensor) -> Tensor:
        return (bits * logsigmoid(logits) + (1 - bits) * logsigmoid(-logits)).sum()

    joint, likelihood = [], []
    for one, two in itertools.product(vertices, repeat=2):
        joint.append(log_prob(one, first(upper) + shifts[0]) + log_prob(two, second(one) + shifts[1]))
        likelihood.append(log_prob(lower, last(two)))
    weights, values = torch.stack(joint), torch.stack(likelihood)
    return (weights.exp() * values).sum(), (weights + values).logsumexp(0)


def test_exact_bound_and_all_its_gradients() -> None:
    model = make("exact")
    parameters = list(model.parameters())
    loss, bound = model.loss(DIGIT[None])
    expected, _ = enumerated(model, torch.zeros(2, BITS))
    torch.testing.assert_close(bound, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(-expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


class Shifted(nn.Module):
    """A layer with a shift for each copy of a digit, so that each has a gradient of its own."""

    def __init__(self, layer: nn.Module, shifts: Tensor) -> None:
        super().__init__()
        self.layer, self.shifts = layer, shifts

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs + self.shifts


@pytest.mark.parametrize(
    "estimator", ["score-function", "score-function:baseline=mean", "rloo:samples=2", "rebar", "local-expectation"]
)
def test_nested_unbiased_estimators_stay_unbiased(estimator: str) -> None:
    # 20,000 copies of one digit; false alarm 1e-6 for the value and for the gradients of each layer.
    model = make(estimator)
    shifts = torch.zeros(2, BITS, requires_grad=True)
    expected, _ = enumerated(model, shifts)
    (gradient,) = torch.autograd.grad(expected, shifts)
    copies = [torch.zeros(20_000, BITS, requires_grad=True) for _ in range(2)]
    for layer, own in enumerate(copies):
        model.layers[layer] = Shifted(model.layers[layer], own)
    torch.manual_seed(0)
    bounds = model.bound(DIGIT.repeat(20_000, 1))
    gradients = torch.autograd.grad(bounds.sum(), copies)
    assert_mean(bounds.detach(), expected.detach())
    for ours, theirs in zip(gradients, gradient, strict=True):
        assert_mean(ours, theirs)


def test_straight_through_passes_from_layer_to_layer() -> None:
    # With the second layer's map and the output linear in the bits, the gradient that straight-through gives the first
    # layer's logits has a known mean only through both Jacobians: it vanishes if either layer stops it.
    model = make("straight-through")
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad(model.bound(DIGIT.repeat(100, 1)).mean(), model.layers[0].bias)
    assert bool((gradient.abs() > 1e-3).all())


def test_weights_are_unbiased_and_their_logarithm_gives_the_bound() -> None:
    # 100,000 weights; false alarm 1e-6 for each of the two means.
    model = make("rloo")
    bound, log_p = (value.detach() for value in enumerated(model, torch.zeros(2, BITS)))
    torch.manual_seed(0)
    log_weights = model.log_weights(DIGIT[None], 100_000).squeeze(-1).detach()
    assert_mean((log_weights - log_p).exp(), 1.0)
    assert_mean(log_weights, bound)


def test_learning_estimators_learn_in_both_layers() -> None:
    model = make("rebar")
    torch.manual_seed(0)
    model.adapt(DIGIT.repeat(50, 1))
    etas = [float(estimator.learnt.eta.detach()) for estimator in model.estimators]  # type: ignore[attr-defined]
    assert all(eta != 1.0 for eta in etas)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("estimator", "count"), [("local-expectation", "201"), ("exact", "1.607e\\+60")])
def test_what_cannot_be_afforded_is_refused(estimator: str, count: str) -> None:
    with pytest.raises(ValueError, match=f"takes {count} evaluations for each digit, and 2 layers"):
        StochasticNetwork(Latents(200, 2), [estimator_from(estimator) for _ in range(2)])


def test_uninformed_prediction() -> None:
    # The lower halves are 1 1 and 1 0: by (n + 1/2) / (N + 1) the pixels are white with probability 5/6 and 1/2.
    digits = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]])
    expected = -torch.tensor([5 / 6, 1 / 2]).log().sum()
    assert uninformed(digits) == pytest.approx(float(expected))
