"""A real Ray cluster of three nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import agents
from agents.compare.cluster import check_modules
from agents.compare.fan_out import fan_out
from agents.errors import Interrupted, UserError

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow

# Workers cannot import this module: its functions are sent by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    from ray.cluster_utils import Cluster

    # Not pytest's own directory: the paths of Ray's sockets must stay short.
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_TMPDIR", directory)
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = set(psutil.Process().children(recursive=True))
    cluster = Cluster()
    try:
        node = {"num_cpus": 1, "object_store_memory": 80_000_000, "node_ip_address": "127.0.0.2"}
        cluster.add_node(**node, include_dashboard=False)
        for _ in range(2):
            cluster.add_node(**node)
        cluster.wait_for_nodes(timeout=30.0)
        yield cluster
    finally:
        ray.shutdown()
        started = [each for each in psutil.Process().children(recursive=True) if each not in before]
        cluster.shutdown()
        for process in psutil.wait_procs(started, timeout=5.0)[1]:
            process.kill()
        environment.undo()
        shutil.rmtree(directory, ignore_errors=True)


def report(item: tuple[int, str]) -> dict[str, object]:
    """Note where this is worked on, and look around."""
    number, directory = item
    Path(directory, f"{number}.{os.getpid()}.{os.getppid()}").touch()
    time.sleep(1.0)
    import agents
    import envs
    import gumbel_rl

    modules = [str(module.__file__) for module in (agents, envs, gumbel_rl)]
    return {"number": number, "pid": os.getpid(), "modules": modules, "sent": sorted(os.listdir(os.getcwd()))}


def kill_worker_of(directory: Path, raylet: int, after: int) -> list[int]:
    """Kill a node while its worker is busy and after others have finished items; the ids of the processes killed."""
    end = time.monotonic() + 120.0
    while time.monotonic() < end:
        starts = [path.name.split(".") for path in directory.iterdir()]
        mine = [path for path in directory.iterdir() if path.name.endswith(f".{raylet}")]
        if len(starts) >= after and mine and time.time() - max(path.stat().st_mtime for path in mine) < 0.5:
            victims = [psutil.Process(raylet), *psutil.Process(raylet).children(recursive=True)]
            for victim in victims:
                victim.kill()
            return [victim.pid for victim in victims]
        time.sleep(0.02)
    return []


def test_a_node_that_dies_loses_nothing_and_the_code_is_what_was_sent(cluster, tmp_path, capfd):
    raylet = cluster.list_all_nodes()[-1].all_processes["raylet"][0].process.pid
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.extend(kill_worker_of(tmp_path, raylet, after=6)))
    killer.start()
    items = [(number, str(tmp_path)) for number in range(18)]
    results = list(fan_out(report, items, cluster=cluster.address))
    killer.join()

    assert raylet in killed
    starts = [path.name.split(".") for path in tmp_path.iterdir()]
    lost = [number for number, pid, parent in starts if int(parent) == raylet]
    assert len(lost) >= 1
    # The one that was under way was started again, elsewhere.
    assert len(starts) == len(items) + 1
    assert sorted(done.item for done in results) == sorted(items)
    assert [done.error for done in results] == [None] * len(items)
    # Not more processes than CPUs: each was used again.
    assert len({done.value["pid"] for done in results}) == 3

    here = str(Path(agents.__file__).parents[1])
    for done in results:
        assert all(not module.startswith(here) for module in done.value["modules"]), done.value
        assert done.value["sent"] == ["agents", "configs", "envs", "gumbel_rl"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def fail(how: str) -> str:
    if how == "raise":
        raise ValueError("two\nlines")
    if how == "die":
        os._exit(1)
    if how == "told to end":
        raise Interrupted
    return how


def test_errors_and_deaths_are_the_items_own(cluster):
    items = ["raise", "die", "told to end", "fine"]
    errors = {done.item: done.error for done in fan_out(fail, items, cluster=cluster.address)}
    assert errors == {
        "raise": "ValueError: two lines",
        "die": "its process died 2 times, the last time of WorkerCrashedError",
        "told to end": "its process died 2 times, the last time of WorkerCrashedError",
        "fine": None,
    }


def spin(directory: str) -> None:
    Path(directory, str(os.getpid())).touch()
    while directory:
        time.sleep(0.01)


def test_closing_stops_the_workers_and_leaves_the_cluster(cluster, tmp_path):
    with closing(fan_out(spin, ["", *[str(tmp_path)] * 2], cluster=cluster.address, jobs=2)) as results:
        assert next(results).item == ""
        end = time.monotonic() + 60.0
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < end
            time.sleep(0.05)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    end = time.monotonic() + 60.0
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < end, "a worker goes on"
        time.sleep(0.05)
    assert [done.value for done in fan_out(fail, ["fine"], cluster=cluster.address)] == ["fine"]


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "127.0.0.1:99999", "closed", "other"])
def test_an_address_without_a_cluster_is_refused_soon_in_one_line(address):
    with socket.create_server(("127.0.0.1", 0)) as other:
        if address == "other":  # something listens there that is not Ray
            address = f"127.0.0.1:{other.getsockname()[1]}"
        elif address == "closed":
            with socket.create_server(("127.0.0.1", 0)) as closed:
                address = f"127.0.0.1:{closed.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(UserError, match=address):
            fan_out(fail, ["fine"], cluster=address)
        assert time.monotonic() - begin < 30.0


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'pip install "gumbel-rl\[cluster\]"'):
        fan_out(fail, ["fine"], cluster="auto")


def test_environments_of_the_users_own_modules_are_refused(tmp_path, monkeypatch):
    # Sent along, or installed as a package there as here.
    check_modules(
        ["CartPole-v1", "gumbel_rl/FactoredBandit-v0", "envs:X-v0", "envs.bandit:X-v0", "gymnasium.envs:X-v0"]
    )
    with pytest.raises(UserError, match=r"--cluster: my_games\.chess:Chess-v0 comes from a module of your own"):
        check_modules(["CartPole-v1", "my_games.chess:Chess-v0"])
