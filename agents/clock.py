"""The clock of training, which stands still during evaluation, and the signals that end a run early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from agents.errors import Interrupted


class Clock:
    """Seconds of training.

    Args:
        seconds: What earlier parts of the run took.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds that the clock has run."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run in here."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._before, self._since = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still in here."""
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class Signals:
    """SIGINT and SIGTERM as a wish to stop: training ends after the step, an evaluation at once. A second one kills."""

    def __init__(self) -> None:
        self.stop = False
        self._at_once = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch them in here. Other threads than the main one get no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        if self._at_once:
            raise Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Interrupted` in here as soon as one comes: nothing is under way that must be finished."""
        if self.stop:
            raise Interrupted
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
