"""A variational autoencoder whose latent variables are categorical or Bernoulli."""

from __future__ import annotations

import math

from torch import Tensor, nn

from examples.mnist.digits import PIXELS
from examples.mnist.latents import Latents, bernoulli_log_prob, require_affordable
from gumbel_rl import Estimator, FactoredCategorical

HIDDEN = 200


class CategoricalVAE(nn.Module):
    """Encoder `q(z | x)`, decoder `p(x | z)`, and a uniform prior.

    The bound `E_q log p(x | z) - KL(q | prior)` has its divergence in closed form; the rest is the estimator's, whose
    objective is the decoder. Architectures of Jang, Gu & Poole 2017: the encoder is linear; the decoder is linear for
    Bernoulli variables (784-200-784) and has a hidden layer for categorical ones (784-(20x10)-200-784).

    Args:
        latents: The latent variables.
        estimator: Of the gradient.
        pixels: Of a digit.

    Raises:
        ValueError: The estimator would take too many evaluations.
    """

    def __init__(self, latents: Latents, estimator: Estimator, pixels: int = PIXELS) -> None:
        super().__init__()
        require_affordable(estimator, latents)
        self.latents = latents
        self.estimators = [estimator]
        self.encoder = nn.Linear(pixels, latents.width)
        hidden = [] if latents.binary else [nn.Linear(latents.width, HIDDEN), nn.ReLU()]
        self.decoder = nn.Sequential(*hidden, nn.Linear(HIDDEN if hidden else latents.width, pixels))

    def posterior(self, pixels: Tensor) -> FactoredCategorical:
        """`q(z | x)`."""
        return self.latents.distribution(self.encoder(pixels))

    def log_likelihood(self, one_hots: Tensor, pixels: Tensor) -> Tensor:
        """`log p(x | z)`: one-hots `[*, N]` and pixels that broadcast against them, to `[*]`."""
        return bernoulli_log_prob(self.decode(one_hots), pixels)

    def decode(self, one_hots: Tensor) -> Tensor:
        """Logits of the pixels."""
        logits: Tensor = self.decoder(self.latents.features(one_hots))
        return logits

    def divergence(self, posterior: FactoredCategorical) -> Tensor:
        """`KL(q | uniform) = log(number of joint choices) - entropy`, `[B]`."""
        return self.latents.factors.max_entropy - posterior.entropy()

    def bound(self, pixels: Tensor) -> Tensor:
        """A surrogate of the bound, to be maximised: `[B, 784]` to `[B]`."""
        posterior = self.posterior(pixels)
        expected = self.estimators[0](posterior, lambda z: self.log_likelihood(z, pixels))
        return expected - self.divergence(posterior)

    def loss(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the mean bound, both scalars."""
        bound = self.bound(pixels).mean()
        return -bound, bound.detach()

    def adapt(self, pixels: Tensor) -> None:
        """Let the estimator learn, if it does."""
        self.estimators[0].adapt(self.posterior(pixels), lambda z: self.log_likelihood(z, pixels))

    def log_weights(self, pixels: Tensor, samples: int) -> Tensor:
        """`log p(x | z) p(z) / q(z | x)` of `z` drawn from `q`, `[samples, B]`."""
        posterior = self.posterior(pixels)
        z = posterior.sample((samples,))
        log_prior = -self.latents.variables * math.log(self.latents.categories)
        return self.log_likelihood(z, pixels) + log_prior - posterior.log_prob(z)
