"""What the laboratory's commands share: typed options, a bar, and one line with status 2 for a mistake.

`agents.command_line` is the same for the workbench, whose help and mistakes must not wait for torch, which every module
of the library imports; and the library must not import the workbench. So neither can use the other.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import torch

try:
    import tyro
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError as missing:
    sys.stderr.write(f'error: the laboratory\'s commands need {missing.name}: pip install "gumbel-rl[lab]"\n')
    sys.exit(2)

__all__ = ["Console", "Told", "fail", "one_thread", "parse", "progress", "tyro"]

Options = TypeVar("Options")
Told = Callable[[str, float], object]


def parse(options: type[Options], argv: Sequence[str] | None, *, prog: str, description: str) -> Options:
    """Options from the command line.

    Raises:
        ValueError: They are not understood.
        SystemExit: Help was asked for and given.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                options, prog=prog, description=description, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as end:
        if not end.code:
            raise
        # tyro draws a box: its first paragraph says what is wrong, up to a rule or its end.
        words = []
        for line in said.getvalue().splitlines()[1:]:
            plain = re.sub("\x1b\\[[0-9;]*m", "", line).strip("│ ")
            if not plain.strip("─╰╯"):
                break
            words.append(plain)
        raise ValueError(
            " ".join(words).removeprefix("Error parsing ") or "the options are not understood; --help lists them"
        ) from None


def fail(error: Exception) -> NoReturn:
    """End with one line and status 2."""
    Console(stderr=True, soft_wrap=True).print(f"error: {' '.join(str(error).split())}", markup=False, highlight=False)
    sys.exit(2)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes in one thread.

    The tensors are small: a second thread saves little, and where other work has the cores all threads wait for each
    other at every operation, for minutes. It would also be counted as processor time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def progress(shown: bool) -> Iterator[Told]:
    """A bar on standard error, where there is a terminal; yields what is to be told of shares done."""
    console = Console(stderr=True)
    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, advance=share, description=what)
