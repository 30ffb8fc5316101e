"""A comparison as a page in GitHub's Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agents.callbacks import EPISODES_THAT_COUNT
from agents.compare import tables
from agents.compare.ranking import (
    TOLERANCE,
    curves_shown,
    other_steps,
    other_steps_across,
    ranked,
    ranked_across,
    told_apart,
    usual_steps,
)
from agents.formats import compact, fixed, percent, ranges, slugs

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(summary: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The report as Markdown.

    Args:
        summary: The content of `comparison.json`.
        figures: Where each figure lies, by its tag. Without any, what is folded away on the page is left out too:
            viewers that show no figures, such as TensorBoard's, cannot fold either.
    """
    environments = summary["environments"]
    pictures = {
        name: {tag: path for tag, path in figures.items() if tag.rpartition("/")[0] == name}
        for name in (*environments, "all environments")
    }
    return TEMPLATES.get_template("report.md.jinja").render(
        summary=summary,
        tables=tables,
        pictures=pictures,
        folded=bool(figures),
        ranked=ranked,
        verdict={
            name: verdict(environment["improvement"], ranked(environment)) for name, environment in environments.items()
        },
        verdict_across=summary["across"]
        and verdict(summary["across"]["improvement"], ranked_across(summary["across"])),
        curves_shown=curves_shown,
        other_steps=other_steps,
        other_steps_across=other_steps_across,
        TOLERANCE=TOLERANCE,
        EPISODES_THAT_COUNT=EPISODES_THAT_COUNT,
        usual_steps=usual_steps,
        table=table,
        text=text,
        code=code,
        fence=fence,
        settings=lambda values: fence(yaml.safe_dump(dict(values), allow_unicode=True), "yaml"),
        compact=compact,
        number=lambda value: f"{value:.6g}",
        percent=percent,
        ranges=ranges,
        two=fixed(2),
    )


def verdict(chances: Mapping[str, Mapping[str, Any]], labels: list[str]) -> dict[str, Any] | None:
    """The label with the highest IQM, those it beats, those it is not told apart from, and those that beat it.

    The last may be any: whose few bad runs cost it its IQM may still win most pairs of runs.
    """
    if len(labels) < 2:
        return None
    best, *others = labels
    apart = [other for other in others if told_apart(chances[best][other])]
    beats = [other for other in apart if chances[best][other][1] > 0.5]
    return {
        "best": best,
        "beats": beats,
        "alike": [other for other in others if other not in apart],
        "beaten_by": [other for other in apart if other not in beats],
    }


def text(words: object) -> str:
    """Words as they are, none of them taken for Markdown or HTML."""
    line = html.escape(" ".join(str(words).split()), quote=False)
    # Brackets alone make no link, and intervals are easier to read without backslashes.
    return re.sub(r"[\\`*_|~#]|\](?=[(\[:])", r"\\\g<0>", line)


def code(words: object, *, cell: bool = False) -> str:
    """Words as inline code; in a table's `cell` a bar is escaped, even there."""
    line = " ".join(str(words).split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{ticks}{pad}{line.replace('|', chr(92) + '|') if cell else line}{pad}{ticks}"


def fence(words: str, language: str = "") -> str:
    """Words as a block of code."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", words)), default=0))
    return f"{ticks}{language}\n{words.rstrip()}\n{ticks}"


def table(rows: tables.Table) -> str:
    """A table, numbers to the right."""

    def cell(words: str) -> str:
        if isinstance(words, tables.Label):
            return f"{code(words, cell=True)} {words.mark}".rstrip()
        return f"**{text(words)}**" if isinstance(words, tables.Strong) else text(words)

    lines = [[cell(words) for words in row] for row in (rows.head, *rows.rows)]
    lines.insert(1, ["---", *["---:"] * (len(rows.head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure_paths(tags: Mapping[str, Any]) -> dict[str, str]:
    """Where the figure of each tag lies, beside the report."""
    return {tag: f"figures/{name}.svg" for tag, name in slugs(tags).items()}
