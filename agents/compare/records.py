"""What a comparison reads of a finished run."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.errors import UserError
from agents.logs import STEP
from agents.run_directory import RunDirectory


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
        seed: Of the run.
        score: Mean return of the final policy, taking the likeliest actions.
        result: Its `result.json`.
        curve: Its periodic evaluations.
    """

    seed: int
    score: float
    result: dict[str, Any]
    curve: Curve


def read(path: Path) -> Record:
    """Read a finished run.

    Raises:
        UserError: It is damaged.
    """
    run = RunDirectory(path)
    try:
        result = json.loads(run.result.read_text(encoding="utf-8"))
        with run.progress.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("eval/mean_reward")]
        curve = Curve(
            [int(float(row[STEP])) for row in rows],
            [float(row["eval/train_seconds"]) for row in rows],
            [float(row["eval/mean_reward"]) for row in rows],
        )
        return Record(int(result["seed"]), float(result["eval_return_mean"]), result, curve)
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"the run {path} is damaged ({reason}): remove it, and the same command repeats it") from error
