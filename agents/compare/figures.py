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

# Estimates over environments, as figures and tables name them.
AGGREGATES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}


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
    labels = ranked(environment)
    agents = environment["agents"]
    if not labels:
        return
    curves = [label for label in labels if agents[label]["curve"]]
    if curves:
        for axis, kind in (("steps", "learning curve"), ("seconds", "learning curve over time")):
            yield kind, charts.learning_curve(f"{name}: {kind}", environment, curves, look, axis)
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
    if environment["threshold"] is not None:
        shares = {label: _reached(agents[label]["runs"]) for label in labels}
        yield "share solved", charts.solved_curve(f"{name}: share of seeds at the threshold", shares, look)
    profiles = environment["profiles"]
    shown = [label for label in labels if label in profiles["agents"]]
    threshold = environment["threshold"]
    yield (
        "performance profile",
        charts.profile(f"{name}: performance profile", profiles, shown, look, score="return", threshold=threshold),
    )
    if len(labels) > 1:
        title = f"{name}: probability of improvement"
        yield "probability of improvement", charts.heat_map(title, environment["improvement"], labels)


def _across(across: Mapping[str, Any], look: appearance.Marks) -> Iterator[tuple[str, Figure]]:
    labels = ranked_across(across)
    panels = {text: {label: across["agents"][label][name] for label in labels} for name, text in AGGREGATES.items()}
    yield "aggregates", charts.intervals(panels, labels, look, title="All environments: normalised return")
    yield (
        "performance profile",
        charts.profile(
            "All environments: performance profile",
            across["profiles"],
            labels,
            look,
            score="normalised return",
            threshold=1.0,
        ),
    )
    if len(labels) > 1:
        title = "All environments: probability of improvement"
        yield "probability of improvement", charts.heat_map(title, across["improvement"], labels)


def _reached(runs: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Kaplan-Meier estimate of the share of runs that have reached the threshold, as corners of a staircase."""
    from scipy.stats import CensoredData, ecdf

    end = float(max(run["timesteps"] for run in runs))
    times = [run["steps_to_threshold"] for run in runs]
    reached = [float(time) for time in times if time is not None]
    censored = [float(run["timesteps"]) for run, time in zip(runs, times, strict=True) if time is None]
    if not reached:
        return [0.0, end], [0.0, 0.0]
    share = ecdf(CensoredData(uncensored=reached, right=censored)).cdf
    corners, heights = share.quantiles.tolist(), share.probabilities.tolist()
    # The last evaluation may come a few steps after the number of steps asked for.
    return [0.0, *corners, max(end, corners[-1])], [0.0, *heights, heights[-1]]


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
