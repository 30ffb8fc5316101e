"""Measure gradient estimators: bias, variance, error, direction, dead gradients and cost.

On built-in objectives whose exact gradient is known, over temperatures, numbers of samples, of choices and of factors;
or on the critic of a trained agent, with --run. Leaves a table (Markdown and CSV) and figures in --out.

Example:
    python -m gumbel_rl.lab --estimators st-gumbel-softmax gumbel-rao:draws=100 rloo --factors 1 8 --out runs/lab
"""

from __future__ import annotations

import itertools
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from gumbel_rl.estimators import ESTIMATORS
from gumbel_rl.lab import report
from gumbel_rl.lab.command_line import Console, fail, one_thread, parse, progress, tyro
from gumbel_rl.lab.objectives import OBJECTIVES
from gumbel_rl.lab.problems import Problem, built_in
from gumbel_rl.lab.sweep import ESTIMATES, LEARNING_STEPS, SAMPLES, TEMPERATURES, Results, Sweep, run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    estimators: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = tuple(ESTIMATORS)
    """Estimators, with options of their own or without: rloo, gumbel-rao:draws=100, mixture:weight=0.3."""
    temperatures: tuple[float, ...] = TEMPERATURES
    """Temperatures, for estimators that have one."""
    samples: tuple[int, ...] = SAMPLES
    """Numbers of samples that an estimate averages."""
    objectives: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = tuple(OBJECTIVES)
    """Built-in objectives."""
    factors: tuple[int, ...] = (4,)
    """Numbers of factors."""
    choices: tuple[int, ...] = (4,)
    """Numbers of choices of each factor."""
    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N,N,.. [N,N,.. ...]")] = ()
    """Sizes of the factors one by one, such as 2,3,5, in place of --factors and --choices."""
    masked: float = 0.0
    """Share of the choices that is forbidden."""
    instances: int = 8
    """Random functions and distributions of each built-in objective, over which everything is summed."""
    run: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
    """Run directories of gumbel-sac or gumbel-ac: measure on their critics, in place of built-in objectives."""
    model: str = "final"
    """Which model of a run: final or best."""
    states: int = 64
    """States of a run that are measured on, drawn from those that its policy visits."""
    reference_samples: int = 0
    """Where a critic has no exact gradient, compare with the mean of so many unbiased estimates."""
    estimates: int = ESTIMATES
    """Independent estimates of each measurement."""
    learning_steps: int = LEARNING_STEPS
    """Steps that rebar and relax learn before they are measured."""
    seed: int = 0
    """Of objectives, states and noise."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/lab")
    """Directory for table and figures; what an earlier call left there is replaced."""
    no_progress: bool = False
    """Show no bar."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure as the command line says.

    Raises:
        SystemExit: Something in it is wrong: status 2.
    """
    try:
        options = parse(Options, argv, prog="python -m gumbel_rl.lab", description=__doc__ or "")
        sweep = Sweep(
            labels=list(dict.fromkeys(options.estimators)),
            temperatures=sorted(set(options.temperatures)),
            samples=sorted(set(options.samples)),
            estimates=options.estimates,
            learning_steps=options.learning_steps,
            seed=options.seed,
        )
        sweep.check()
        problems = _problems(options)
        options.out.mkdir(parents=True, exist_ok=True)
        from gumbel_rl.lab import figures  # before the work: it may be that matplotlib is missing
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail(error)

    try:
        with one_thread(), progress(not options.no_progress) as told:
            results = run(sweep, problems, told)
    except KeyboardInterrupt:
        sys.exit("interrupted")

    words = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "gumbel_rl.lab", *words])
    written = {
        "table.csv": report.to_csv(results),
        "table.md": report.to_markdown(results, command, _settings(options)),
    }
    for name, figure in figures.figures(results).items() if results.rows else ():
        written[f"{name}.svg"] = figures.svg(name, figure)
        (options.out / f"{name}.png").write_bytes(figures.png(figure))
    for name, text in written.items():
        (options.out / name).write_text(text, encoding="utf-8")
    _show(results, options.out)


def _problems(options: Options) -> list[Problem]:
    """What to measure on.

    Raises:
        ValueError: An option is wrong, or a run cannot be read.
    """
    if options.run:
        from gumbel_rl.lab.runs import critic_of_run

        runs = list(dict.fromkeys(options.run))
        critics = [
            critic_of_run(
                directory,
                model=options.model,
                states=options.states,
                reference_samples=options.reference_samples,
                seed=options.seed,
            )
            for directory in runs
        ]
        # Runs that differ in their seeds, say, have critics of the same name: rows are told apart by it.
        names = Counter(critic.name for critic in critics)
        return [
            critic if names[critic.name] == 1 else replace(critic, name=f"{critic.name}, {directory}")
            for critic, directory in zip(critics, runs, strict=True)
        ]
    given = [_sizes(text) for text in options.sizes]
    sizes = given or [(choices,) * factors for factors, choices in itertools.product(options.factors, options.choices)]
    made = [
        built_in(objective, size, instances=options.instances, masked=options.masked, seed=options.seed)
        for objective in options.objectives
        for size in sizes
    ]
    if not made:
        raise ValueError("nothing to measure on: give --objectives, and --sizes or --factors and --choices")
    return made


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--sizes are numbers of choices with commas between them, such as 2,3,5; got {text!r}"
        ) from None


def _settings(options: Options) -> str:
    where = f"{options.states} states of each run" if options.run else f"{options.instances} random instances"
    return (
        f"Over {where}; {options.estimates} independent estimates for each line, seed {options.seed}; estimators that "
        f"learn have made {options.learning_steps} steps first, which are not part of the time. Python "
        f"{platform.python_version()}, torch {torch.__version__}, one thread, float64."
    )


def _show(results: Results, out: Path) -> None:
    console = Console()
    for problem in report.problems(results.rows):
        console.print(report.terminal_table(results, problem))
        console.print()
    for line in report.refused(results):
        console.print(f"not measured: {line}", markup=False, highlight=False)
    console.print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
