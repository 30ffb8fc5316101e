"""Estimators on problems, over temperatures and numbers of samples: the rows of the laboratory's table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from gumbel_rl.estimators import Estimator, Exact
from gumbel_rl.lab.labels import make, sweeps
from gumbel_rl.lab.measurement import BLOCKS, Quality, learn, measure
from gumbel_rl.lab.problems import Problem
from gumbel_rl.lab.timing import ROUNDS, Timing, time_all

TEMPERATURES = (0.1, 0.2, 0.5, 1.0, 2.0)
SAMPLES = (1, 4)
ESTIMATES = 1000
LEARNING_STEPS = 300


@dataclass(frozen=True)
class Cell:
    """What is measured once: an estimator, with a temperature if that is swept, and a number of samples."""

    label: str
    samples: int
    temperature: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        problem: Its name.
        reference: How the exact gradient was had.
        cell: What was measured.
        learning_steps: Steps of `adapt` before the measurement; 0 for estimators that do not learn.
        quality: Bias, variance and the rest.
        timing: Seconds.
    """

    problem: str
    reference: str
    cell: Cell
    learning_steps: int
    quality: Quality
    timing: Timing


@dataclass(frozen=True)
class Refusal:
    """What could not be measured, and why."""

    problem: str
    cell: Cell
    reason: str


@dataclass(frozen=True)
class Sweep:
    """What to measure on each problem.

    Args:
        labels: Estimators, see `labels`.
        temperatures: For those that leave theirs open.
        samples: Numbers of samples, for all that do not say their own.
        estimates: Independent estimates of a measurement.
        learning_steps: Steps of `adapt` that estimators which learn are given before.
        rounds: How often each is timed.
        seed: Of the noise.
    """

    labels: Sequence[str]
    temperatures: Sequence[float] = TEMPERATURES
    samples: Sequence[int] = SAMPLES
    estimates: int = ESTIMATES
    learning_steps: int = LEARNING_STEPS
    rounds: int = ROUNDS
    seed: int = 0

    def cells(self) -> Iterator[Cell]:
        """All there is to measure on a problem."""
        for label in self.labels:
            for samples in self.samples:
                for temperature in self.temperatures if sweeps(label) else [None]:
                    yield Cell(label, samples, temperature)

    def check(self) -> None:
        """Refuse what no problem could make right.

        Raises:
            ValueError: An unknown estimator, a value one refuses, or nothing to do.
            TypeError: An option the estimator does not have.
        """
        for name, numbers in (("temperatures", self.temperatures), ("samples", self.samples)):
            if not numbers:
                raise ValueError(f"give at least one of {name}")
            if not all(0 < number < float("inf") for number in numbers):
                raise ValueError(f"{name} must be positive numbers, got {', '.join(map(str, numbers))}")
        if self.estimates < 2 * BLOCKS or self.learning_steps < 0:
            raise ValueError(
                f"estimates must be at least {2 * BLOCKS} and learning steps at least 0, got {self.estimates} and "
                f"{self.learning_steps}"
            )
        for label in self.labels:
            make(label, multilinear=False)


@dataclass(frozen=True)
class Results:
    """Rows, and what could not be measured."""

    rows: list[Row]
    refusals: list[Refusal]


def run(
    sweep: Sweep, problems: Sequence[Problem], told: Callable[[str, float], object] = lambda what, share: None
) -> Results:
    """Measure all of a sweep on all problems.

    Args:
        sweep: What to measure.
        problems: The problems.
        told: Called with what was done and the share of the whole that it was.
    """
    rows: list[Row] = []
    refusals: list[Refusal] = []
    cells = list(sweep.cells())
    # A measurement is most of the work, a round of timing the rest.
    share = 1 / (len(problems) * (len(cells) + 0.05 * len(cells)))
    for problem in problems:
        measured: list[tuple[Cell, Estimator, Quality]] = []
        for cell in cells:
            outcome = _measure(sweep, problem, cell)
            if isinstance(outcome, str):
                refusals.append(Refusal(problem.name, cell, outcome))
            else:
                measured.append((cell, *outcome))
            told(f"{problem.name}: {cell.label}", share)
        step = 0.05 * len(cells) * share / sweep.rounds
        timings = time_all(
            [estimator for _, estimator, _ in measured],
            problem,
            sweep.rounds,
            told=partial(told, f"{problem.name}: timing", step),
        )
        for (cell, estimator, quality), timing in zip(measured, timings, strict=True):
            steps = sweep.learning_steps if estimator.learns else 0
            rows.append(Row(problem.name, problem.reference, cell, steps, quality, timing))
    return Results(rows, refusals)


def _measure(sweep: Sweep, problem: Problem, cell: Cell) -> tuple[Estimator, Quality] | str:
    """The estimator and its quality, or why it has none."""
    try:
        estimator = make(
            cell.label, samples=cell.samples, temperature=cell.temperature, multilinear=problem.multilinear
        )
    except ValueError as error:  # too few samples, for example
        return str(error)
    if isinstance(estimator, Exact) and not estimator.multilinear:
        joint = problem.dist.factors.joint_size
        if joint > estimator.max_vertices:
            return f"it would enumerate {joint:,} joint actions, more than {estimator.max_vertices:,}"
    learn(estimator, problem, sweep.learning_steps, sweep.seed)
    return estimator, measure(estimator, problem, sweep.estimates, sweep.seed + 1)
