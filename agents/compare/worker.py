"""A run of a comparison, in whatever process it was sent to."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import uuid
import warnings
from pathlib import Path

import torch

from agents.compare.plan import Job
from agents.compare.records import read
from agents.run import train
from agents.run_directory import RunDirectory

# What this process may use; a run takes fewer for small networks, and the process is used for the next run again.
THREADS = torch.get_num_threads()


def run_here(job: Job) -> None:
    """Run, and leave the finished run directory in its place, whole.

    Raises:
        Exception: The run failed, or came to nothing that can be compared. Nothing is left of it.
    """
    job.path.parent.mkdir(parents=True, exist_ok=True)
    attempt = _attempt(job.path)
    try:
        _train(job, attempt)
        publish(attempt, job.path)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def run_elsewhere(job: Job) -> bytes:
    """Run on a machine that need not share this one's files.

    Returns:
        The finished run directory as an archive, for `unpack`.

    Raises:
        Exception: The run failed.
    """
    with tempfile.TemporaryDirectory(prefix="comparison-") as directory:
        run = Path(directory) / "run"
        _train(job, run)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=3) as tar:
            tar.add(run, arcname=".")
        return archive.getvalue()


def unpack(archive: bytes, path: Path) -> None:
    """Put the run directory that another machine made in its place, whole."""
    attempt = _attempt(path)
    try:
        attempt.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            tar.extractall(attempt, filter="data")
        publish(attempt, path)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def publish(attempt: Path, path: Path) -> None:
    """Give a finished run its name, unless another attempt at it was first: then that one stays.

    Raises:
        OSError: It cannot be moved.
    """
    try:
        os.rename(attempt, path)
    except OSError:
        # A directory cannot take the place of one that is not empty.
        if RunDirectory(path).finished:
            return
        # What is there was copied in part, or has lost its result.
        shutil.rmtree(path)
        os.rename(attempt, path)


def remove_leftovers(out: Path) -> None:
    """Remove what runs left behind that were killed."""
    for attempt in out.glob("runs/*/*/.seed*"):
        shutil.rmtree(attempt, ignore_errors=True)


def _attempt(path: Path) -> Path:
    """A name of its own for each attempt: one whose command was killed may still be writing for a moment."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")


def _train(job: Job, path: Path) -> None:
    torch.set_num_threads(THREADS)
    with warnings.catch_warnings():
        # They would run through the table that the command shows, once for each process.
        warnings.simplefilter("ignore")
        train(job.config, path)
    read(path)
