"""The laboratory's figures: the bias-variance plane, error against temperature, and cost against error.

Colours can be told apart with any colour vision, and every estimator has a mark of its own beside its colour. Needs
matplotlib.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from gumbel_rl.estimators import ESTIMATORS
from gumbel_rl.lab.report import common_samples, counted, is_biased, problems
from gumbel_rl.lab.sweep import Results, Row

# Petroff 2021, arXiv:2107.02270; the last four, darker, for the estimators beyond ten.
COLOURS = [
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
    *("#1b4f8a", "#6b7a00", "#d957a8", "#1f7a5c"),
]
MARKERS = ["*", "o", "s", "D", "P", "X", "^", "v", "<", ">", "d", "p", "h", "8"]
# As in the figures of agents.compare, which the library must not import.
INK, GRID, PAPER = "#24292f", "#d8dee4", "#ffffff"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
}
COLUMNS, PANEL = 3, (3.8, 3.1)
LETTERS = 38  # of a title above a panel

# What is below is drawn as 0.
SMALLEST = 1e-4


def figures(results: Results) -> dict[str, Figure]:
    """All figures by name, those left out that would show nothing."""
    with matplotlib.rc_context(STYLE):
        made = {"bias-variance": bias_variance_plane(results.rows)}
        if len({row.cell.temperature for row in results.rows} - {None}) > 1:
            made["temperature"] = error_against_temperature(results.rows)
        made["cost"] = cost_against_error(results.rows)
    return made


def bias_variance_plane(rows: Sequence[Row]) -> Figure:
    """Squared bias against variance, a panel for each problem; temperatures joined by a line, larger marks hotter."""

    def draw(axes: Axes, own: list[Row], looks: Mapping[str, Line2D]) -> None:
        bias = {id(row): row.quality.bias2 if is_biased(row) else 0.0 for row in own}
        x = _log_with_zero(axes, list(bias.values()), horizontal=True)
        y = _log_with_zero(axes, [row.quality.variance for row in own], horizontal=False)
        _errors(axes)
        # Those without bias stand beside each other: half a decade is free above the place of 0.
        unbiased = list(dict.fromkeys(row.cell.label for row in own if bias[id(row)] < SMALLEST))
        aside = {label: 10 ** (0.6 * number / max(len(unbiased) - 1, 1)) for number, label in enumerate(unbiased)}
        if unbiased:
            axes.axvspan(axes.get_xlim()[0], x(0.0) * 10**0.7, color=INK, alpha=0.06, linewidth=0, zorder=1)
        for label, cells in _by_label(own).items():
            points = [
                (x(bias[id(row)]) * (aside[label] if bias[id(row)] < SMALLEST else 1.0), y(row.quality.variance))
                for row in cells
            ]
            axes.plot(*zip(*points, strict=True), color=looks[label].get_color(), linewidth=1, zorder=3)
            for number, point in enumerate(points):
                grown = number / (len(points) - 1) if len(points) > 1 else 0.6
                _mark(axes, looks[label], *point, size=3.0 + 4.5 * grown)

    return _panels(
        rows,
        draw,
        title="Bias and variance of one estimate, relative to the exact gradient (larger marks: higher temperature)",
        x="squared bias (shaded: not told from none)",
        y="variance",
    )


def error_against_temperature(rows: Sequence[Row]) -> Figure:
    """Mean squared error over temperatures; estimators without one are level lines."""

    def draw(axes: Axes, own: list[Row], looks: Mapping[str, Line2D]) -> None:
        _nothing(axes)
        temperatures = sorted({row.cell.temperature for row in own if row.cell.temperature is not None})
        y = _log_with_zero(axes, [row.quality.mse for row in own], horizontal=False)
        _log(axes, FixedLocator(temperatures))
        for label, cells in _by_label(own).items():
            look = looks[label]
            if cells[0].cell.temperature is None:
                ends = [temperatures[0], temperatures[-1]]
                level = y(cells[0].quality.mse)
                axes.plot(ends, [level, level], color=look.get_color(), linewidth=1, dashes=(3, 2), zorder=2)
                _mark(axes, look, ends[0] / 1.12, level, size=5)
                continue
            points = [(float(row.cell.temperature or 0), y(row.quality.mse)) for row in cells]
            axes.plot(*zip(*points, strict=True), color=look.get_color(), linewidth=1.6, zorder=3)
            for point in points:
                _mark(axes, look, *point, size=4.5)

    return _panels(
        rows,
        draw,
        title="Error of one estimate, relative to the exact gradient (dashed: no temperature; dotted: to estimate 0)",
        x="temperature",
        y="mean squared error",
    )


def cost_against_error(rows: Sequence[Row]) -> Figure:
    """Seconds of an estimate against its error, numbers of samples joined by a line."""
    best: dict[tuple[str, str, int], Row] = {}
    for row in sorted(rows, key=lambda row: row.quality.mse):
        best.setdefault((row.problem, row.cell.label, row.cell.samples), row)

    def draw(axes: Axes, own: list[Row], looks: Mapping[str, Line2D]) -> None:
        _nothing(axes)
        y = _log_with_zero(axes, [row.quality.mse for row in own], horizontal=False)
        _log(axes, LogLocator(subs=(1.0, 3.0)))
        for label, cells in _by_label(own).items():
            look = looks[label]
            cells.sort(key=lambda row: row.cell.samples)
            points = [(1e6 * row.timing.seconds, y(row.quality.mse)) for row in cells]
            axes.plot(*zip(*points, strict=True), color=look.get_color(), linewidth=1.2, zorder=3)
            for number, point in enumerate(points):
                grown = number / (len(points) - 1) if len(points) > 1 else 0.5
                _mark(axes, look, *point, size=3.5 + 3.5 * grown)

    samples = ", ".join(map(str, sorted({row.cell.samples for row in rows})))
    return _panels(
        list(best.values()),
        draw,
        title=f"Cost and error of an estimate of {samples} samples (larger marks: more), each at its best temperature",
        x="microseconds of processor time for one state",
        y="mean squared error",
        all_samples=True,
    )


Draw = Callable[[Axes, list[Row], Mapping[str, Line2D]], None]


def _panels(rows: Sequence[Row], draw: Draw, *, title: str, x: str, y: str, all_samples: bool = False) -> Figure:
    names = problems(rows)
    columns = min(COLUMNS, len(names))
    down = math.ceil(len(names) / columns)
    looks = _looks(row.cell.label for row in rows)
    width = max(PANEL[0] * columns, 6.4)
    entries = max(2, int(width / 1.55))
    height = PANEL[1] * down + 0.35 + 0.19 * math.ceil(len(looks) / entries)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", wrap=True)
    grid = np.atleast_2d(figure.subplots(down, columns, squeeze=False))
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.set_visible(False)
            continue
        name = names[number]
        samples = common_samples(rows, name)
        own = [row for row in rows if row.problem == name and (all_samples or row.cell.samples == samples)]
        label = name if all_samples else f"{name}, {counted(samples)}"
        axes.set_title(textwrap.fill(label, LETTERS if columns > 1 else 2 * LETTERS), loc="left")
        draw(axes, own, looks)
        axes.set_xlabel(x)
        if number % columns == 0:
            axes.set_ylabel(y)
    figure.legend(list(looks.values()), list(looks), loc="outside lower left", ncols=entries, fontsize=8.5)
    return figure


def _looks(labels: Iterable[str]) -> dict[str, Line2D]:
    """Colour and mark of each label: an estimator of the registry has the same in every figure."""
    known = list(ESTIMATORS)
    looks = {}
    given = dict.fromkeys(labels)
    known += [label for label in given if label not in known]
    for label in sorted(given, key=known.index):
        place = known.index(label) % len(COLOURS)
        looks[label] = Line2D([], [], color=COLOURS[place], marker=MARKERS[place], markersize=6, linewidth=1.2)
    return looks


def _by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each estimator, by temperature."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.cell.temperature or 0.0):
        groups.setdefault(row.cell.label, []).append(row)
    return groups


def _mark(axes: Axes, look: Line2D, x: float, y: float, size: float) -> None:
    thin = look.get_marker() in {"*", "P", "X", "d"}
    axes.plot(
        [x],
        [y],
        marker=look.get_marker(),
        color=look.get_color(),
        markersize=size * (1.35 if thin else 1.0),
        markeredgecolor=PAPER,
        markeredgewidth=0.4,
        zorder=4,
        clip_on=False,
    )


def _log(axes: Axes, ticks: Locator) -> None:
    """Make the horizontal axis logarithmic, its ticks plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_with_zero(axes: Axes, values: Sequence[float], *, horizontal: bool) -> Callable[[float], float]:
    """Make an axis logarithmic with a place for 0 at its lower end; returns where a value goes."""
    positive = [value for value in values if value >= SMALLEST]
    low = math.floor(math.log10(min(positive, default=1e-2)) + 1e-9)
    high = math.ceil(math.log10(max(positive, default=1.0)) + 1e-9)
    high = max(high, low + 1)
    has_zero = len(positive) < len(values)
    floor = 10.0 ** (low - 1) if has_zero else 10.0**low
    axis = axes.xaxis if horizontal else axes.yaxis
    (axes.set_xscale if horizontal else axes.set_yscale)("log")
    (axes.set_xlim if horizontal else axes.set_ylim)(floor / 1.3, 10.0**high * 1.1)
    step = max(1, math.ceil((high - low) / 5))
    ticks = [10.0**power for power in range(high, low - 1, -step)]
    axis.set_major_locator(FixedLocator([floor, *ticks] if has_zero else ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: "0" if has_zero and value < 2 * floor else f"{value:g}"))
    return lambda value: value if value >= SMALLEST else floor


def _nothing(axes: Axes) -> None:
    """A line at the error of an estimate that is always 0."""
    axes.axhline(1.0, color=INK, alpha=0.5, linewidth=0.9, dashes=(1, 2), zorder=1.5)


def _errors(axes: Axes) -> None:
    """Lines of equal mean squared error."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x = np.geomspace(left, right, 400)
    for power in range(math.floor(math.log10(max(left, bottom))), math.ceil(math.log10(max(right, top))) + 1):
        y = 10.0**power - x
        shown = y > bottom
        axes.plot(x[shown], y[shown], color=INK, alpha=0.25, linewidth=0.7, dashes=(1, 2), zorder=1.5)


def svg(name: str, figure: Figure) -> str:
    """A figure as SVG, the same text whenever it is made."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Title": name, **nothing})
    return text.getvalue()


def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG."""
    data = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()
