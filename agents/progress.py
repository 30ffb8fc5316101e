"""Progress on the terminal: a bar, or a line an evaluation where there is no terminal or no bar is wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback

from agents.callbacks import Session
from agents.formats import compact

DisplayKind = Literal["bar", "lines", "none"]

# What the bar shows of the values logged: label, tag, sign, format.
SHOWN = (
    ("entropy", "train/entropy", 1, ".2f"),
    ("entropy", "train/entropy_loss", -1, ".2f"),
    ("ε", "rollout/exploration_rate", 1, ".2f"),
    ("temperature", "train/temperature", 1, ".2f"),
)
REFRESH_SECONDS = 0.2


class Display(BaseCallback):
    """Base class: gathers what is shown, and shows nothing."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.total = session.config.timesteps
        self.shown: dict[str, str] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show progress in here."""
        yield

    def _on_rollout_start(self) -> None:
        # Between an update, which records them, and the dump, which forgets them.
        values = self.logger.name_to_value
        for label, tag, sign, form in SHOWN:
            if tag in values:
                self.shown[label] = f"{label} {sign * values[tag]:{form}}"

    def _on_step(self) -> bool:
        return True

    def describe(self) -> str:
        """Steps, return, entropy, temperature and speed."""
        done = self.model.num_timesteps
        episodes: Sequence[dict[str, float]] = self.model.ep_info_buffer or ()
        returns = [f"return {np.mean([episode['r'] for episode in episodes]):.1f}"] if episodes else []
        speed = f"{compact(done / max(self.session.clock.seconds, 1e-9))} steps/s"
        return " · ".join([f"{compact(done)}/{compact(self.total)}", *returns, *self.shown.values(), speed])


class ProgressBar(Display):
    """A bar with time left."""

    def __init__(self, session: Session, console: Console) -> None:
        super().__init__(session)
        self.bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=console,
            refresh_per_second=1 / REFRESH_SECONDS,
            expand=True,
        )
        self.task = self.bar.add_task("starting", total=self.total)
        self.due = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.bar:
            yield

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now >= self.due:
            self.due = now + REFRESH_SECONDS
            self._show()
        return True

    def _on_training_end(self) -> None:
        self._show()

    def _show(self) -> None:
        self.bar.update(self.task, completed=min(self.model.num_timesteps, self.total), description=self.describe())


class ProgressLines(Display):
    """A line every tenth of the run, for where there is no terminal."""

    def __init__(self, session: Session, console: Console) -> None:
        super().__init__(session)
        self.console = console
        self.told = 0

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        tenths = 10 * self.model.num_timesteps // self.total
        if tenths > self.told:
            self.told = tenths
            self.console.print(self.describe(), highlight=False)


def make_display(session: Session, kind: DisplayKind) -> Display:
    """What shows progress, on standard error; a `bar` becomes `lines` where there is no terminal."""
    console = Console(stderr=True)
    if kind == "bar" and console.is_terminal:
        return ProgressBar(session, console)
    return Display(session) if kind == "none" else ProgressLines(session, console)
