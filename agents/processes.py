"""What processes that work for a command have in common: they end with it, and share the cores."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# How soon a process notices that the command which started it is gone.
WATCH_SECONDS = 0.5

# Read when numerical libraries are loaded, so they must be set before a process starts.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def end_with_parent(parent: int, patience: float = 0.0) -> None:
    """Have this process end soon after its parent, which may be killed without a chance to end it.

    Args:
        parent: Process id, told by the parent: it may be gone before this process could ask.
        patience: Seconds in which SIGTERM, sent first, is to end it; 0 to end it at once.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        if patience:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(patience)
        os._exit(1)

    if os.name == "posix":  # elsewhere a dead parent stays the parent
        threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def shared_cores(processes: int, cores: int) -> dict[str, str]:
    """Environment variables with which each of so many processes uses its share of the cores, and no more."""
    return dict.fromkeys(THREAD_VARIABLES, str(max(1, cores // processes)))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes started in here have these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
