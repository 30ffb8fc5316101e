"""The directory of a run: what lies where, and how a run is told to be finished, unfinished or none."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from agents.config import RunConfig, resolve
from agents.errors import UserError
from agents.result import Result

CHECKPOINTS_KEPT = 3
# In bytes, of which file systems take 143 (eCryptfs) to 255.
LONGEST_NAME = 100


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run.

    `result.json` is written last and in one piece: a run that has it is finished.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which repeats the run."""
        return self.path / "config.yaml"

    @property
    def result(self) -> Path:
        """What came of the run."""
        return self.path / "result.json"

    @property
    def progress(self) -> Path:
        """The logged values as a table."""
        return self.path / "progress.csv"

    @property
    def checkpoints(self) -> Path:
        """A directory for each checkpoint, named by its step."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.result.exists()

    def write_config(self, config: RunConfig) -> None:
        """Write `config.yaml`."""
        text = yaml.safe_dump(config.to_mapping(), sort_keys=False, allow_unicode=True)
        repeat = "# Repeat this run: python train_agent.py --config <this file>\n"
        write_atomically(self.config, lambda path: path.write_text(repeat + text, encoding="utf-8"))

    def read_config(self) -> RunConfig:
        """Read `config.yaml`.

        Raises:
            UserError: It is missing or wrong.
        """
        if not self.config.is_file():
            raise UserError(f"{self.path} is no run directory: it has no config.yaml")
        return resolve({}, self.config)

    def write_result(self, result: Result) -> None:
        """Write `result.json`: from now on the run is finished."""
        write_atomically(self.result, lambda path: path.write_text(result.to_json(), encoding="utf-8"))

    def write_checkpoint(self, step: int, write: Callable[[Path], object]) -> Path:
        """Make the checkpoint of a step, whole or not at all, and drop the oldest ones.

        Args:
            step: Environment steps so far.
            write: Writes the checkpoint into the directory it is given.
        """
        target = self.checkpoints / f"{step:012d}"

        def make(path: Path) -> None:
            path.mkdir(parents=True)
            write(path)

        write_atomically(target, make)
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)
        return target

    def last_checkpoint(self) -> Path:
        """The newest checkpoint.

        Raises:
            UserError: There is none.
        """
        checkpoints = self._checkpoints()
        if not checkpoints:
            raise UserError(f"{self.path} has no checkpoint: start the run anew with --config {self.config}")
        return checkpoints[-1]

    def _checkpoints(self) -> list[Path]:
        if not self.checkpoints.is_dir():
            return []
        return sorted(path for path in self.checkpoints.iterdir() if path.name.isdigit())


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or directory under a provisional name, and give it its own when it is complete."""
    provisional = provisional_path(target)
    if provisional.is_dir():
        shutil.rmtree(provisional)
    write(provisional)
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(provisional, target)


def write_text_atomically(target: Path, text: str) -> None:
    """The same for a text."""
    write_atomically(target, lambda file: file.write_text(text, encoding="utf-8"))


def provisional_path(target: Path) -> Path:
    """What `write_atomically` calls a file or directory that is not complete; one may stay behind if it is killed."""
    return target.with_name(f".{target.name}.partial")


def file_name(text: str) -> str:
    """A name for a file that every file system takes. Texts may share it."""
    return re.sub(r"[^\w.+=,@-]+", "-", text)


def unique_file_name(text: str) -> str:
    """A name for a file that every file system takes, and that no two texts share."""
    plain = text.replace(":", "@")  # which no id has
    name = file_name(plain).encode()[:LONGEST_NAME].decode(errors="ignore")
    return name if name == plain else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def create(config: RunConfig, path: Path | None) -> RunDirectory:
    """Make the directory of a new run: `path`, or `runs/<env id>/<agent>/<timestamp>-seed<seed>`.

    Raises:
        UserError: `path` holds a run, or the directory cannot be made or written.
    """
    run = RunDirectory(_new_path(config) if path is None else path)
    check_free(run)
    try:
        run.path.mkdir(parents=True, exist_ok=path is not None)
        run.write_config(config)
    except OSError as error:
        if isinstance(error, FileExistsError) and path is None:
            # Another process began the same run in the same second: the next name is free.
            return create(config, path)
        raise UserError(f"cannot write the run directory {run.path}: {error.strerror}") from error
    return run


def _new_path(config: RunConfig) -> Path:
    parent = Path("runs") / file_name(config.env) / config.agent
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-seed{config.seed}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := parent / name).exists())


def check_free(run: RunDirectory) -> None:
    """Refuse a directory that holds a run.

    Raises:
        UserError: It does.
    """
    if run.finished:
        raise UserError(f"{run.path} holds a finished run: give another --run-dir, or remove it")
    if run.config.exists():
        raise UserError(f"{run.path} holds an unfinished run: go on with --resume {run.path}, or remove it")


def newest_unfinished(runs: Path = Path("runs")) -> RunDirectory:
    """The unfinished run that was worked on last.

    Raises:
        UserError: There is none.
    """
    found = [RunDirectory(config.parent) for config in runs.glob("*/*/*/config.yaml")]
    unfinished = [run for run in found if not run.finished and run.checkpoints.is_dir()]
    if not unfinished:
        raise UserError(f"there is no interrupted run under {runs}: give --resume the run directory")
    return max(unfinished, key=lambda run: run.checkpoints.stat().st_mtime)
