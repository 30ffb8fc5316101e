"""Writes the report of a comparison, and the tables that the command ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.compare import markdown, tables, webpage
from agents.compare.boards import write_tensorboard
from agents.compare.figures import figures, svg
from agents.run_directory import write_atomically


def write_report(summary: Mapping[str, Any], directory: Path) -> None:
    """Write `report.md`, `report.html`, `figures/` and `tensorboard/`, each whole or not at all.

    The same summary makes the same files, byte by byte, but for TensorBoard's events, which hold the time.

    Args:
        summary: The content of `comparison.json`.
        directory: Where to; is made if it is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = figures(summary)
    paths = markdown.figure_paths(made)
    pictures = {paths[tag]: svg(tag, figure) for tag, figure in made.items()}
    page = markdown.render(summary, paths)

    def write_figures(path: Path) -> None:
        path.mkdir()
        for name, picture in pictures.items():
            _write(path / Path(name).name, picture)

    # What the pages refer to comes before them.
    write_atomically(directory / "figures", write_figures)
    write_tensorboard(summary, directory / "tensorboard", made)
    web = webpage.render(page, pictures)
    write_atomically(directory / "report.md", lambda path: _write(path, page))
    write_atomically(directory / "report.html", lambda path: _write(path, web))


def _write(path: Path, content: str) -> None:
    # The same bytes on every system.
    path.write_text(content, encoding="utf-8", newline="\n")


def console_table(summary: Mapping[str, Any]) -> RenderableType:
    """The main table of every environment, for a terminal, and what is not in it."""
    parts: list[RenderableType] = []
    for name, environment in summary["environments"].items():
        if environment["agents"]:
            parts += [_console(name, tables.results(summary, name)), ""]
        else:
            parts += [Text(f"{name}: no agent has a finished run", style="yellow"), ""]
    for kind, style in (("failed", "red"), ("missing", "yellow"), ("not_applicable", "dim")):
        for problem in tables.problems(summary[kind]):
            seeds = f", {problem.seeds}" if problem.seeds else ""
            reason = f": {problem.reason}" if problem.reason else ""
            words = f"{kind.replace('_', ' ')}: {problem.agent} on {problem.env}{seeds}{reason}"
            parts.append(Text(words, style=style))
    return Group(*parts)


def _console(title: str, results: tables.Table) -> Table:
    # Short enough for a terminal: what else there is stands in the report.
    left_out = {"median", "reached", "training, s"}
    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, header_style="dim", pad_edge=False)
    kept = [i for i, name in enumerate(results.head) if name not in left_out]
    for i in kept:
        # Where it gets narrow, names are folded before numbers.
        numbers = i > 0 and not results.head[i].endswith(" to threshold")
        table.add_column(Text(results.head[i]), justify="right" if i else "left", overflow="fold", no_wrap=numbers)
    for row in results.rows:
        # Of times the medians alone.
        cells = {i: row[i].partition(" [")[0] if results.head[i].endswith(" to threshold") else row[i] for i in kept}
        table.add_row(*(Text(cell, style="bold" if i == 0 else "") for i, cell in cells.items()))
    return table
