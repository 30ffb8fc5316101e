"""Estimators side by side on the VAE and the structured model, beside the published table.

    python -m examples.mnist.table                  # whatever is missing; half an hour of one idle core for everything
    python -m examples.mnist.table --show           # the tables alone
    python -m examples.mnist.table --problems vae-categorical --estimators rloo --out runs/mnist/table.json

Each estimator is given the same search: its step size is the one of `RATES` with the best bound on the validation
digits with seed `TUNING_SEED`, which no reported run uses. Then it is trained with the seeds 0 to 4, for as many
updates, and reported on the test digits by the importance-weighted bound with m = 1000, with the parameters whose
validation bound was best. Every run is kept as soon as it is done: a killed command goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track

from agents.command_line import hint, option, parse, path, run_command
from agents.conversion import Count
from agents.errors import UserError, did_you_mean
from agents.machine import load_average, machine
from agents.result import versions
from agents.run_directory import write_text_atomically
from examples.mnist.digits import Split, load
from examples.mnist.latents import Latents
from examples.mnist.models import make_model
from examples.mnist.problems import ESTIMATORS, LINE_UP, PROBLEMS, TEMPERATURES, TUNING_SEED
from examples.mnist.rows import CONFIDENCE, table
from examples.mnist.training import Model, Settings, mean_bound, train
from gumbel_rl.schedules import make_temperature

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "vae.json"
RATES = (4e-3, 8e-3)
STEPS = 1000
REFRESH = 100
SAMPLES = 1000  # of the bound on the test digits
PROBED = 500  # training digits on which the bounds are compared


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    problems: Annotated[tuple[str, ...], hint("(default: all)")] = tuple(PROBLEMS)
    """vae-categorical, vae-bernoulli, structured-bernoulli."""
    estimators: Annotated[tuple[str, ...], hint("(default: those of the published figures)")] = ()
    """Which of the estimators."""
    seeds: Annotated[int, option(Count, "N")] = 5
    """Of each estimator."""
    steps: Annotated[int, option(Count, "N")] = STEPS
    """Updates of a run."""
    out: Annotated[Path, path("FILE"), tyro.conf.arg(help_behavior_hint="(default: benchmarks/results/vae.json)")] = (
        RESULT
    )
    """Where the runs are kept."""
    show: bool = False
    """Print the tables of what is there, and run nothing."""


def main(argv: list[str] | None = None) -> None:
    """Run what is missing and print the tables.

    Raises:
        UserError: Something in the command line is wrong.
    """
    options = parse(Options, argv, prog="examples.mnist.table", description=__doc__ or "")
    for given, known in ((options.problems, PROBLEMS), (options.estimators, ESTIMATORS)):
        for name in given:
            if name not in known:
                raise UserError(f"{name!r} is unknown{did_you_mean(name, known)}; known are {', '.join(known)}")
    found = _read(options.out)
    if not options.show:
        if other := {run["steps"] for run in found["runs"]} - {options.steps}:
            raise UserError(
                f"{options.out} holds runs of {other.pop()} updates; give another --out, or as many --steps"
            )
        torch.set_num_threads(1)
        digits = load(None, "fixed")
        for key in track(list(_missing(found, options)), description="training"):
            _run(found, key, digits, options)
    console = Console()
    for problem in options.problems:
        if lines := table(found, problem):
            console.print(f"\n{problem}\n", "\n".join(lines), sep="\n", soft_wrap=True, markup=False, highlight=False)


Key = tuple[str, str, float | None, int]
"""Problem, estimator, step size (`None`: the best of the search) and seed."""


def _missing(found: dict[str, Any], options: Options) -> Iterator[Key]:
    """What there is to run: the search of a problem's estimators, then seed after seed, so that all have as many."""
    for problem in options.problems:
        names = options.estimators or LINE_UP[problem]
        wanted: list[Key] = [(problem, name, rate, TUNING_SEED) for name in names for rate in RATES]
        wanted += [(problem, name, None, seed) for seed in range(options.seeds) for name in names]
        for key in wanted:
            if not any(_key(run) == key for run in found["runs"]):
                yield key


def _key(run: dict[str, Any]) -> Key:
    return run["problem"], run["estimator"], None if run["seed"] < TUNING_SEED else run["learning_rate"], run["seed"]


def best_rate(found: dict[str, Any], problem: str, estimator: str) -> float:
    """The step size whose validation bound was best in the search."""
    search = [
        run
        for run in found["runs"]
        if (run["problem"], run["estimator"], run["seed"]) == (problem, estimator, TUNING_SEED)
    ]
    return float(max(search, key=lambda run: run["validation"])["learning_rate"])


def _run(found: dict[str, Any], key: Key, digits: Split, options: Options) -> None:
    name, estimator, rate, seed = key
    problem, tuning = PROBLEMS[name], rate is not None
    begun = time.process_time()
    try:
        model = make_model(problem.model, ESTIMATORS[estimator], Latents.parse(problem.latents), digits, seed=seed)
    except ValueError as error:
        raise UserError(f"{estimator} on {name}: {error}") from None
    settings = Settings(
        steps=options.steps,
        learning_rate=best_rate(found, name, estimator) if rate is None else rate,
        temperature=make_temperature(TEMPERATURES.get(estimator, problem.temperature)).over(options.steps),
        refresh=REFRESH,
        seed=seed,
    )
    outcome = asdict(train(model, digits, settings))
    run = {"problem": name, "estimator": estimator, "seed": seed, "steps": options.steps}
    run |= {"learning_rate": settings.learning_rate} | outcome
    if tuning:
        del run["curve"]
    else:
        run |= bounds(model, digits)
    found["runs"].append(run | {"seconds": time.process_time() - begun, "load": load_average()})
    _write(options.out, found)


def bounds(model: Model, digits: Split) -> dict[str, float]:
    """Mean bounds in nats, which tell apart why estimators differ.

    `objective_train` is the bound as the estimator sees it, relaxed variables and all, `elbo_train` the same digits
    with discrete variables: their difference is what is lost when a relaxed model is made discrete. `test` less `train`
    is what is lost by overfitting.
    """
    torch.manual_seed(0)
    probed = digits.train.images[:: max(1, len(digits.train) // PROBED)]
    with torch.no_grad():
        draws = [float(model.loss(probed)[1]) for _ in range(4)]
    return {
        "objective_train": float(np.mean(draws)),
        "elbo_train": mean_bound(model, probed, 1),
        "train": mean_bound(model, probed, 100),
        "elbo_test": mean_bound(model, digits.test.images, 1),
        "test": mean_bound(model, digits.test.images, SAMPLES),
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"confidence": CONFIDENCE, "versions": versions(), "machine": machine(), "runs": []}
    except ValueError:
        raise UserError(f"{file} is no JSON") from None
    return found


def _write(file: Path, found: dict[str, Any]) -> None:
    """JSON, a line for each run; in one piece, because the command may be killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items() if key != "runs"]
    runs = ",\n".join(f"  {json.dumps(_rounded(run))}" for run in found["runs"])
    text = "{" + ",\n".join([*lines, f'"runs": [\n{runs}\n]']) + "}\n"
    write_text_atomically(file, text)


def _rounded(run: dict[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.6g}")
        if isinstance(value, float)
        else _rounded(value)
        if isinstance(value, dict)
        else value
        for key, value in run.items()
    }


if __name__ == "__main__":
    run_command(main)
