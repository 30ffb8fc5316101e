"""What came of a search: which settings won, a table of the best, and a picture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.table import Table
from sqlalchemy.engine import make_url

from agents.tune.study import DESIGN, Stage, completed


@dataclass(frozen=True)
class Outcome:
    """A finished search.

    Attributes:
        study: The search.
        candidates: The trials that were confirmed, the winner first; without confirmation, the best.
        confirmed: Their scores on the seeds of the confirmation, by number.
    """

    study: optuna.Study
    candidates: list[FrozenTrial]
    confirmed: Mapping[int, float]

    @property
    def winner(self) -> FrozenTrial:
        """The trial with the best settings."""
        return self.candidates[0]

    @property
    def tuned(self) -> dict[str, Any]:
        """The winner's keys and values; none if the shipped settings won."""
        return dict(self.winner.user_attrs["tuned"])


def candidates(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """The best trials, and that of the shipped settings: what tuning ends with is to be no worse."""
    ranked = completed(study)
    return ranked[:number] + [trial for trial in ranked[number:] if trial.user_attrs.get("shipped")]


def judge(study: optuna.Study, confirmation: optuna.Study | None, chosen: list[FrozenTrial]) -> Outcome:
    """Rank the candidates by their scores on fresh seeds, or as they are if there was no confirmation."""
    scores: dict[int, float] = {}
    if confirmation is not None:
        scores = {trial.user_attrs["of"]: float(trial.value or 0.0) for trial in completed(confirmation)}
        # One whose confirmation crashed has lost.
        ranked = [trial for trial in chosen if trial.number in scores]
        chosen = sorted(ranked, key=lambda trial: -scores[trial.number])
    return Outcome(study, chosen, scores)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each dimension in the differences between good and other trials (PED-ANOVA), if there are enough."""
    if len(completed(study)) < DESIGN:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {name: float(share) for name, share in optuna.importance.get_param_importances(study).items()}
    except (RuntimeError, ValueError):
        return {}


def table(outcome: Outcome, stage: Stage) -> Table:
    """The candidates side by side, a row for each dimension."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("")
    for trial in outcome.candidates:
        shown.add_column("shipped" if trial.user_attrs.get("shipped") else f"trial {trial.number}", justify="right")
    shares = importances(outcome.study)
    if shares:
        shown.add_column("importance", justify="right")
    shown.add_row("score", *(f"{trial.value:.4g}" for trial in outcome.candidates))
    if outcome.confirmed:
        shown.add_row("on fresh seeds", *(f"{outcome.confirmed[trial.number]:.4g}" for trial in outcome.candidates))
    for name in sorted(stage.space, key=lambda name: -shares.get(name, 0.0)):
        values = (str(trial.user_attrs.get("choices", {}).get(name, "")) for trial in outcome.candidates)
        shown.add_row(name, *values, *([f"{shares[name]:.0%}"] if name in shares else []))
    return shown


def plot(study: optuna.Study, storage: str) -> Path | None:
    """Draw the scores of all trials beside a SQLite file; returns where, or None for other storages."""
    url = make_url(storage)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    from matplotlib.figure import Figure

    path = Path(url.database).with_suffix(".png")
    trials = sorted(completed(study), key=lambda trial: trial.number)
    numbers = [trial.number for trial in trials]
    scores = [float(trial.value or 0.0) for trial in trials]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="trial", ylabel="score", title=study.study_name)
    axes.plot(numbers, scores, "o", label="trials that were not pruned")
    axes.step(numbers, [max(scores[: index + 1]) for index in range(len(scores))], where="post", label="best so far")
    shipped = [trial for trial in trials if trial.user_attrs.get("shipped")]
    if shipped:
        axes.axhline(float(shipped[0].value or 0.0), linestyle=":", color="gray", label="as shipped")
    axes.legend()
    figure.savefig(path, dpi=150)
    return path


def origin(outcome: Outcome, stage: Stage) -> str:
    """Where the winner comes from: date, seeds and scores."""
    scores = {trial.number: outcome.confirmed.get(trial.number, trial.value) for trial in outcome.candidates}
    shipped = next((trial for trial in outcome.candidates if trial.user_attrs.get("shipped")), None)
    than = "" if shipped is None else f", as shipped before {scores[shipped.number]:.4g}"
    runs = f"{len(stage.seeds)} runs a trial on seeds from {stage.seeds[0]}"
    return f"on {datetime.now(timezone.utc):%Y-%m-%d}, {runs}: score {scores[outcome.winner.number]:.4g}{than}."
