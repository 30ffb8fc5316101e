"""How every figure looks: colours, one for each label throughout, letters, title, legend and lines of reference."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from agents.formats import compact

# Told apart by people with any colour vision (Petroff 2021, arXiv:2107.02270); matplotlib's `petroff10`.
COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
# For labels beyond the ten colours.
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")

# Written into the SVG as they stand, so that a page can put its own colours in their place.
INK, GRID, PAPER = "#24292f", "#d8dee4", "#ffffff"
# On coloured ground, which a page does not change.
LIGHT, DARK = "#fdfdfd", "#101010"

# The keys are of whatever type this matplotlib gives them.
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "text.parse_math": False,  # a label is no formula
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # letters stay letters: small, searchable, and in the reader's font
}
WIDTH = 7.2
STEPS = FuncFormatter(lambda value, _: compact(value))

Marks = Mapping[str, Line2D]


def marks(labels: Iterable[str]) -> dict[str, Line2D]:
    """The colour and dash of each label, as a line that stands for it in legends."""
    return {
        label: Line2D([], [], color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i // len(COLOURS) % len(DASHES)])
        for i, label in enumerate(labels)
    }


def canvas(title: str, height: float) -> Figure:
    """An empty figure with its title."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    return figure


def wrapped(label: str, length: int = 28) -> str:
    """A label on as many lines as it needs, broken after colons and commas."""
    lines = [""]
    for piece in re.findall(r"[^:,]+[:,]?", label):
        if lines[-1] and len(lines[-1]) + len(piece) > length:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def row_height(names: Iterable[str]) -> float:
    """Inches that a row needs for the tallest of some wrapped labels."""
    return max(0.36, *(0.17 * (1 + name.count("\n")) for name in names))


def legend(figure: Figure, entries: Mapping[str, Artist]) -> None:
    """A legend below the axes, in as many columns as the names leave room for; the figure grows by its rows."""
    names = list(entries)

    def width(columns: int) -> int:
        # In letters; a column is filled before the next one, and is as wide as its longest name and a piece of line.
        rows = math.ceil(len(names) / columns)
        return sum(8 + max(map(len, names[i : i + rows])) for i in range(0, len(names), rows))

    columns = next((n for n in range(len(names), 1, -1) if width(n) <= 104), 1)
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(names) / columns))
    figure.legend(list(entries.values()), list(entries), loc="outside lower left", ncols=columns, fontsize=9)


def references(axes: Axes, environment: Mapping[str, Any], *, vertical: bool = False) -> dict[str, Artist]:
    """Lines at the threshold and at the random policy's return, where they are known, with their names."""
    lines: dict[str, Artist] = {}
    for name, key, dash in (("threshold", "threshold", (6, 3)), ("random policy", "random_return", (1, 2))):
        value = environment[key]
        if value is not None:
            line = axes.axvline if vertical else axes.axhline
            lines[f"{name}, {value:.4g}"] = line(value, color=INK, linewidth=1, dashes=dash, alpha=0.75, zorder=1.5)
    return lines
