"""A network with two stochastic layers that predicts the lower half of a digit from the upper half."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.mnist.digits import PIXELS
from examples.mnist.latents import Latents, bernoulli_log_prob, require_affordable
from gumbel_rl import Estimator
from gumbel_rl.estimators import Objective

HALF = PIXELS // 2


class StochasticNetwork(nn.Module):
    """`p(lower | upper)` as an expectation over layers of discrete variables, with linear maps between them.

    392-200-200-392 with Bernoulli variables, or 392-(20x10)-(20x10)-392 with categorical ones (Raiko et al. 2015; Jang,
    Gu & Poole 2017). There is no encoder: the variables are drawn from the model, and `log E p(lower | z)` is bounded
    by `E log p(lower | z)`, the importance-weighted bound with one sample.

    The expectation is nested: the objective of the first layer's estimator is the surrogate that the second layer's
    estimator returns. Its value estimates the expectation over the second layer, and its gradient that with respect to
    the first layer's variables, so that layers compose for every estimator. Unbiased ones stay unbiased, because each
    uses its objective's value and slope linearly. Relaxed and straight-through variables pass from layer to layer as
    usual. What several samples or evaluations cost is taken to the power of the number of layers: `exact` and
    `local-expectation` are refused where that is too much. For `rebar` and `relax` in any layer but the last, the
    learnt temperature follows an approximation of its gradient, which leaves out how the inner estimate's weights
    depend on the relaxed variables; their estimates are unbiased whatever that temperature is.

    Args:
        latents: Variables of each layer.
        estimators: Of the gradient, one for each layer.
        pixels: Of the upper half and of the lower half.

    Raises:
        ValueError: An estimator would take too many evaluations.
    """

    def __init__(self, latents: Latents, estimators: Sequence[Estimator], pixels: int = HALF) -> None:
        super().__init__()
        for estimator in estimators:
            require_affordable(estimator, latents, len(estimators))
        self.latents = latents
        self.estimators = list(estimators)
        widths = [pixels, *(latents.width for _ in estimators), pixels]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def expected(self, layer: int, inputs: Tensor, lower: Tensor) -> Tensor:
        """Surrogate of `E log p(lower | z)` over the variables from `layer` on: inputs `[*, width]` to `[*]`."""
        outputs = self.layers[layer](inputs)
        if layer == len(self.estimators):
            return bernoulli_log_prob(outputs, lower)
        return self.estimators[layer](self.latents.distribution(outputs), self.following(layer, lower))

    def following(self, layer: int, lower: Tensor) -> Objective:
        """The objective of a layer's variables: what is expected of the layers that follow, given them."""
        return lambda z: self.expected(layer + 1, self.latents.features(z), lower)

    def bound(self, pixels: Tensor) -> Tensor:
        """A surrogate of the bound, to be maximised: `[B, 784]` to `[B]`."""
        upper, lower = pixels.chunk(2, -1)
        return self.expected(0, upper, lower)

    def loss(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the mean bound, both scalars."""
        bound = self.bound(pixels).mean()
        return -bound, bound.detach()

    def adapt(self, pixels: Tensor) -> None:
        """Let the estimators learn, if they do: each given a sample of the layers before it."""
        if not any(estimator.learns for estimator in self.estimators):
            return
        inputs, lower = (half.detach() for half in pixels.chunk(2, -1))
        for layer, estimator in enumerate(self.estimators):
            dist = self.latents.distribution(self.layers[layer](inputs).detach())
            estimator.adapt(dist, self.following(layer, lower))
            inputs = self.latents.features(dist.sample())

    def predict(self, upper: Tensor, samples: int) -> Tensor:
        """Logits of the lower half, `[samples, B, 392]`, for so many draws of all variables."""
        inputs = upper.expand(samples, *upper.shape)
        for layer in self.layers[:-1]:
            inputs = self.latents.features(self.latents.distribution(layer(inputs)).sample())
        logits: Tensor = self.layers[-1](inputs)
        return logits

    def log_weights(self, pixels: Tensor, samples: int) -> Tensor:
        """`log p(lower | z)` of variables drawn from the model, `[samples, B]`."""
        upper, lower = pixels.chunk(2, -1)
        return bernoulli_log_prob(self.predict(upper, samples), lower)


def uninformed(pixels: Tensor) -> float:
    """Nats a digit of predicting each pixel of the lower half by its mean over the digits `[n, 784]`."""
    _, lower = pixels.chunk(2, -1)
    mean = (lower.sum(0) + 0.5) / (len(lower) + 1)
    return float(-bernoulli_log_prob(torch.logit(mean), lower).mean())
