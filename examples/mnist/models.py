"""The models by name."""

from __future__ import annotations

import torch

from examples.mnist.digits import Split, binarise
from examples.mnist.latents import Latents, estimator_from
from examples.mnist.semi_supervised import SemiSupervised, few_labels
from examples.mnist.structured import StochasticNetwork
from examples.mnist.vae import CategoricalVAE

MODELS = ("vae", "structured", "semi-supervised")
STOCHASTIC_LAYERS = 2

AnyModel = CategoricalVAE | StochasticNetwork | SemiSupervised


def make_model(
    name: str, estimator: str, latents: Latents, digits: Split, *, seed: int, labels: int = 100, alpha: float = 1.0
) -> AnyModel:
    """A model with fresh parameters.

    Args:
        name: One of `MODELS`.
        estimator: Id and options, see `estimator_from`.
        latents: Of the VAE, or of each layer of the structured model.
        digits: Whose training part the semi-supervised model takes its labels from.
        seed: Of the parameters. Models that differ in the estimator alone begin with the same.
        labels: Digits whose class the semi-supervised model is told.
        alpha: Its weight of the classification.

    Raises:
        ValueError: Unknown model or estimator, a value that is refused, or an estimator that cannot be afforded.
        TypeError: An option the estimator does not have.
    """
    torch.manual_seed(seed)
    if name == "vae":
        return CategoricalVAE(latents, estimator_from(estimator))
    if name == "structured":
        # One for each layer: what they learn is the layer's own.
        return StochasticNetwork(latents, [estimator_from(estimator) for _ in range(STOCHASTIC_LAYERS)])
    if name == "semi-supervised":
        told = few_labels(digits.train, labels)
        # A dynamic binarisation leaves training digits grey; those with a label are in every batch, and stay the same.
        told = type(told)(binarise(told.images, "fixed", torch.Generator().manual_seed(0)), told.labels)
        share = len(told) / len(digits.train)
        return SemiSupervised(estimator_from(estimator), told, alpha=alpha, share=share)
    raise ValueError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
