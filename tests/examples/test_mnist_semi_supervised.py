"""The semi-supervised model: its loss against the sum over classes written out."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import assert_mean
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from examples.mnist.digits import Digits
from examples.mnist.latents import estimator_from
from examples.mnist.semi_supervised import STYLE, SemiSupervised, few_labels

CLASSES, PIXELS = 3, 6


def labelled() -> Digits:
    images = torch.bernoulli(torch.full((4, PIXELS), 0.5), generator=torch.Generator().manual_seed(1))
    return Digits(images, torch.tensor([0, 1, 2, 2]))


def make(estimator: str = "exact", alpha: float = 1.0) -> SemiSupervised:
    torch.manual_seed(0)
    return SemiSupervised(estimator_from(estimator), labelled(), classes=CLASSES, alpha=alpha, share=0.5, pixels=PIXELS)


def log_joint_bound(model: SemiSupervised, pixels: Tensor, label: int, noise: Tensor) -> Tensor:
    """`log p(x | y, z) + log p(y) - KL(q(z | x, y) | p(z))` by torch's distributions, for given noise `[B, Z]`."""
    classes = torch.eye(CLASSES)[label].expand(len(pixels), -1)
    mean, log_std = model.encode(pixels, classes)
    style = Normal(mean, log_std.exp())
    logits = model.decode(mean + log_std.exp() * noise, classes)
    likelihood = Bernoulli(logits=logits).log_prob(pixels).sum(-1)
    return likelihood - math.log(CLASSES) - kl_divergence(style, Normal(0.0, 1.0)).sum(-1)


def test_marginalised_loss_is_the_sum_over_classes() -> None:
    model = make(alpha=7.0)
    pixels = torch.bernoulli(torch.full((5, PIXELS), 0.5), generator=torch.Generator().manual_seed(2))
    known = labelled()
    torch.manual_seed(3)
    loss, bound = model.loss(pixels)
    torch.manual_seed(3)
    noise = torch.randn(5, STYLE)
    noise_known = torch.randn(4, STYLE)
    q = Categorical(logits=model.classifier(pixels))
    joint = torch.stack([log_joint_bound(model, pixels, label, noise) for label in range(CLASSES)], -1)
    expected = ((q.probs * joint).sum(-1) + q.entropy()).mean()
    torch.testing.assert_close(bound, expected)
    rows = [
        log_joint_bound(model, known.images[i : i + 1], int(known.labels[i]), noise_known[i : i + 1])[0]
        for i in range(4)
    ]
    classified = Categorical(logits=model.classifier(known.images)).log_prob(known.labels)
    whole = -(expected + 0.5 * torch.stack(rows).mean() + 7.0 * classified.mean())
    torch.testing.assert_close(loss, whole)
    parameters = list(model.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(whole, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ["st-gumbel-softmax", "rloo", "score-function"])
def test_single_classes_give_the_marginalised_bound_on_average(estimator: str) -> None:
    # 20,000 copies; false alarm 1e-6. The reference is a mean of as many draws, whose error is the slack.
    pixels = labelled().images[:1].repeat(20_000, 1)
    torch.manual_seed(4)
    reference = make("exact").bound(pixels).detach()
    bounds = make(estimator).bound(pixels).detach()
    assert_mean(bounds, reference.mean(), slack=5 * float(reference.std()) / math.sqrt(len(reference)))


def test_one_weight_gives_the_bound() -> None:
    # 20,000 draws of each; false alarm 1e-6 for the first, 6e-7 for the slack.
    model = make()
    pixels = labelled().images[:1]
    torch.manual_seed(5)
    reference = model.bound(pixels.repeat(20_000, 1)).detach()
    log_weights = model.log_weights(pixels, 20_000).squeeze(-1).detach()
    assert_mean(log_weights, reference.mean(), slack=5 * float(reference.std()) / math.sqrt(len(reference)))


def test_accuracy() -> None:
    model = make()
    known = labelled()
    for parameter in model.classifier[2].parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.classifier[2].bias[2] = 1.0  # the third class, whatever it sees
    assert model.accuracy(known) == 0.5


def test_few_labels() -> None:
    digits = Digits(torch.arange(40.0)[:, None], torch.arange(40) % 10)
    told = few_labels(digits, 20)
    assert told.labels.bincount().tolist() == [2] * 10
    assert torch.equal(told.labels, digits.labels[told.images.squeeze(-1).long()])
    assert len(told.images.unique()) == 20
    assert torch.equal(few_labels(digits, 20).images, told.images)
    for count in (5, 15, 50):
        with pytest.raises(ValueError, match="multiple of 10 and at most 40"):
            few_labels(digits, count)
