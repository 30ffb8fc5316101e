"""Puts an environment's block into an agent's configuration file, leaving all else there as it is, to the byte."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from agents.config import read_mapping, resolve
from agents.errors import UserError
from agents.run_directory import write_atomically

# How the comments begin that say where a block comes from; a new block drops those of an old one.
MARK = "# Tuned"


def block_name(env: str, blocks: Mapping[str, Any]) -> str:
    """Under which name an environment's block stands, or is to stand, in a file."""
    bare = env.rpartition(":")[2]
    return env if env in blocks else bare


def render(name: str, values: Mapping[str, Any], comments: Sequence[str]) -> str:
    """A block as text."""
    lines = [f"  {comment}" for comment in comments]
    lines += [f"  {line}" for key, value in values.items() for line in _entry(key, value)]
    return "\n".join([f"{name}:", *lines]) + "\n"


def _entry(key: str, value: Any) -> list[str]:
    # Lists in one line, as people write them; mappings under one another.
    flow = None if isinstance(value, list) else False
    return yaml.safe_dump({key: value}, default_flow_style=flow, width=1000, allow_unicode=True).splitlines()


def updated(text: str, env: str, values: Mapping[str, Any], comments: Sequence[str]) -> str:
    """A configuration file's text with values put into an environment's block.

    The block's other keys and comments stay, and so do blocks that were aliases of this one: they keep its old values.

    Args:
        text: The file.
        env: The environment; its block is added if there is none.
        values: Keys and values that the block is to have.
        comments: Put first in the block.

    Raises:
        UserError: The file is written in a way that cannot be edited like this.
    """
    before = yaml.safe_load(text) or {}
    name = block_name(env, before)
    expected = {**before, name: {**(before.get(name) or {}), **values}}
    lines = text.splitlines()
    first = _header(lines, name)
    if first is None:
        lines += ["", *render(name, values, comments).splitlines()]
    else:
        _edit(lines, first, expected[name], values, comments)
    result = "\n".join(lines) + "\n"
    try:
        same = yaml.safe_load(result) == expected
    except yaml.YAMLError:
        same = False
    if not same:
        raise UserError(f"the block {name} is written in a way that cannot be edited: put the new one there by hand")
    return result


def _edit(
    lines: list[str], first: int, block: Mapping[str, Any], values: Mapping[str, Any], comments: Sequence[str]
) -> None:
    """Edit the block whose header is the line `first`."""
    last = _end(lines, first)
    label, rest = lines[first], ""
    header = re.match(r"([^#]*?:)\s+([^#\s].*)", lines[first])
    if header:
        label, rest = header.groups()
    body = lines[first + 1 : last]
    alias, anchor = re.match(r"\*(\S+)\s*(#.*)?$", rest), re.match(r"&(\S+)\s*(#.*)?$", rest)
    beside = alias or anchor
    if beside and beside[2]:
        label = f"{label} {beside[2]}"
    if alias:
        # The values are those of another block, which stays as it is.
        origin = next(number for number, line in enumerate(lines) if re.search(rf"&{re.escape(alias[1])}(\s|$)", line))
        body = lines[origin + 1 : _end(lines, origin)]
    elif anchor:
        _hand_on(lines, anchor[1], body)
    if not body or (rest and not beside):
        # It was null or in braces.
        body = [f"  {line}" for key, value in block.items() for line in _entry(key, value)]
    body = [line for line in body if not line.strip().startswith(MARK)]
    for key, value in values.items():
        body = _with(body, key, value)
    # Aliases stand below what they name: handing on has moved no line of this block.
    lines[first:last] = [label, *(f"  {comment}" for comment in comments), *body]


def _header(lines: Sequence[str], name: str) -> int | None:
    pattern = re.compile(rf"(['\"]?){re.escape(name)}\1\s*:(\s|$)")
    return next((number for number, line in enumerate(lines) if pattern.match(line)), None)


def _end(lines: Sequence[str], first: int) -> int:
    """The line after the block's last, comments and blank lines that follow it not included."""
    last = first + 1
    for number in range(first + 1, len(lines)):
        line = lines[number]
        if line[:1] not in ("", " ", "#"):
            break
        if line.startswith(" ") and line.strip():
            last = number + 1
    return last


def _hand_on(lines: list[str], anchor: str, body: Sequence[str]) -> None:
    """Give an anchor and its block to the first alias."""
    pattern = re.compile(rf"(\S[^#]*?:)\s*\*{re.escape(anchor)}(\s*(?:#.*)?)$")
    for number, line in enumerate(lines):
        match = pattern.match(line)
        if match:
            others = any(re.search(rf"\*{re.escape(anchor)}(\s|$)", later) for later in lines[number + 1 :])
            label = f" &{anchor}" if others else ""
            lines[number : number + 1] = [f"{match[1]}{label}{match[2]}".rstrip(), *body]
            return


def _with(body: Sequence[str], key: str, value: Any) -> list[str]:
    """The block's lines with a key set, in its place if it has one; a comment beside it stays."""
    indent = next((line[: len(line) - len(line.lstrip())] for line in body if line.strip()), "  ")
    entry = [f"{indent}{line}" for line in _entry(key, value)]
    for number, line in enumerate(body):
        if re.match(rf"{indent}(['\"]?){re.escape(key)}\1\s*:(\s|$)", line):
            after = number + 1
            while after < len(body) and body[after].startswith(f"{indent} "):
                after += 1
            comment = re.search(r"\s+#.*$", line)
            if comment and len(entry) == 1:
                entry = [entry[0] + comment[0]]
            return [*body[:number], *entry, *body[after:]]
    return [*body, *entry]


def missing(text: str, agent: str, env: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Keys whose value a configuration file does not give an environment, with the wanted values."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / f"{agent}.yaml").write_text(text, encoding="utf-8")
        given = resolve({"agent": agent, "env": env}, configs=Path(directory)).to_mapping()
    return {key: value for key, value in wanted.items() if given.get(key) != value}


def write(path: Path, env: str, values: Mapping[str, Any], comments: Sequence[str]) -> None:
    """Put values into an environment's block of a file, which is made if there is none.

    Raises:
        UserError: The file cannot be read, edited or written.
    """
    if path.exists():
        read_mapping(path)
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        result = updated(text, env, values, comments)
        write_atomically(path, lambda provisional: provisional.write_text(result, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
