"""The signals that end a run early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

from agents.errors import Interrupted


class Signals:
    """SIGINT and SIGTERM as a wish to stop: training ends after the step, an evaluation at once. A second one kills."""

    # Set between a SIGTERM and the end of `terminating`. Python swallows an exception that is raised in a destructor or
    # in the callback of a weak reference, where a signal may well find the process: a run that begins then must know.
    terminated: ClassVar[bool] = False

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
        self.stop = self.stop or Signals.terminated
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


@contextmanager
def terminating() -> Iterator[None]:
    """Raise `Interrupted` in here when SIGTERM comes, as SIGINT raises KeyboardInterrupt."""

    def handle(number: int, frame: FrameType | None) -> None:
        Signals.terminated = True
        raise Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        Signals.terminated = False


@contextmanager
def ignored_by_children() -> Iterator[None]:
    """Processes started in here ignore SIGINT, which a terminal sends to all: this one stops them when it is ready."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
