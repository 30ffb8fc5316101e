"""The table of gradient estimators, every cell of it measured.

Example:
    python -m gumbel_rl.lab.table --out benchmarks/results --page docs/laboratory.md
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from gumbel_rl.estimators import Estimator
from gumbel_rl.lab.command_line import Console, fail, one_thread, parse, progress, tyro
from gumbel_rl.lab.measurement import BLOCKS, Quality, learn, quality_of
from gumbel_rl.lab.methods import methods, setting
from gumbel_rl.lab.problems import NUMBERS, built_in
from gumbel_rl.lab.report import SIGNIFICANT, uncertain
from gumbel_rl.lab.timing import BATCH, Timing, time_calls
from gumbel_rl.lab.traits import find_traits

KINDS = ("linear", "nonlinear")

# What seconds are given in multiples of.
CLOCK = "score-function"

BEGIN, END = "<!-- table of estimators: begin -->", "<!-- table of estimators: end -->"

HEAD = (
    "method",
    "variables",
    "back-propagates through a sample",
    "differentiable in the parameters",
    "samples follow the exact distribution",
    "bias, linear `f`",
    "bias, non-linear `f`",
    "variance, linear",
    "variance, non-linear",
    "evaluations of `f`",
    "time",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/lab")
    """Directory for estimators.md and estimators.json."""
    page: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A page of Markdown whose table, between two comments, is replaced."""
    samples: int = 4
    """Samples that an estimate averages; at least 2, for the baselines."""
    estimates: int = 5000
    """Independent estimates for each number."""
    learning_steps: int = 500
    """Steps that rebar and relax learn before they are measured."""
    rounds: int = 21
    """How often each is timed."""
    seed: int = 0
    """Of objectives and noise."""
    no_progress: bool = False
    """Show no bar."""


def measure_all(
    *,
    samples: int = 4,
    estimates: int = 5000,
    learning_steps: int = 500,
    rounds: int = 21,
    seed: int = 0,
    told: Callable[[str, float], object] = lambda what, share: None,
) -> dict[str, Any]:
    """Everything in the table, for `json`.

    Args:
        samples: Samples that an estimate averages.
        estimates: Independent estimates for each number.
        learning_steps: Steps that estimators which learn are given before.
        rounds: How often each is timed.
        seed: Of objectives and noise.
        told: Called with what was done and the share of the whole that it was.

    Raises:
        ValueError: Fewer than 2 samples or two estimates a block, or no round.
    """
    if samples < 2 or rounds < 2 or learning_steps < 0 or estimates < 2 * BLOCKS:
        raise ValueError(
            f"at least 2 samples, 2 rounds, 0 learning steps and {2 * BLOCKS} estimates, got {samples}, {rounds}, "
            f"{learning_steps} and {estimates}"
        )
    rows = methods()
    share = 0.9 / len(rows) / len(KINDS)
    content: dict[str, Any] = {}
    calls: list[tuple[Callable[[], object], int]] = []
    for method in rows:
        entry: dict[str, Any] = {"name": method.name, "variables": method.variables}
        for kind in KINDS:
            made, where = setting(method, kind, samples, seed=seed)
            if isinstance(made, Estimator):
                learn(made, built_in(kind, (4,) * 4, seed=seed), learning_steps, seed)
            if kind == "nonlinear":
                entry |= asdict(find_traits(made, where, seed))
                repeats = BATCH // len(where.parameters)
                calls.append((partial(where.gradients, repeats), repeats * len(where.parameters)))
            quality = quality_of(
                where.gradients,
                where.gradient,
                size=1 if method.key == "exact" else estimates // BLOCKS,
                at_once=max(1, NUMBERS // (40 * samples * where.parameters.numel())),
                seed=seed + 1,
            )
            entry[kind] = asdict(quality)
            told(f"{method.key}, {kind}", share)
        content[method.key] = entry
    timings = time_calls(calls, rounds, lambda: told("timing", 0.1 / rounds))
    clock = timings[list(content).index(CLOCK)]
    for entry, timing in zip(content.values(), timings, strict=True):
        entry["time"] = _ratio(timing, clock)
    given = {"samples": samples, "estimates": estimates, "learning_steps": learning_steps, "rounds": rounds}
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    seconds = {"estimator": CLOCK, "seconds": clock.seconds}
    return {"settings": {**given, "seed": seed, "versions": versions, "time_is_of": seconds}, "methods": content}


def _ratio(timing: Timing, clock: Timing) -> dict[str, float]:
    """Median and quartiles of a timing in multiples of another, round by round."""
    ratios = [one / other for one, other in zip(timing.rounds, clock.rounds, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "low": low, "high": high}


def render(content: Mapping[str, Any]) -> str:
    """The table in Markdown, and what its numbers mean."""
    lines = [" | ".join(HEAD), " | ".join(["---", *["---"] * 4, *["---:"] * 6])]
    lines += [" | ".join(_row(key, entry)) for key, entry in content["methods"].items()]
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{table}\n\n{_legend(content['settings'])}\n"


def _row(key: str, entry: Mapping[str, Any]) -> list[str]:
    qualities = {kind: Quality(**entry[kind]) for kind in KINDS}
    name = entry["name"] if key.startswith("gaussian") else f"{entry['name']}, `{key}`"
    no_gradient = entry["differentiable"] == "no"
    time = entry["time"]
    return [
        name,
        entry["variables"],
        entry["backpropagates"],
        entry["differentiable"],
        entry["exact_samples"],
        *("no gradient" if no_gradient else describe_bias(quality) for quality in qualities.values()),
        *("–" if no_gradient else describe_variance(quality) for quality in qualities.values()),
        f"{entry['evaluations']:g}",
        f"{time['ratio']:.1f} [{time['low']:.1f}, {time['high']:.1f}]",
    ]


def is_biased(quality: Quality) -> bool:
    """Whether its bias is told from none."""
    return quality.bias_p < SIGNIFICANT


def describe_bias(quality: Quality) -> str:
    """The norm of the bias relative to that of the exact gradient, or how small it must be if none is found."""
    if quality.bias2 == 0 and quality.bias2_error == 0:
        return "none"
    if not is_biased(quality):
        return f"none (< {math.sqrt(max(quality.bias2, 0.0) + 3 * quality.bias2_error):.2g})"
    bias = math.sqrt(quality.bias2)
    return uncertain(bias, quality.bias2_error / (2 * bias))


def describe_variance(quality: Quality) -> str:
    """The variance relative to the squared norm of the exact gradient."""
    return "0" if quality.variance == 0 else uncertain(quality.variance, quality.variance_error)


def _legend(settings: Mapping[str, Any]) -> str:
    clock, versions = settings["time_is_of"], settings["versions"]
    return (
        "Bias is relative to the norm of the exact gradient, variance to its square, both of an estimate that averages "
        f"{settings['samples']} samples, ± a standard error, from {settings['estimates']:,} estimates (seed "
        f"{settings['seed']}). None: chance alone would look like this bias more often than once in a million times; "
        "in brackets what three standard errors leave room for. Objectives: `linear` and `nonlinear` of 4 factors of 4 "
        "choices, of 4 variables where they are Gaussian; 8 random functions each; temperature 1. *Back-propagates*: "
        "whether a gradient comes back from `f` to the sample it was evaluated at. *Differentiable*: yes, if the "
        "gradient is the derivative of the estimate at fixed noise, by finite differences; surrogate, if it is that of "
        "something else. *Samples*: a chi-square test at a false-alarm rate of 1e-6. *Evaluations*: of each sample, of "
        "all where there is none. *Time*: processor time of forward and backward in multiples of "
        f"`{clock['estimator']}` ({1e6 * clock['seconds']:.1f} µs for a state in a batch of {BATCH}), median and "
        f"quartiles of {settings['rounds']} rounds in turns, on an objective that costs next to nothing. `rebar` and "
        f"`relax` had learnt for {settings['learning_steps']:,} steps, which are not part of the time. Python "
        f"{versions['python']}, torch {versions['torch']}."
    )


def replace_in_page(page: str, table: str) -> str:
    """A page with the table between its two comments replaced.

    Raises:
        ValueError: The comments are not there, once each and in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"it must hold the lines {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the table as the command line says.

    Raises:
        SystemExit: Something in it is wrong: status 2.
    """
    try:
        options = parse(Options, argv, prog="python -m gumbel_rl.lab.table", description=__doc__ or "")
        page = None if options.page is None else options.page.read_text(encoding="utf-8")
        if page is not None:
            replace_in_page(page, "")  # found out before the work
        options.out.mkdir(parents=True, exist_ok=True)
        with one_thread(), progress(not options.no_progress) as told:
            content = measure_all(
                samples=options.samples,
                estimates=options.estimates,
                learning_steps=options.learning_steps,
                rounds=options.rounds,
                seed=options.seed,
                told=told,
            )
    except (ValueError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    table = render(content)
    (options.out / "estimators.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (options.out / "estimators.md").write_text(table, encoding="utf-8")
    if options.page is not None and page is not None:
        options.page.write_text(replace_in_page(page, table), encoding="utf-8")
    _show(content)
    Console().print(f"{options.out}: estimators.json, estimators.md", markup=False, highlight=False)


def _show(content: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("method", "back-prop", "samples", "bias", "variance", "time", title="On a non-linear objective")
    for key, entry in content["methods"].items():
        row = _row(key, entry)
        name = key.removeprefix("gaussian-") + (" (Gaussian)" if key.startswith("gaussian") else "")
        table.add_row(name, row[2], row[4], *(row[column].split(" ")[0] for column in (6, 8, 10)))
    Console().print(table)


if __name__ == "__main__":
    main()
