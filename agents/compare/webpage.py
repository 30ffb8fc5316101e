"""The Markdown report as one HTML file, which holds its figures and fetches nothing."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

from agents.compare import appearance
from agents.compare.markdown import TEMPLATES

# Deeper headings would repeat themselves under every environment.
CONTENTS_TAG = "h2"


def render(markdown: str, figures: Mapping[str, str]) -> str:
    """The page.

    Args:
        markdown: The report.
        figures: SVG of every figure, by the path that the report gives.
    """
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(markdown)
    prefixes = {path: f"figure{number}-" for number, path in enumerate(figures)}

    def picture(
        _renderer: RendererHTML,
        inside: Sequence[Token],
        index: int,
        _options: OptionsDict,
        _env: MutableMapping[str, Any],
    ) -> str:
        path = str(inside[index].attrs["src"])
        return _inline(figures[path], prefixes[path], inside[index].content)

    # A wide table scrolls by itself, not the page.
    parser.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    parser.add_render_rule("image", picture)
    title, contents = _headings(tokens)
    _keep_numbers_whole(tokens)
    return TEMPLATES.get_template("report.html.jinja").render(
        # The Markdown's own escaping has seen to what is in here.
        body=Markup(parser.renderer.render(tokens, parser.options, {})),
        title=title,
        contents=contents,
        ink=appearance.INK,
        grid=appearance.GRID,
        paper=appearance.PAPER,
    )


def _headings(tokens: Sequence[Token]) -> tuple[str, dict[str, str]]:
    """Give each heading an id; returns the title and the words of the contents by their id."""
    title, contents = "", {}
    for number, (heading, inline) in enumerate(itertools.pairwise(tokens)):
        if heading.type != "heading_open":
            continue
        words = "".join(child.content for child in inline.children or [])
        heading.attrSet("id", f"section-{number}")
        if heading.tag == "h1":
            title = words
        elif heading.tag == CONTENTS_TAG:
            contents[f"section-{number}"] = words
    return title, contents


def _keep_numbers_whole(tokens: Sequence[Token]) -> None:
    """Let a cell that holds a number be broken before its interval only, where the table is wider than the page."""
    for cell, inline in itertools.pairwise(tokens):
        for child in (inline.children or []) if cell.type in ("th_open", "td_open") else []:
            if child.type == "text" and re.match(r"-?\d", child.content):
                child.content = re.sub(r" (?!\[)", "\u00a0", child.content)
            child.content = re.sub(r"(?<=\d) %", "\u00a0%", child.content)


def _inline(svg: str, prefix: str, title: str) -> str:
    """An SVG file as an element of the page, in the page's colours and with ids of its own."""
    element = svg[svg.index("<svg") :]
    # The browser would show the title at the pointer, wherever it rests; the label below says the same.
    element = re.sub(r"<(title|metadata)>.*?</\1>", "", element, flags=re.DOTALL)
    for colour, name in ((appearance.INK, "ink"), (appearance.GRID, "grid"), (appearance.PAPER, "paper")):
        element = element.replace(colour, f"var(--{name})")
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", element)
    return element.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1).rstrip()
