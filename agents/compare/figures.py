"""The figures of a comparison, made from `comparison.json` alone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents.compare import appearance, charts
from agents.compare.ranking import all_labels, ranked, ranked_across
from agents.compare.survival import share_by_time

# Estimates over environments, as figures and tables name them.
AGGREGATES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
# More lines than this cannot be told from one another, nor more cells be read; tables hold all labels.
SHOWN = 20


def figures(summary: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure by its tag, such as `CartPole-v1/learning curve`."""
    look = appearance.marks(all_labels(summary))
    with matplotlib.rc_context(appearance.STYLE):
        made = {
            f"{name}/{kind}": figure
            for name, environment in summary["environments"].items()
            for kind, figure in _of_environment(name, environment, look)
        }
        if summary["across"]:
            made |= {f"all environments/{kind}": figure for kind, figure in _across(summary["across"], look)}
    return made


def _of_environment(name: str, environment: Mapping[str, Any], look: appearance.Marks) -> Iterator[tuple[str, Figure]]:
    labels, agents, threshold = ranked(environment), environment["agents"], environment["threshold"]
    best, rest = labels[:SHOWN], _rest(labels)
    curves = [label for label in best if agents[label]["curve"]]
    if curves:
        for axis, kind in (("steps", "learning curve"), ("seconds", "learning curve over time")):
            yield kind, charts.learning_curve(f"{name}: {kind}{rest}", environment, curves, look, axis)
    yield (
        "final return",
        charts.intervals(
            {"return of the final policy, IQM over seeds": {label: agents[label]["return"]["iqm"] for label in labels}},
            labels,
            look,
            title=f"{name}: final return",
            dots={label: [run["eval_return_mean"] for run in agents[label]["runs"]] for label in labels},
            environment=environment,
        ),
    )
    # Where nobody looked for the threshold, there is nothing to show of it.
    shares = {label: _reached(agents[label]["runs"]) for label in best if agents[label]["steps_to_threshold"]}
    if shares:
        title = f"{name}: share at the threshold{rest}"
        yield "share at the threshold", charts.reaching_curve(title, shares, look)
    title = f"{name}: performance profile{rest}"
    yield (
        "performance profile",
        charts.profile(title, environment["profiles"], best, look, score="return", threshold=threshold),
    )
    if len(labels) > 1:
        title = f"{name}: probability of improvement{rest}"
        yield "probability of improvement", charts.heat_map(title, environment["improvement"], best)


def _across(across: Mapping[str, Any], look: appearance.Marks) -> Iterator[tuple[str, Figure]]:
    labels = ranked_across(across)
    best, rest = labels[:SHOWN], _rest(labels)
    if not labels:
        return
    panels = {text: {label: across["agents"][label][name] for label in labels} for name, text in AGGREGATES.items()}
    yield "aggregates", charts.intervals(panels, labels, look, title="All environments: normalised return")
    yield (
        "performance profile",
        charts.profile(
            f"All environments: performance profile{rest}",
            across["profiles"],
            best,
            look,
            score="normalised return",
            threshold=1.0,
        ),
    )
    if len(labels) > 1:
        title = f"All environments: probability of improvement{rest}"
        yield "probability of improvement", charts.heat_map(title, across["improvement"], best)


def _rest(labels: Sequence[str]) -> str:
    """What a title says where not all labels are shown."""
    return f", best {SHOWN} of {len(labels)} by IQM" if len(labels) > SHOWN else ""


def _reached(runs: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return share_by_time([run["steps_to_threshold"] for run in runs], [run["timesteps"] for run in runs])


def svg(tag: str, figure: Figure) -> str:
    """A figure as SVG, the same text whenever it is made."""
    text = io.StringIO()
    # The salt makes the names inside the picture a matter of its content and its tag; the rest would hold a date.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**appearance.STYLE, "svg.hashsalt": tag}):
        figure.savefig(text, format="svg", metadata={"Title": tag, **nothing})
    return text.getvalue()


def pixels(figure: Figure, dpi: float = 130) -> NDArray[np.uint8]:
    """A figure as an image, `[height, width, 3]`."""
    figure.set_dpi(dpi)
    agg: Any = FigureCanvasAgg(figure)  # its methods have no types
    with matplotlib.rc_context(appearance.STYLE):
        agg.draw()
    return np.asarray(agg.buffer_rgba(), dtype=np.uint8)[..., :3].copy()
