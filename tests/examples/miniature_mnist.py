"""MNIST in miniature: 30 training digits and 20 for the test, of noise."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.mnist.digits import TEST_FILES, TRAINING_FILES


def idx(array: NDArray[np.uint8]) -> bytes:
    """The content of an IDX file, written from the format's description."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_mnist(directory: Path) -> None:
    """The four files, images plain and labels gzipped; the first pixel is the digit's number."""
    generator = np.random.default_rng(0)
    for (images, labels), n in ((TRAINING_FILES, 30), (TEST_FILES, 20)):
        pixels = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        pixels[:, 0, 0] = np.arange(n)
        (directory / images).write_bytes(idx(pixels))
        (directory / f"{labels}.gz").write_bytes(gzip.compress(idx(np.arange(n, dtype=np.uint8) % 10)))
