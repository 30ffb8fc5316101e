"""The kinds of pictures a comparison is shown in, each on a `Figure` of its own: pyplot's global state is not used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from agents.compare.appearance import (
    DARK,
    INK,
    LIGHT,
    PAPER,
    STEPS,
    Marks,
    canvas,
    legend,
    references,
    row_height,
    wrapped,
)
from agents.compare.ranking import told_apart


def _line(axes: Axes, mark: Line2D, x: Sequence[float], y: Sequence[float], *, steps: bool = False) -> None:
    axes.plot(
        x,
        y,
        color=mark.get_color(),
        linestyle=mark.get_linestyle(),
        drawstyle="steps-post" if steps else "default",
        zorder=3,
    )


def _band(axes: Axes, colour: Any, x: Sequence[float], ends: Mapping[str, Any]) -> None:
    # Single runs have no intervals: null becomes NaN, which is not drawn.
    low, high = np.asarray(ends["low"], dtype=np.float64), np.asarray(ends["high"], dtype=np.float64)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)


def learning_curve(title: str, environment: Mapping[str, Any], labels: Sequence[str], look: Marks, axis: str) -> Figure:
    """Interquartile mean of the periodic evaluations with its band, over `steps` or `seconds`."""
    figure = canvas(title, 3.9)
    axes = figure.subplots()
    shown = {label: environment["agents"][label]["curve"][axis] for label in labels}
    for label, curve in shown.items():
        colour = look[label].get_color()
        _band(axes, colour, curve["x"], curve)
        _line(axes, look[label], curve["x"], curve["iqm"])
        # Where the curve ends, the seed that ended first has: agents need not have been given the same.
        axes.plot(curve["x"][-1:], curve["iqm"][-1:], "o", color=colour, markersize=4, zorder=4)
    ends = [curve["x"][-1] for curve in shown.values() if curve["x"] and curve["x"][-1] > 0]
    if axis == "seconds" and ends and max(ends) > 8 * min(ends):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if axis == "steps":
        axes.xaxis.set_major_formatter(STEPS)
    axes.set_xlabel("environment steps" if axis == "steps" else "seconds of training, as far as all seeds go")
    axes.set_ylabel("return, IQM over seeds")
    lines = references(axes, environment)
    legend(figure, {label: look[label] for label in shown} | lines)
    return figure


def intervals(
    panels: Mapping[str, Mapping[str, Sequence[float | None]]],
    labels: Sequence[str],
    look: Marks,
    *,
    title: str,
    dots: Mapping[str, Sequence[float]] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Figure:
    """An estimate and its interval for every label, a row each and a panel for each kind of estimate.

    Args:
        panels: For each name of an estimate, `[value, low, high]` of every label.
        labels: Order of the rows, from the top.
        look: Colours.
        title: Title.
        dots: Single scores of every label, drawn faintly.
        environment: Whose threshold and random return are drawn.
    """
    names = [wrapped(label) for label in labels]
    figure = canvas(title, 0.95 + row_height(names) * len(labels))
    row = {label: len(labels) - 1 - i for i, label in enumerate(labels)}
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, estimates) in zip(all_axes, panels.items(), strict=True):
        for label in labels:
            colour = look[label].get_color()
            scores = np.sort((dots or {}).get(label, []))
            # Equal scores would hide each other: they are spread over the height of the row, the same way every time.
            spread = np.arange(len(scores)) * 7 % 11 / 11 - 5 / 11
            axes.plot(scores, row[label] + 0.55 * spread, "o", color=colour, markersize=3.2, alpha=0.3, mew=0, zorder=2)
            value, low, high = estimates[label]
            if low is not None and high is not None:
                axes.plot([low, high], [row[label]] * 2, color=colour, linewidth=4.5, alpha=0.55, zorder=3)
            if value is not None:
                axes.plot([value], [row[label]], "o", color=colour, mec=INK, mew=0.8, markersize=6.5, zorder=4)
        axes.set_xlabel(name)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(8 // len(panels) + 1))
    all_axes[0].set_yticks(list(row.values()), labels=names, linespacing=1.1)
    all_axes[0].set_ylim(-0.6, len(labels) - 0.4)
    if environment is not None and (lines := references(all_axes[0], environment, vertical=True)):
        legend(figure, lines)
    return figure


def profile(
    title: str, profiles: Mapping[str, Any], labels: Sequence[str], look: Marks, *, score: str, threshold: float | None
) -> Figure:
    """Performance profiles: the share of runs that score more than what stands on the axis."""
    figure = canvas(title, 3.9)
    axes = figure.subplots()
    for label in labels:
        share = profiles["agents"][label]
        colour, x = look[label].get_color(), profiles["thresholds"]
        _band(axes, colour, x, share)
        _line(axes, look[label], x, share["share"])
    lines = references(axes, {"threshold": threshold, "random_return": None}, vertical=True)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(score)
    axes.set_ylabel(f"share of runs with a higher {score}")
    legend(figure, {label: look[label] for label in labels} | lines)
    return figure


def reaching_curve(title: str, shares: Mapping[str, tuple[Sequence[float], Sequence[float]]], look: Marks) -> Figure:
    """Share of the runs that have reached the threshold so far, over steps."""
    figure = canvas(title, 3.4)
    axes = figure.subplots()
    for label, (x, y) in shares.items():
        _line(axes, look[label], x, y, steps=True)
        axes.plot(x[-1:], y[-1:], "o", color=look[label].get_color(), markersize=4, zorder=4)
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(STEPS)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("share of seeds that have reached it")
    legend(figure, {label: look[label] for label in shares})
    return figure


def heat_map(title: str, chances: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> Figure:
    """Probability of improvement: how likely a run of the row beats one of the column."""
    size = len(labels)
    names = [f"{wrapped(label)}  ({i + 1})" for i, label in enumerate(labels)]
    figure = canvas(title, 1.3 + row_height(names) * size)
    axes = figure.subplots()
    colours = colormaps["RdBu"]
    for i, row in enumerate(labels):
        for j, column in enumerate(labels):
            if row == column:
                continue
            value = chances[row][column][0]
            # Rectangles rather than an image: sharp at any size, and no bitmap in the SVG. Not the map's dark ends.
            colour = colours(0.12 + 0.76 * value)
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1.5))
            dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5
            axes.text(
                j,
                i,
                f"{value:.2f}",
                ha="center",
                va="center",
                color=LIGHT if dark else DARK,
                fontsize=9 if size <= 8 else min(8, 115 / size),
                fontweight="bold" if told_apart(chances[row][column]) else "normal",
            )
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    # Long names do not fit above the columns: these bear the numbers of the rows.
    axes.set_xticks(range(size), labels=[str(i + 1) for i in range(size)])
    axes.set_yticks(range(size), labels=names, linespacing=1.1)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("this one beats …")
    axes.set_xlabel("… this one. Bold: the interval leaves out one half")
    return figure
