"""The processes of a Ray cluster as a place of work, with this project's code sent along."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agents.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
# All that workers need of the project; left behind are results, history, virtual environments, caches.
SHIPPED = ("agents", "configs", "envs", "gumbel_rl")
CONNECT_SECONDS = 4.0
HEALTH_SECONDS = 10.0


class Cluster:
    """A Ray cluster that is already running. None is ever started.

    Items are Ray tasks of one CPU each. Joblib's Ray backend will not do: it deals items out to its actors in turn,
    busy or not, gives no result before the last one, and ends the whole call with the first machine that is lost.

    Args:
        address: `HOST:PORT`, or `auto` for the cluster on this machine.
        jobs: The most items at a time; as many as the cluster has CPUs if omitted, at any time.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be used.
    """

    def __init__(self, address: str, jobs: int | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise UserError('--cluster needs Ray: pip install "gumbel-rl[cluster]"') from error
        _check(address)
        left = [f"/{path.name}" for path in PROJECT.iterdir() if path.name not in SHIPPED]
        try:
            ray.init(
                address=address,
                runtime_env={"working_dir": str(PROJECT), "excludes": [*left, "__pycache__"]},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the Ray cluster at {address} cannot be used: {reason}") from error
        # Deaths are told in each item's result; Ray would print pages about them, into the display of progress.
        vars(ray._private.worker)["_worker_logs_enabled"] = False
        self._ray: Any = ray
        self._jobs = jobs
        # Who hands out the items counts the attempts, so Ray is to make none of its own.
        self._task = ray.remote(num_cpus=1, max_retries=0)(call_with)
        self._busy: dict[Future[Any], Any] = {}

    def size(self) -> int:
        """As many as asked for, or as there are CPUs now: machines come and go."""
        return self._jobs or max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def submit(self, call: Callable[[Any], Any], item: Any) -> Future[Any]:
        """Hand an item to the cluster."""
        future: Future[Any]
        try:
            reference = self._task.remote(call, item)
        except Exception as error:  # it cannot be pickled
            future = Future()
            future.set_exception(error)
            return future
        future = reference.future()
        self._busy[future] = reference
        future.add_done_callback(lambda done: self._busy.pop(done, None))
        return future

    def death(self, error: BaseException) -> str | None:
        """Ray's name for what happened to the process, its machine, or its result on the way here."""
        errors = self._ray.exceptions
        lost = isinstance(error, errors.RayError) and not isinstance(
            error, (errors.RayTaskError, errors.RuntimeEnvSetupError)
        )
        return type(error).__name__ if lost else None

    def stop(self) -> None:
        """Stop what is under way and leave the cluster, which goes on."""
        for reference in list(self._busy.values()):
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def check_modules(environments: Iterable[str]) -> None:
    """Refuse environments, written `module:Id-v0`, of modules that the workers cannot have.

    Raises:
        UserError: A module is neither sent there nor part of an installed package.
    """
    for env in environments:
        module = env.rpartition(":")[0]
        top = module.partition(".")[0]
        if module and top not in SHIPPED and top not in importlib.metadata.packages_distributions():
            raise UserError(
                f"--cluster: {env} comes from a module of your own, and these are not sent there: make a package of "
                f"{top} and install it on every machine, this one included"
            )


def call_with(call: Callable[[Any], Any], item: Any) -> Any:
    """Call it: Ray wants a plain function."""
    return call(item)


def _check(address: str) -> None:
    """Make sure that a Ray cluster answers: where none does, Ray tries for two minutes and then ends the process.

    Raises:
        UserError: None does.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"--cluster {address}: give HOST:PORT of a Ray cluster, or auto for the one on this machine"
            )
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"no Ray cluster answers at {address}: {error}") from error
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=HEALTH_SECONDS)
    except subprocess.SubprocessError as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        raise UserError(f"no Ray cluster of Ray's version here answers {where}") from error
