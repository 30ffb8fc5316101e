"""Writes the report of a comparison, and the tables that the command ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.compare import markdown, tables, webpage
from agents.compare.figures import figures, svg
from agents.compare.tensorboard import write_tensorboard
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
    for name in summary["environments"]:
        parts += [_console(name, tables.results(summary, name)), ""]
    for kind, style in (("failed", "red"), ("missing", "yellow"), ("not_applicable", "dim")):
        for problem in tables.problems(summary[kind]):
            seeds = f", {problem.seeds}" if problem.seeds else ""
            reason = f": {problem.reason}" if problem.reason else ""
            words = f"{kind.replace('_', ' ')}: {problem.agent} on {problem.env}{seeds}{reason}"
            parts.append(Text(words, style=style))
    return Group(*parts)


def _console(title: str, results: tables.Table) -> Table:
    # Narrow enough for a terminal: what else there is stands in the report.
    rows = [dict(zip(results.head, row, strict=True)) for row in results.rows]
    left_out = {"median", "reached", "training, s", "steps to threshold", "seconds to threshold"}
    if "solved" in results.head:
        left_out.add("seeds")  # it says of how many
        for row in rows:
            row["at threshold"] = _at_threshold(row["steps to threshold"], row["seconds to threshold"])
    table = Table(title=Text(title, style="bold"), title_justify="left", box=None, header_style="dim", pad_edge=False)
    shown = [name for name in rows[0] if name not in left_out]
    for i, name in enumerate(shown):
        # Where it gets narrow, the first column is folded, and not the numbers.
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for row in rows:
        table.add_row(*(Text(row[name], style="bold" if name == shown[0] else "") for name in shown))
    return table


def _at_threshold(steps: str, seconds: str) -> str:
    """The medians alone: `10.2k, 0.58 s`."""
    medians = [words.partition(" [")[0] for words in (steps, seconds)]
    return f"{medians[0]}, {medians[1]} s" if all(words[0].isdigit() for words in medians) else "–"
