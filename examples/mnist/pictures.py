"""Pictures of what a model has learnt: rows of digits in one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.mnist.digits import CLASSES, PIXELS, SIDE, Digits
from examples.mnist.semi_supervised import STYLE, SemiSupervised
from examples.mnist.structured import StochasticNetwork
from examples.mnist.vae import CategoricalVAE

ENLARGED = 3  # screen pixels for one of a digit, each way
BETWEEN = 2  # pixels between digits
GROUND = 0.35  # between black and white, so that the edges of digits show


def save_rows(path: Path, rows: Sequence[Tensor]) -> None:
    """Write a PNG of digits, each row `[columns, 784]`, white on black."""
    from matplotlib.image import imsave

    step = SIDE + BETWEEN
    canvas = np.full((len(rows) * step + BETWEEN, max(map(len, rows)) * step + BETWEEN), GROUND)
    for i, row in enumerate(rows):
        for j, digit in enumerate(row.detach().reshape(-1, SIDE, SIDE).numpy()):
            top, left = BETWEEN + i * step, BETWEEN + j * step
            canvas[top : top + SIDE, left : left + SIDE] = digit
    imsave(path, canvas.repeat(ENLARGED, 0).repeat(ENLARGED, 1), cmap="gray", vmin=0.0, vmax=1.0)


def two_of_each(digits: Digits) -> Tensor:
    """The first two digits of each class, `[20, 784]`."""
    return torch.cat([digits.images[digits.labels == label][:2] for label in range(CLASSES)])


@torch.no_grad()
def pictures_of(
    model: CategoricalVAE | StochasticNetwork | SemiSupervised, digits: Digits, directory: Path
) -> list[Path]:
    """Write the pictures that the model can give, and say where.

    Reconstructions: two rows each of digits and of what is made of a draw of their latent variables. Samples: 5 rows
    from the prior. Predictions: digits; their upper halves with the mean over 50 predictions of the lower half; and
    with two single ones. Styles: a row each of one style in all classes.
    """
    if isinstance(model, CategoricalVAE):
        shown = two_of_each(digits)
        again = model.decode(model.posterior(shown).sample()).sigmoid()
        rows = [part for pair in zip(shown.chunk(2), again.chunk(2), strict=True) for part in pair]
        drawn = model.decode(model.latents.prior(100).sample()).sigmoid().chunk(5)
        return _written(directory, {"reconstructions": rows, "samples": drawn})
    if isinstance(model, StochasticNetwork):
        shown = two_of_each(digits)
        upper, _ = shown.chunk(2, -1)
        halves = model.predict(upper, 50).sigmoid()
        lower = [halves.mean(0), halves[0], halves[1]]
        return _written(directory, {"predictions": [shown, *(torch.cat([upper, half], -1) for half in lower)]})
    classes = torch.eye(model.factors.width)
    rows = [model.decode(style.expand(len(classes), -1), classes).sigmoid() for style in torch.randn(5, STYLE)]
    return _written(directory, {"styles": rows})


def _written(directory: Path, pictures: dict[str, Sequence[Tensor]]) -> list[Path]:
    paths = []
    for name, rows in pictures.items():
        path = directory / f"{name}.png"
        save_rows(path, [row[..., :PIXELS] for row in rows])
        paths.append(path)
    return paths
