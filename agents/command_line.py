"""What the commands share: options from a typed dataclass, and one line and a status for whatever ends them early."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from agents.conversion import convert
from agents.errors import Interrupted, UserError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def option(hint: Any, metavar: str) -> PrimitiveConstructorSpec[Any]:
    """An option's value, converted and checked as in configuration files."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: convert(words[0], hint),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def path(metavar: str, absent: Path | None = None) -> PrimitiveConstructorSpec[Path]:
    """A path; if it may be left out after its option, `absent` is what that means."""
    return PrimitiveConstructorSpec(
        nargs=1 if absent is None else "*",
        metavar=metavar if absent is None else f"[{metavar}]",
        instance_from_str=lambda words: _only_path(words) if words else absent or Path(),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def _only_path(words: list[str]) -> Path:
    if len(words) > 1:
        raise ValueError(f"one path is enough, got {' '.join(words)}")
    return Path(words[0])


def hint(text: str) -> Any:
    """What the help says of an option's default."""
    return tyro.conf.arg(help_behavior_hint=text)


def parse(options: type[Options], argv: Sequence[str] | None, *, prog: str, description: str) -> Options:
    """Options from the command line.

    Raises:
        UserError: They are not understood.
        SystemExit: Help was asked for and given.
    """
    problems = io.StringIO()
    try:
        with contextlib.redirect_stderr(problems):
            parsed, unknown = tyro.cli(
                options,
                prog=prog,
                description=description,
                args=argv,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(_first_paragraph(problems.getvalue()).removeprefix("Error parsing ")) from None
    if unknown:
        names = [f"--{entry.name.replace('_', '-')}" for entry in fields(options)]
        word = unknown[0].partition("=")[0]
        raise UserError(f"there is no option {word!r}{did_you_mean(word, names)}; --help lists them")
    return parsed


def _first_paragraph(box: str) -> str:
    """The message of tyro's error box, without the box."""
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line).strip("│ ") for line in box.splitlines()[1:]]
    rule = next((number for number, line in enumerate(lines) if set(line) <= set("─╰╯")), len(lines))
    return " ".join(lines[:rule])


def run_command(main: Callable[[], None]) -> None:
    """Run a command: a user's mistake ends it with one line and status 2, an interruption with one line and 130."""
    # Started by its path, Python looks for modules beside the script, and not where the user is.
    sys.path.append(str(Path.cwd()))
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interruption:
        run_dir = interruption.run
        again = f"; go on with: python train_agent.py --resume {shlex.quote(str(run_dir))}" if run_dir else ""
        print(f"{interruption}{again}", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
