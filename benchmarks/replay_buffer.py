"""`DiscreteReplayBuffer` beside Stable-Baselines3's buffers: memory of a million transitions, times to add and sample.

    python benchmarks/replay_buffer.py                # 1 minute on one core
    python benchmarks/replay_buffer.py --repeats 5    # a quick look

Memory is what Python's and NumPy's allocators report (`tracemalloc`) after a smaller buffer was filled twice over with
episodes of the task's length, scaled to a million transitions. Stable-Baselines3's buffer is measured with the actions
that an algorithm for continuous actions sees (`OneHotBox`), with the environment's integers, and with these and
`optimize_memory_usage`, where it keeps observations once but cannot bootstrap where a time limit ends an episode.
Times are CPU seconds in one thread, the buffers in turns; a ratio is the interquartile mean over the turns with its
95 % interval. Several steps are sampled from `NStepReplayBuffer`. Writes `benchmarks/results/replay_buffer.json` and
prints two tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from agents.compare.statistics import CONFIDENCE, aggregates
from agents.machine import load_average, machine
from agents.result import versions
from gumbel_rl.actions import ActionFactors
from gumbel_rl.sb3.replay import DiscreteReplayBuffer
from gumbel_rl.wrappers import OneHotBox

RESULT = Path(__file__).resolve().parent / "results" / "replay_buffer.json"
MILLION = 1_000_000
BATCH = 256
STEPS = 3  # of the returns of several steps
ENVIRONMENTS = (1, 8)
GAMMA = 0.99


@dataclass(frozen=True)
class Task:
    """What an environment shows and takes, and how it is measured.

    Attributes:
        observation: Observation space.
        action: Action space.
        episode: Steps of an episode.
        capacity: Transitions of the buffers that are measured.
        adds: Calls of `add` a turn.
        samples: Calls of `sample` a turn.
    """

    observation: spaces.Space[Any]
    action: spaces.Space[Any]
    episode: int
    capacity: int
    adds: int
    samples: int


TASKS = {
    "CartPole": Task(spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2), 200, 50_000, 500, 100),
    "HalfCheetah, 6 factors of 5": Task(
        spaces.Box(-np.inf, np.inf, (17,), np.float64), spaces.MultiDiscrete([5] * 6), 1000, 50_000, 500, 100
    ),
    "4 x 84 x 84 images, 32 factors of 10": Task(
        spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.MultiDiscrete([10] * 32), 500, 4_000, 100, 10
    ),
}
OURS = "DiscreteReplayBuffer"
STOCK = {
    "SB3, one-hot actions": (True, {}),
    "SB3, integer actions": (False, {}),
    "SB3, observations once": (False, {"optimize_memory_usage": True, "handle_timeout_termination": False}),
}


def make(task: Task, kind: str, n_envs: int = 1, n_steps: int = 1) -> tuple[ReplayBuffer, Any]:
    """A buffer, and an action of each environment as it takes it."""
    action = np.stack([task.action.sample() for _ in range(n_envs)])
    several = {"n_steps": n_steps, "gamma": GAMMA}
    if kind == OURS:
        ours = DiscreteReplayBuffer(task.capacity, task.observation, task.action, "cpu", n_envs, seed=0, **several)
        return ours, action
    one_hot, options = STOCK[kind]
    space: spaces.Space[Any] = task.action
    if one_hot:
        space = OneHotBox(ActionFactors.from_space(task.action))
        action = np.stack([space.sample() for _ in range(n_envs)])
    if n_steps == 1:
        return ReplayBuffer(task.capacity, task.observation, space, "cpu", n_envs, **options), action
    return NStepReplayBuffer(task.capacity, task.observation, space, "cpu", n_envs, **options, **several), action


class Feed:
    """Adds transitions to a buffer, which go on from one another and end with each episode, truncated."""

    def __init__(self, task: Task, buffer: ReplayBuffer, action: Any) -> None:
        self.task, self.buffer, self.action = task, buffer, action
        n_envs = buffer.n_envs
        generator = np.random.default_rng(0)
        shape, dtype = task.observation.shape, task.observation.dtype
        # A few observations over and over: drawing them would take longer than adding them.
        self.observations = [(255 * generator.random((n_envs, *shape))).astype(dtype) for _ in range(11)]
        self.rewards = np.ones(n_envs, np.float32)
        self.going, self.over = ([{}] * n_envs, [{"TimeLimit.truncated": True}] * n_envs)
        self.ends = np.arange(n_envs) * task.episode // n_envs
        self.time = 0

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            now, following = self.observations[self.time % 11], self.observations[(self.time + 1) % 11]
            done = self.ends == self.time % self.task.episode
            # After an end another episode begins with another observation.
            self.time += 2 if done.any() else 1
            infos = self.over if done.any() else self.going
            self.buffer.add(now, following, self.action, self.rewards, done, infos)

    def fill(self) -> None:
        """To its capacity, twice over."""
        self(2 * self.buffer.buffer_size + 3)


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Bytes that have been allocated inside."""
    gc.collect()
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()


def memory(task: Task) -> dict[str, float]:
    """Bytes a transition of each buffer."""
    found = {}
    for kind in (OURS, *STOCK):
        buffer, action = make(task, kind)
        feed = Feed(task, buffer, action)
        del buffer, feed.buffer
        with traced() as allocated:
            feed.buffer, _ = make(task, kind)
            feed.fill()
            gc.collect()
            found[kind] = round(allocated() / task.capacity, 1)
    return found


def in_turns(calls: dict[str, Callable[[], object]], repeats: int, count: int) -> dict[str, Any]:
    """Medians in microseconds a call, and how many times as long as ours the others take."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            for _ in range(count):
                calls[name]()
            if turn:  # the first is to warm up
                times[name].append((time.process_time() - start) / count)
    ours = np.asarray(times[OURS])
    ratios = {name: aggregates({"": [np.asarray(times[name]) / ours]}, ("iqm",))[""]["iqm"] for name in calls}
    return {
        "microseconds": {name: float(f"{1e6 * np.median(values):.4g}") for name, values in times.items()},
        "over_ours": {name: [float(f"{x:.4g}") for x in ratio] for name, ratio in ratios.items() if name != OURS},
    }


def speed(task: Task, repeats: int) -> dict[str, Any]:
    """Times of adding with one and several environments, and of sampling one and several steps."""
    found = {}
    for n_envs in ENVIRONMENTS:
        feeds = {kind: Feed(task, *make(task, kind, n_envs)) for kind in (OURS, *STOCK)}
        for feed in feeds.values():
            feed.fill()
        steps = {name: lambda feed=feed: feed(task.adds) for name, feed in feeds.items()}
        added = in_turns(steps, repeats, 1)
        added["microseconds"] = {k: float(f"{v / task.adds:.4g}") for k, v in added["microseconds"].items()}
        found[f"add, {n_envs} environment{'s'[: n_envs - 1]}"] = added
        if n_envs == 1:
            draws = {name: lambda feed=feed: feed.buffer.sample(BATCH) for name, feed in feeds.items()}
            found[f"sample {BATCH}"] = in_turns(draws, repeats, task.samples)
    # The last of SB3's has no returns of several steps.
    feeds = {kind: Feed(task, *make(task, kind, n_steps=STEPS)) for kind in (OURS, *list(STOCK)[:2])}
    for feed in feeds.values():
        feed.fill()
    draws = {name: lambda feed=feed: feed.buffer.sample(BATCH) for name, feed in feeds.items()}
    found[f"sample {BATCH}, {STEPS} steps"] = in_turns(draws, repeats, task.samples)
    return found


def tables(result: dict[str, Any]) -> list[Table]:
    first = Table("", OURS, *STOCK, title="GB for a million transitions")
    for name, row in result["bytes_a_transition"].items():
        first.add_row(name, *(f"{value * MILLION / 1e9:.3f}" for value in row.values()))
    second = Table("", "", f"{OURS}, μs", *(f"{kind}: times as long" for kind in STOCK), title="Time")
    for name, rows in result["speed"].items():
        for number, (what, row) in enumerate(rows.items()):
            ratios = (row["over_ours"].get(kind) for kind in STOCK)
            shown = (f"{r[0]:.2f} [{r[1]:.2f}, {r[2]:.2f}]" if r else "-" for r in ratios)
            second.add_row("" if number else name, what, f"{row['microseconds'][OURS]:.4g}", *shown)
    return [first, second]


def written(result: dict[str, Any]) -> str:
    """JSON, a line for each measurement."""
    lines = []
    for key, value in result.items():
        if key == "speed":
            tasks = (
                f"  {json.dumps(task)}: {{\n"
                + ",\n".join(f"    {json.dumps(what)}: {json.dumps(row)}" for what, row in rows.items())
                + "\n  }"
                for task, rows in value.items()
            )
            lines.append(f"{json.dumps(key)}: {{\n" + ",\n".join(tasks) + "\n}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{" + ",\n".join(lines) + "}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="turns of the timing (20)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file to write")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats: at least 1")
    start = time.perf_counter()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "confidence": CONFIDENCE,
        "versions": versions(),
        "machine": machine() | {"load": load_average()},
        "bytes_a_transition": {name: memory(task) for name, task in track(TASKS.items(), description="memory")},
        "speed": {name: speed(task, args.repeats) for name, task in track(TASKS.items(), description="speed")},
    }
    result["seconds"] = round(time.perf_counter() - start)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(written(result), encoding="utf-8")
    console = Console()
    for table in tables(result):
        console.print(table)
    console.print(f"{result['seconds']} s; written to {args.out}")


if __name__ == "__main__":
    main()
