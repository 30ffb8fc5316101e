"""What ends a command: a user's mistake, or a signal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave. Shown as one line, exit status 2."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class Interrupted(Exception):
    """SIGINT or SIGTERM came. Shown as one line, exit status 130.

    Args:
        message: What was interrupted.
        run: The directory of the run, which can be resumed.
    """

    def __init__(self, message: str = "interrupted", run: Path | None = None) -> None:
        super().__init__(message)
        self.run = run


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` with the known word nearest to `word`, or nothing if none is near."""
    # Options are written with hyphens and keys with underscores: the difference is none.
    spelt = {name.lower().replace("_", "-"): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), spelt, n=1)
    return f" (did you mean {spelt[near[0]]!r}?)" if near else ""
