"""Progress on the terminal: a line for every finished trial, and a bar where there is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agents.tune.objective import EVALUATIONS
from agents.tune.study import Stage, completed, crashed, finished, open_study


class Board:
    """Shows the state of a stage's study.

    Args:
        stage: The study.
        title: Stands before the bar.
        bar: Whether a bar is wanted.
    """

    def __init__(self, stage: Stage, title: str, *, bar: bool = True) -> None:
        self.study = open_study(stage)
        self.stage = stage
        self.console = Console(stderr=True)
        self.told = {trial.number for trial in finished(self.study)}
        self.progress = Progress(
            TextColumn(title),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not (bar and self.console.is_terminal),
            expand=True,
            speed_estimate_period=float("inf"),  # trials are long: all of them tell
        )
        self.task = self.progress.add_task("", total=self._total(), completed=len(self.told))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show it in here."""
        with self.progress:
            yield
            self.refresh()

    def refresh(self) -> None:
        """Tell what is new."""
        over = finished(self.study)
        for trial in over:
            if trial.number not in self.told:
                self.told.add(trial.number)
                self.progress.console.print(self._line(trial), highlight=False, soft_wrap=True, markup=False)
        states = [trial.state for trial in over]
        pruned, failed = states.count(TrialState.PRUNED), states.count(TrialState.FAIL)
        best = completed(self.study)[:1]
        parts = [f"best {best[0].value:.4g}"] if best else []
        parts += [f"{number} {what}" for number, what in ((pruned, "pruned"), (failed, "failed")) if number]
        self.progress.update(self.task, completed=len(over), total=self._total(), description=" · ".join(parts))

    def _total(self) -> int:
        if self.stage.trials is not None:
            return self.stage.trials
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))
        return len(finished(self.study)) + len(waiting)

    def _line(self, trial: FrozenTrial) -> str:
        number = trial.user_attrs.get("of", trial.number)
        name = f"trial {number:<4}" + (" (shipped)" if trial.user_attrs.get("shipped") else "")
        if crashed(trial):
            return f"{name} failed: {trial.user_attrs['crash']}"
        if trial.state == TrialState.PRUNED:
            if trial.last_step is None:
                return f"{name} pruned: its first update would end beyond the run"
            return f"{name} pruned after {trial.last_step / EVALUATIONS:.1f} runs"
        return f"{name} score {trial.value:.4g}, best {best_value(self.study):.4g}"


def best_value(study: optuna.Study) -> float:
    """The highest score so far."""
    return float(study.best_value)
