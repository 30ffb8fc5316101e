"""What a comparison knows of a finished run, from the run's directory or from an earlier summary."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.errors import UserError
from agents.logs import STEP
from agents.run_directory import RunDirectory

# Of `result.json`.
VALUES = (
    "seed",
    "eval_return_mean",
    "eval_return_std",
    "eval_return_stochastic_mean",
    "timesteps",
    "train_seconds",
    "steps_to_threshold",
    "seconds_to_threshold",
    "load",
)
ORIGIN = ("versions", "machine")
# Values that may be null.
OPTIONAL = ("steps_to_threshold", "seconds_to_threshold", "load")


class Unusable(Exception):
    """A run's files are damaged, or hold numbers that are not finite."""


@dataclass(frozen=True)
class Curve:
    """Periodic evaluations: steps, seconds of training, and mean returns."""

    steps: list[int]
    seconds: list[float]
    returns: list[float]


@dataclass(frozen=True)
class Record:
    """A finished run.

    Args:
        values: `VALUES` of its `result.json`.
        origin: `ORIGIN` of its `result.json`: what it was made with, and on.
        curve: Its periodic evaluations.
    """

    values: Mapping[str, Any]
    origin: Mapping[str, Mapping[str, Any]]
    curve: Curve

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.values["seed"])

    @property
    def score(self) -> float:
        """Mean return of the final policy, taking the likeliest actions."""
        return float(self.values["eval_return_mean"])


def read(path: Path) -> Record:
    """Read a finished run.

    Raises:
        Unusable: It has nothing to compare.
        UserError: It cannot be read.
    """
    run = RunDirectory(path)
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
        with run.progress.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("eval/mean_reward")]
        curve = Curve(
            [int(float(row[STEP])) for row in rows],
            [round(float(row["eval/train_seconds"]), 3) for row in rows],
            [round(float(row["eval/mean_reward"]), 3) for row in rows],
        )
        record = Record({key: result[key] for key in VALUES}, {key: result[key] for key in ORIGIN}, curve)
        _check_finite(record)
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError) as error:
        raise Unusable(f"{type(error).__name__}: {error}") from error
    except OSError as error:
        # Nothing is known to be wrong with it: it may be another user's, or the disk's fault.
        raise UserError(f"cannot read the run {path}: {error.strerror}") from error
    return record


def _check_finite(record: Record) -> None:
    """Of anything else statistics come to nothing, and JSON has no words for it."""
    numbers = {key: [value] for key, value in record.values.items() if value is not None or key not in OPTIONAL}
    for name, values in (numbers | asdict(record.curve)).items():
        wrong = [value for value in values if not math.isfinite(value)]
        if wrong:
            raise Unusable(f"{name} is {wrong[0]}")


def to_entry(record: Record, origins: list[Mapping[str, Any]]) -> dict[str, Any]:
    """A run as the summary has it; its origin becomes a number in the list of all origins, which may grow."""
    if record.origin not in origins:
        origins.append(record.origin)
    return {**record.values, "origin": origins.index(record.origin), "curve": asdict(record.curve)}


def from_entry(entry: Mapping[str, Any], origins: Sequence[Mapping[str, Any]]) -> Record:
    """The run that `to_entry` made an entry of."""
    return Record({key: entry[key] for key in VALUES}, origins[entry["origin"]], Curve(**entry["curve"]))


def read_summary(path: Path) -> dict[tuple[str, str, int], Record]:
    """All runs that a summary holds, by environment, label and seed; none if there is no summary.

    Raises:
        UserError: It is damaged.
    """
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return {
            (env, label, entry["seed"]): from_entry(entry, summary["origins"])
            for env, found in summary["environments"].items()
            for label, row in found["agents"].items()
            for entry in row["runs"]
        }
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): remove it") from error
