"""The semi-supervised model: summing over all classes against drawing one.

    python -m examples.mnist.classes                # accuracy and step time; ten minutes of one idle core
    python -m examples.mnist.classes --seeds 0      # step time alone
    python -m examples.mnist.classes --show         # the tables of what is there

Accuracy: `exact` and `st-gumbel-softmax` with 100 labels, on the test digits, with the parameters of the last update.
The weight of the classification is the one of `WEIGHTS` with the best accuracy on the validation digits with seed
`TUNING_SEED`. The classifier trained on the labels alone stands beside them. Step time: a whole training step, with 10
classes and with 100, the two in turns in one process; the ratio is the median over turns with the interval between
order statistics that holds it at 95 %. What the result's file holds already is not run again: a killed command goes on
where it was, and more seeds are added to those that are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy import stats

from agents.command_line import hint, option, parse, path, run_command
from agents.conversion import Count, Natural
from agents.errors import UserError
from agents.machine import load_average, machine
from agents.result import versions
from agents.run_directory import write_text_atomically
from examples.mnist.digits import Digits, Split, load
from examples.mnist.latents import Latents, estimator_from
from examples.mnist.models import make_model
from examples.mnist.problems import TUNING_SEED
from examples.mnist.rows import CONFIDENCE, interval
from examples.mnist.semi_supervised import SemiSupervised
from examples.mnist.training import OPTIMIZERS, Settings, train, update
from gumbel_rl.schedules import make_temperature

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "vae-classes.json"
ESTIMATORS = ("exact", "st-gumbel-softmax")
PUBLISHED_ACCURACY = {"exact": 92.6, "st-gumbel-softmax": 93.6}
PUBLISHED_RATIO = {10: 2.0, 100: 9.9}
WEIGHTS = (100.0, 1000.0)
LABELS = 100
RATE = 3e-3
CLASSES = (10, 100)
BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    seeds: Annotated[int, option(Natural, "N")] = 5
    """Of each estimator; 0 to measure step time alone."""
    steps: Annotated[int, option(Count, "N")] = 1000
    """Updates of a reported run."""
    turns: Annotated[int, option(Count, "N")] = 40
    """Of the step time."""
    out: Annotated[Path, path("FILE"), hint("(default: benchmarks/results/vae-classes.json)")] = RESULT
    """Where the result goes."""
    show: bool = False
    """Print the tables of what is there, and run nothing."""


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    options = parse(Options, argv, prog="examples.mnist.classes", description=__doc__ or "")
    if not options.show:
        torch.set_num_threads(1)
        found = _read(options)
        digits = load(None, "fixed")
        for classes in CLASSES:
            if str(classes) not in found["step_time"]:
                found["step_time"][str(classes)] = step_time(digits, classes, options.turns)
                _write(options.out, found)
        if options.seeds:
            _measure_accuracy(found, digits, options)
    lines = tables(json.loads(options.out.read_text(encoding="utf-8")))
    Console().print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def step_time(digits: Split, classes: int, turns: int) -> dict[str, Any]:
    """CPU seconds of a training step of each estimator, and how many times as long summing takes."""
    steps = {name: _stepper(digits, name, classes) for name in ESTIMATORS}
    seconds: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for turn in track(range(turns + 1), description=f"step time, {classes} classes"):
        for name in ESTIMATORS[:: 1 if turn % 2 else -1]:
            begun = time.process_time()
            steps[name]()
            if turn:  # the first is to warm up
                seconds[name].append(time.process_time() - begun)
    every, single = (np.asarray(seconds[name]) for name in ESTIMATORS)
    ratios = np.sort(every / single)
    # As many of the turns below the median as leave 2.5 % on each side.
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, turns, 0.5))
    low, high = (ratios[max(rank - 1, 0)], ratios[min(turns - rank, turns - 1)])
    return {
        "milliseconds": {name: round(1e3 * float(np.median(values)), 2) for name, values in seconds.items()},
        "ratio": [round(float(value), 3) for value in (np.median(ratios), low, high)],
    }


def _stepper(digits: Split, estimator: str, classes: int) -> Callable[[], None]:
    torch.manual_seed(0)
    told = Digits(digits.train.images[:LABELS], digits.train.labels[:LABELS])
    model = SemiSupervised(estimator_from(estimator), told, classes=classes)
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=RATE)
    pixels = digits.train.images[-BATCH:]
    return lambda: update(model, optimizer, pixels, [])


def _read(options: Options) -> dict[str, Any]:
    """What is there already.

    Raises:
        UserError: It is no result, or one of runs of another length.
    """
    try:
        found: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8"))
    except FileNotFoundError:
        now = machine() | {"load": load_average()}
        return {"confidence": CONFIDENCE, "versions": versions(), "machine": now, "step_time": {}}
    except ValueError:
        raise UserError(f"{options.out} is no JSON") from None
    if options.seeds and found.get("steps", options.steps) != options.steps:
        raise UserError(f"{options.out} holds runs of {found['steps']} updates; give another --out, or as many --steps")
    return found


def _write(file: Path, found: dict[str, Any]) -> None:
    """In one piece, because the command may be killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    write_text_atomically(file, text)


def _measure_accuracy(found: dict[str, Any], digits: Split, options: Options) -> None:
    """Test accuracy and bound of each estimator and of the labels alone, by seed, whatever is missing."""
    found["steps"] = options.steps
    alone = found.setdefault("labels_alone", [])
    alone += [round(labels_alone(digits, seed), 4) for seed in range(len(alone), options.seeds)]
    _write(options.out, found)
    of_all = found.setdefault("accuracy", {})
    for name in ESTIMATORS:
        if name not in of_all:
            search = {}
            for weight in track(WEIGHTS, description=f"search, {name}"):
                search[weight] = _trained(digits, name, weight, TUNING_SEED, options.steps).accuracy(digits.validation)
            best = max(search, key=lambda weight: search[weight])
            of_all[name] = {
                "search": {str(weight): share for weight, share in search.items()},
                "alpha": best,
                "runs": [],
            }
        own = of_all[name]
        for seed in track(range(len(own["runs"]), options.seeds), description=f"training, {name}"):
            model = _trained(digits, name, own["alpha"], seed, options.steps)
            torch.manual_seed(0)
            bound = torch.cat([model.bound(digits.test.images).detach() for _ in range(10)]).mean()
            run = {"seed": seed, "accuracy": model.accuracy(digits.test), "bound": round(float(bound), 3)}
            own["runs"].append(run)
            _write(options.out, found)


def labels_alone(digits: Split, seed: int) -> float:
    """Test accuracy of the same classifier, trained on the same labels and nothing else."""
    model = make_model("semi-supervised", "exact", Latents(1, 10), digits, seed=seed, labels=LABELS)
    assert isinstance(model, SemiSupervised)
    optimizer = OPTIMIZERS["adam"](model.classifier.parameters(), lr=RATE)
    for _ in range(100):  # the labels are known by heart by then
        loss = torch.nn.functional.cross_entropy(model.classifier(model.labelled.images), model.labelled.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.accuracy(digits.test)


def _trained(digits: Split, estimator: str, weight: float, seed: int, steps: int) -> SemiSupervised:
    model = make_model("semi-supervised", estimator, Latents(1, 10), digits, seed=seed, labels=LABELS, alpha=weight)
    assert isinstance(model, SemiSupervised)
    temperature = make_temperature("exponential:1.0:0.5").over(steps)
    settings = Settings(
        steps=steps,
        learning_rate=RATE,
        temperature=temperature,
        refresh=100,
        evaluate_every=steps,
        keep_best=False,
        seed=seed,
    )
    train(model, digits, settings)
    return model


def tables(result: dict[str, Any]) -> list[str]:
    """In Markdown."""
    lines = []
    if "accuracy" in result:
        lines += [
            "| class variable | test accuracy, % | published | bound, nats | weight | seeds |",
            "|---|---|---|---|---|---|",
        ]
        for name, found in result["accuracy"].items():
            mean, half = interval([100 * run["accuracy"] for run in found["runs"]])
            bound, reach = interval([run["bound"] for run in found["runs"]])
            lines.append(
                f"| `{name}` | {mean:.1f} ± {half:.1f} | {PUBLISHED_ACCURACY[name]:.1f} | {bound:.1f} ± {reach:.1f} "
                f"| {found['alpha']:g} | {len(found['runs'])} |"
            )
        mean, half = interval([100 * share for share in result["labels_alone"]])
        lines += [f"| labels alone | {mean:.1f} ± {half:.1f} | – | – | – | {len(result['labels_alone'])} |", ""]
    lines += ["| classes | all of them, ms | ST-GS, ms | times as long | published |", "|---|---|---|---|---|"]
    for classes, found in result["step_time"].items():
        every, single = found["milliseconds"].values()
        value, low, high = found["ratio"]
        published = PUBLISHED_RATIO[int(classes)]
        lines.append(
            f"| {classes} | {every:.1f} | {single:.1f} | {value:.2f} [{low:.2f}, {high:.2f}] | {published:g} |"
        )
    return lines


if __name__ == "__main__":
    run_command(main)
