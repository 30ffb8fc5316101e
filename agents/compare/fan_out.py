"""Many items at once, on this machine's cores or on a Ray cluster, whatever dies on the way."""

from __future__ import annotations

import os
import re
import signal
import textwrap
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import joblib
from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from agents.errors import Interrupted
from agents.processes import end_with_parent, shared_cores
from agents.signals import ignored_by_children

Item = TypeVar("Item")
Value = TypeVar("Value")
Call = Callable[[Any], "Answer"]

# How soon a command notices that its cluster has grown.
LOOK_SECONDS = 10.0
# How often to try an item whose process dies under it: in a crash, of want of memory, with the machine.
ATTEMPTS = 2
# How long to wait for a thread that has nothing left to do.
FEEDER_SECONDS = 5.0
# Letters: some errors print whole tensors.
LONGEST_ERROR = 300


@dataclass(frozen=True)
class Finished(Generic[Item, Value]):
    """What became of an item."""

    item: Item
    value: Value | None
    """What the function returned."""
    error: str | None
    """In one line, why there is no value."""


@dataclass(frozen=True)
class Answer:
    """What a worker sends back. An error goes as text: some exceptions do not survive pickling."""

    value: Any = None
    error: str | None = None


class Workplace(Protocol):
    """Where items are worked on."""

    def size(self) -> int:
        """How many items can be under way at a time."""

    def submit(self, call: Call, item: Any) -> Future[Answer]:
        """Start on an item."""

    def death(self, error: BaseException) -> str | None:
        """Of what the worker died, if that is why an item failed with `error`."""

    def stop(self) -> None:
        """End the workers, busy or not."""


def fan_out(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    *,
    jobs: int | None = None,
    cluster: str | None = None,
    started: Callable[[Item], None] | None = None,
) -> Generator[Finished[Item, Value], None, None]:
    """Apply a function to every item, several at a time, each in a process of its own that is used again for the next.

    An item that fails harms no other. One whose process dies, or is told to end (`Interrupted`), is tried again.

    Args:
        function: Pickled by its name: workers import its module.
        items: Started in this order.
        jobs: How many at a time; as many as there are cores if omitted.
        cluster: `HOST:PORT` of a running Ray cluster, or `auto` for the one on this machine, which is to do the work.
            This project's code is sent there.
        started: Called with each item as it is started, again if it is tried again.

    Returns:
        What became of each item, in the order in which they finish. Close it to stop early (`contextlib.closing`), and
        all workers end.

    Raises:
        UserError: The cluster cannot be used. At the call, before any item is started.
    """
    workplace: Workplace
    if cluster is None:
        workplace = Processes(jobs or joblib.cpu_count())
    else:
        from agents.compare.cluster import Cluster

        workplace = Cluster(cluster, jobs)
    return _work(workplace, partial(answer, function), items, started)


def answer(function: Callable[[Item], Value], item: Item) -> Answer:
    """Call the function, in a worker."""
    try:
        return Answer(function(item))
    except Interrupted:
        # A signal told this process to end, and the function cleaned up first. It says nothing about the item.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    except BaseException as error:  # also SystemExit, which would otherwise pass for a crash
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        return Answer(error=textwrap.shorten(told, LONGEST_ERROR, placeholder=" …"))


def _work(
    workplace: Workplace, call: Call, items: Sequence[Item], started: Callable[[Item], None] | None
) -> Generator[Finished[Item, Any], None, None]:
    waiting = deque((item, 1) for item in items)
    busy: dict[Future[Answer], tuple[Item, int]] = {}
    finished: list[Finished[Item, Any]] = []
    try:
        while waiting or busy or finished:
            while waiting and len(busy) < workplace.size():
                item, attempt = waiting.popleft()
                if started is not None:
                    started(item)
                busy[workplace.submit(call, item)] = item, attempt
            # Only now, so that no worker idles while the caller looks at a result.
            yield from finished
            finished = []
            done = wait(busy, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED).done if busy else set()
            for future in done:
                item, attempt = busy.pop(future)
                failure = future.exception()
                death = None if failure is None else workplace.death(failure)
                if death is not None and attempt < ATTEMPTS:
                    waiting.append((item, attempt + 1))
                    continue
                if failure is None:
                    value, error = future.result().value, future.result().error
                elif death is not None:
                    value, error = None, f"its process died {attempt} times, the last time of {death}"
                else:
                    value, error = None, _last_line(failure)
                finished.append(Finished(item, value, error))
    finally:
        workplace.stop()


def _last_line(error: BaseException) -> str:
    """Why no answer came: something could not be pickled or imported. The line is the last of a remote traceback."""
    lines = str(error.__cause__ or error).strip(" \n'\"").splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}"


class Processes:
    """Processes on this machine.

    Each has an executor of its own: in a shared one, the death of a process takes with it all that the others have
    under way, and leaves open which item it was.

    Args:
        jobs: The most processes.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._env = shared_cores(jobs, joblib.cpu_count())
        self._last: dict[ProcessPoolExecutor, Future[Answer]] = {}
        # Loky replaces a process that has grown between two items. That is welcome, and nothing to tell the user.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)

    def size(self) -> int:
        """As many as there are to be processes."""
        return self._jobs

    def submit(self, call: Call, item: Any) -> Future[Answer]:
        """Start on an item, in a process that is free or in a new one."""
        with ignored_by_children():
            for executor, last in list(self._last.items()):
                if last.done():
                    try:
                        self._last[executor] = executor.submit(call, item)
                    except BrokenProcessPool:
                        del self._last[executor]
                    else:
                        return self._last[executor]
            executor = ProcessPoolExecutor(1, initializer=end_with_parent, initargs=(os.getpid(),), env=self._env)
            self._last[executor] = executor.submit(call, item)
            return self._last[executor]

    def death(self, error: BaseException) -> str | None:
        """The signal or exit code with which the process ended."""
        if not isinstance(error, TerminatedWorkerError):
            return None
        code = re.search(r"\{(.+)\}", str(error))
        return code[1] if code else "unknown cause"

    def stop(self) -> None:
        """Kill them, with all processes that they started."""
        feeders = [thread for thread in threading.enumerate() if thread.name == "QueueFeederThread"]
        for executor in self._last:
            executor.shutdown(kill_workers=True)
        # Loky does not wait for the threads of its queues. Whoever exits while one of them gives its semaphores back is
        # told of a leak.
        for thread in feeders:
            thread.join(timeout=FEEDER_SECONDS)
