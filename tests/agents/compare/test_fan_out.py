"""Every item arrives exactly once, whatever fails or dies, and no process stays behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from agents.compare.fan_out import LOOK_SECONDS, fan_out
from agents.errors import Interrupted


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def test_results_come_from_few_processes_each_item_once_and_started_in_order():
    started: list[int] = []
    results = list(fan_out(square, range(12), jobs=2, started=started.append))
    assert sorted(done.item for done in results) == list(range(12))
    assert all(done.error is None and done.value[0] == done.item**2 for done in results)
    processes = {done.value[1] for done in results}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    assert started == list(range(12))
    assert not any(alive(process) for process in processes)


def test_no_items():
    assert list(fan_out(square, [], jobs=2)) == []


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_results_come_as_they_finish():
    # The long one occupies a process; the others pass it by, all of them through the other process.
    order = [done.item for done in fan_out(sleep, [3.0, 0.01, 0.02, 0.03, 0.04], jobs=2)]
    assert order == [0.01, 0.02, 0.03, 0.04, 3.0]


def threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    assert [done.value for done in fan_out(threads, [0], jobs=3)] == ["2"]
    assert [done.value for done in fan_out(threads, [0], jobs=20)] == ["1"]


class Awkward(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}\n  {second}")


class NotSent:
    def __reduce__(self) -> str:
        raise pickle.PicklingError("this cannot be sent")


def fail(how: str) -> object:
    if how == "awkward":
        raise Awkward("two", "lines")
    if how == "exit":
        raise SystemExit(3)
    return NotSent() if how == "pickle" else how


def test_an_error_is_the_items_own_in_one_line():
    errors = {done.item: done.error for done in fan_out(fail, ["awkward", "exit", "pickle", "fine"], jobs=1)}
    assert errors.pop("fine") is None
    assert errors["awkward"] == "Awkward: two lines"
    assert errors["exit"] == "SystemExit: 3"
    assert "PicklingError" in errors["pickle"]
    assert all("\n" not in error for error in errors.values())


def die_or_count(item: tuple[str, Path]) -> int:
    """Die always, die the first time, or do not; how often was it tried?"""
    name, directory = item
    with open(directory / name, "a") as log:
        log.write("x")
    tries = (directory / name).stat().st_size
    if name.startswith("segfault") or (name.startswith("once") and tries == 1):
        os.kill(os.getpid(), signal.SIGSEGV if name.startswith("segfault") else signal.SIGKILL)
    if name.startswith("exit"):
        os._exit(7)
    if name.startswith("told") and tries == 1:
        raise Interrupted
    if name.startswith("always told"):
        raise Interrupted
    time.sleep(0.1)
    return tries


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_harms_only_its_own_item(tmp_path, jobs):
    names = ["good-1", "segfault", "good-2", "once", "exit", "told to end", "always told", "good-3"]
    results = list(fan_out(die_or_count, [(name, tmp_path) for name in names], jobs=jobs))
    assert sorted(done.item[0] for done in results) == sorted(names)
    found = {done.item[0]: done for done in results}
    # Those beside the dead ones were not even disturbed.
    assert [found[f"good-{i}"].value for i in (1, 2, 3)] == [1, 1, 1]
    assert found["once"].value == 2
    assert found["told to end"].value == 2
    assert found["always told"].error == "its process died 2 times, the last time of SIGTERM(-15)"
    assert found["segfault"].error == "its process died 2 times, the last time of SIGSEGV(-11)"
    assert found["exit"].error == "its process died 2 times, the last time of EXIT(7)"
    assert (tmp_path / "segfault").stat().st_size == 2


def alive(process: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(processes: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(alive(process) for process in processes):
        assert time.monotonic() < end, f"still there after {seconds} seconds: {processes}"
        time.sleep(0.05)


def wait_for_processes(directory: Path, number: int) -> list[int]:
    """The ids of the processes of `linger`, once all are busy."""
    end = time.monotonic() + 20.0
    while len(found := sorted(directory.glob("[0-9]*"))) < number:
        assert time.monotonic() < end, "the workers did not start"
        time.sleep(0.05)
    return [int(path.name) for path in found]


def linger(directory: Path) -> None:
    """Leave a process of its own behind, and its id and this process's in the directory; then be busy for a minute."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    (directory / str(child.pid)).touch()
    (directory / str(os.getpid())).touch()
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        pass


def quick_or_linger(directory: Path | None) -> None:
    if directory is not None:
        linger(directory)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
def test_closing_ends_busy_workers_at_once(tmp_path):
    with closing(fan_out(quick_or_linger, [tmp_path, None], jobs=2)) as results:
        assert next(results).item is None
        processes = wait_for_processes(tmp_path, 2)
        begin = time.monotonic()
    assert not any(alive(process) for process in processes)
    assert time.monotonic() - begin < LOOK_SECONDS / 2


DRIVER = """
import signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from contextlib import closing
from agents.compare.fan_out import fan_out
from agents.errors import Interrupted
from agents.signals import terminating
from test_fan_out import linger
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with terminating(), closing(fan_out(linger, [Path({directory!r})] * 2, jobs=2)) as results:
        list(results)
except (Interrupted, KeyboardInterrupt):
    print("interrupted")
"""


# The threads of loky's queues give their semaphores back slowly, and are at it when the interpreter ends.
SLOW_FEEDERS = """
import importlib, threading, time
synchronize = importlib.import_module("joblib.externals.loky.backend.synchronize")
queues = importlib.import_module("joblib.externals.loky.backend.queues")
def unlink(name, unlink=synchronize.sem_unlink):
    unlink(name)
    if threading.current_thread().name == "QueueFeederThread":
        time.sleep(1.0)
def feed(*args, feed=queues.Queue._feed):
    feed(*args)
    time.sleep(0.2)
synchronize.sem_unlink = unlink
queues.Queue._feed = staticmethod(feed)
"""


def start_driver(directory, before="", after=""):
    """The driver in a process and a session of its own, with code around it."""
    script = directory / "driver.py"
    driver = DRIVER.format(tests=str(Path(__file__).parent), directory=str(directory))
    script.write_text(before + driver + after)
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


@needs_proc
def test_no_semaphore_is_left_behind(tmp_path):
    driver = start_driver(tmp_path, before=SLOW_FEEDERS, after="time.sleep(0.4)\n")
    try:
        wait_for_processes(tmp_path, 4)
        driver.send_signal(signal.SIGTERM)
        out, err = driver.communicate(timeout=30.0)
    finally:
        driver.kill()
    assert (driver.returncode, out, err) == (0, "interrupted\n", "")


@needs_proc
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_command(tmp_path, by):
    driver = start_driver(tmp_path)
    try:
        processes = wait_for_processes(tmp_path, 4)
        if by == signal.SIGINT:
            os.killpg(driver.pid, by)  # as a terminal does: to all of them
        else:
            driver.send_signal(by)  # to the command alone
        wait_until_gone(processes, seconds=20.0)
        out, err = driver.communicate(timeout=30.0)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    if by != signal.SIGKILL:
        assert (driver.returncode, out, err) == (0, "interrupted\n", "")
