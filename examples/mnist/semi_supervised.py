"""A semi-supervised model with a discrete class variable: few labels, and many digits without."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from examples.mnist.digits import CLASSES, PIXELS, Digits, stratified
from examples.mnist.latents import bernoulli_log_prob
from gumbel_rl import ActionFactors, Estimator, FactoredCategorical

STYLE = 8
HIDDEN = 256
LABEL_SEED = 2014


class SemiSupervised(nn.Module):
    """Model M2 of Kingma et al. 2014: class `y`, Gaussian style `z`, `p(x | y, z)`, `q(y | x)` and `q(z | x, y)`.

    For a digit whose class is known the bound is

    `L(x, y) = E_q(z|x,y) log p(x | y, z) + log p(y) - KL(q(z | x, y) | p(z))`,

    and `E_q(y|x) L(x, y) + H(q(y | x))` for one whose class is not. `L(x, .)` is the estimator's objective, with one
    reparameterised draw of `z`: `exact` evaluates it for every class, which is marginalisation; `st-gumbel-softmax`
    for one class. What is minimised is minus the mean bound of digits without a class, minus `share` times that of
    digits with one, minus `alpha` times their mean `log q(y | x)`.

    Args:
        estimator: Of the gradient.
        labelled: Digits whose class is known; all of them are in every step.
        classes: Number of classes; more than digits have is for measuring time.
        alpha: Weight of the classification.
        share: Digits with a class for each without: 1 would let the decoder learn the few by heart.
        pixels: Of a digit.
    """

    def __init__(
        self,
        estimator: Estimator,
        labelled: Digits,
        classes: int = CLASSES,
        alpha: float = 1.0,
        share: float = 1.0,
        pixels: int = PIXELS,
    ) -> None:
        super().__init__()
        self.estimators = [estimator]
        self.factors = ActionFactors((classes,))
        self.alpha = alpha
        self.share = share
        self.labelled = labelled
        self.classifier = nn.Sequential(nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
        self.style_of_pixels = nn.Linear(pixels, HIDDEN)
        self.style_of_class = nn.Linear(classes, HIDDEN, bias=False)
        self.style = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, 2 * STYLE))
        self.ink_of_style = nn.Linear(STYLE, HIDDEN)
        self.ink_of_class = nn.Linear(classes, HIDDEN, bias=False)
        self.ink = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, pixels))

    def posterior(self, pixels: Tensor) -> FactoredCategorical:
        """`q(y | x)`."""
        return FactoredCategorical(self.classifier(pixels), self.factors)

    def encode(self, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of `q(z | x, y)`, both `[*, Z]`.

        What the pixels `[B, 784]` have to say is computed once for all classes `[*, B, C]`.
        """
        hidden = self.style_of_pixels(pixels) + self.style_of_class(classes)
        mean, log_std = self.style(hidden).chunk(2, -1)
        return mean, log_std.clamp(-5.0, 2.0)

    def decode(self, styles: Tensor, classes: Tensor) -> Tensor:
        """Logits of the pixels."""
        logits: Tensor = self.ink(self.ink_of_style(styles) + self.ink_of_class(classes))
        return logits

    def joint_bound(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """`L(x, y)` with one draw of `z`: pixels `[B, 784]`, one-hot or relaxed classes `[*, B, C]`, to `[*, B]`."""
        mean, log_std = self.encode(pixels, classes)
        # The same noise for all classes, whose differences are what the classifier learns from.
        styles = mean + log_std.exp() * torch.randn(mean.shape[-2:], dtype=mean.dtype, device=mean.device)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1.0).sum(-1) - log_std.sum(-1)
        return bernoulli_log_prob(self.decode(styles, classes), pixels) - divergence - self.factors.max_entropy

    def bound(self, pixels: Tensor) -> Tensor:
        """A surrogate of the bound for digits whose class is not known, `[B, 784]` to `[B]`."""
        posterior = self.posterior(pixels)
        return self.estimators[0](posterior, lambda y: self.joint_bound(pixels, y)) + posterior.entropy()

    def labelled_terms(self) -> tuple[Tensor, Tensor]:
        """`L(x, y)` and `log q(y | x)` of the digits whose class is known, both `[n]`."""
        classes = one_hot(self.labelled.labels, self.factors.width).to(self.labelled.images.dtype)
        bound = self.joint_bound(self.labelled.images, classes)
        return bound, self.posterior(self.labelled.images).log_prob(classes)

    def loss(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the mean bound of the digits without a class, both scalars."""
        bound = self.bound(pixels).mean()
        known, classified = self.labelled_terms()
        return -(bound + self.share * known.mean() + self.alpha * classified.mean()), bound.detach()

    def adapt(self, pixels: Tensor) -> None:
        """Let the estimator learn, if it does."""
        self.estimators[0].adapt(self.posterior(pixels), lambda y: self.joint_bound(pixels, y))

    @torch.no_grad()
    def accuracy(self, digits: Digits) -> float:
        """Share of digits whose likeliest class is theirs."""
        return float((self.classifier(digits.images).argmax(-1) == digits.labels).float().mean())

    def log_weights(self, pixels: Tensor, samples: int) -> Tensor:
        """`log p(x, y, z) / q(y, z | x)` of `y` and `z` drawn from `q`, `[samples, B]`."""
        posterior = self.posterior(pixels)
        classes = posterior.sample((samples,))
        mean, log_std = self.encode(pixels, classes)
        noise = torch.randn_like(mean)
        styles = mean + log_std.exp() * noise
        # log p(z) - log q(z | x, y), in which log 2 pi cancels.
        gaussians = (0.5 * (noise.square() - styles.square()) + log_std).sum(-1)
        log_prior = -math.log(self.factors.width)
        likelihood = bernoulli_log_prob(self.decode(styles, classes), pixels)
        return likelihood + gaussians + log_prior - posterior.log_prob(classes)


def few_labels(digits: Digits, count: int, seed: int = LABEL_SEED) -> Digits:
    """`count` digits, as many of each class.

    Raises:
        ValueError: They cannot be that many.
    """
    classes = len(digits.labels.unique())
    rarest = int(digits.labels.bincount()[digits.labels.unique()].min())
    if count < classes or count % classes or count // classes > rarest:
        raise ValueError(
            f"labels must be a multiple of {classes} and at most {classes * rarest}, as many of each class; got {count}"
        )
    each = count // classes
    (shuffled,) = stratified(digits, (1.0,), seed)
    rows = [torch.nonzero(shuffled.labels == label).squeeze(-1)[:each] for label in shuffled.labels.unique()]
    return shuffled[torch.cat(rows)]
