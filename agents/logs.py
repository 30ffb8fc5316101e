"""What a run logs: `progress.csv`, TensorBoard events, and its configuration in both of TensorBoard's forms."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import HParam, KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys
from torch.utils.tensorboard.writer import SummaryWriter

from agents.config import RunConfig
from agents.run_directory import RunDirectory

STEP = "time/total_timesteps"
# What does not change what is learnt stays out of the columns of HParams.
BOOKKEEPING = (
    "engine",
    "device",
    "threads",
    "threshold",
    "eval_every",
    "periodic_episodes",
    "eval_episodes",
    "checkpoint_every",
    "stats_window_size",
)
NOT_TENSORBOARD = ("stdout", "log", "json", "csv")


class ProgressCSV(KVWriter):
    """Writes a table, a row a dump.

    Unlike Stable-Baselines3's own writer it goes on with the table of a resumed run, and orders columns by when they
    came and what they are called, not by Python's hashing: the same run gives the same file.

    Args:
        path: The file.
        up_to: Keep the file's rows up to this step; none if omitted.
    """

    def __init__(self, path: Path, up_to: int | None = None) -> None:
        self.path = path
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if up_to is not None and path.exists():
            self.columns, rows = self._read()
            rows = [row for row in rows if float(row.get(STEP) or 0) <= up_to]
        self._open(rows)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the numbers among the values as a row."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {key: value for key, value in values.items() if np.ndim(value) == 0}
        if not row:
            return
        new = sorted(row.keys() - set(self.columns))
        if new:
            _, rows = self._read()
            self.close()
            self.columns += new
            self._open(rows)
        self.table.writerow(row)
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)

    def _open(self, rows: Iterable[dict[str, str]]) -> None:
        self.file = self.path.open("w", newline="", encoding="utf-8")
        self.table = csv.DictWriter(self.file, self.columns, lineterminator="\n")
        if self.columns:
            self.table.writeheader()
            self.table.writerows(rows)
            self.file.flush()


def make_logger(run: RunDirectory, config: RunConfig, step: int) -> Logger:
    """The logger of a run that begins, or goes on, at a step."""
    tensorboard = TensorBoardOutputFormat(str(run.path))
    if step:
        # What the events say of later steps was lost with the interruption.
        tensorboard.writer.close()
        tensorboard.writer = SummaryWriter(str(run.path), purge_step=step + 1)
    logger = Logger(str(run.path), [ProgressCSV(run.progress, up_to=step or None), tensorboard])
    if not step:
        record_configuration(logger, config)
    return logger


def record_configuration(logger: Logger, config: RunConfig) -> None:
    """Log the configuration as a text table and as an HParams entry with the run's two returns as its metrics."""
    values = config.to_mapping()
    rows = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in values.items()]
    table = "\n".join(["| hyperparameter | value |", "| --- | --- |", *rows])
    scalars = {
        key: value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
        for key, value in values.items()
        if key not in BOOKKEEPING and value not in (None, {})
    }
    metrics = dict.fromkeys(("eval/mean_reward", "rollout/ep_rew_mean"), 0.0)
    logger.record("hyperparameters", table, exclude=NOT_TENSORBOARD)
    logger.record("hparams", HParam(scalars, metrics), exclude=NOT_TENSORBOARD)
    logger.dump(0)
