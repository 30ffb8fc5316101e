"""What a comparison shows while it runs: a bar with the time left and a table of the returns so far."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from scipy.stats import trim_mean

from agents.compare.plan import Job

REFRESHES_PER_SECOND = 2
# Lines of a terminal that are no rows: the bar, the table's head, how many rows are left out, and one to spare.
OTHER_LINES = 4


class Row:
    """What is known of the runs of an agent on an environment."""

    def __init__(self) -> None:
        self.total = 0
        self.failed = 0
        self.returns: list[float] = []
        self.seconds: list[float] = []
        self.timesteps = 0
        self.running: set[int] = set()
        """Seeds: one whose process died is started once more."""

    @property
    def left(self) -> int:
        """Runs that did not come to an end yet."""
        return self.total - len(self.returns) - self.failed


class Display:
    """Lines, one a run: for where there is no terminal.

    Args:
        jobs: All runs of the comparison.
        console: Where to show it.
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.console = console
        self.began = time.perf_counter()
        self.rows: dict[tuple[str, str], Row] = {}
        for job in jobs:
            row = self.rows.setdefault((job.config.env, job.label), Row())
            row.total += 1
            row.timesteps = job.config.timesteps

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show progress in here."""
        self.began = time.perf_counter()
        yield

    def known(self, env: str, label: str, score: float) -> None:
        """A run was finished before."""
        self.rows[env, label].returns.append(score)

    def started(self, job: Job) -> None:
        """A run is under way."""
        self.rows[job.config.env, job.label].running.add(job.config.seed)

    def finished(self, job: Job, score: float, seconds: float) -> None:
        """A run is finished.

        Args:
            job: The run.
            score: Its return.
            seconds: Of training.
        """
        row = self.rows[job.config.env, job.label]
        row.running.discard(job.config.seed)
        row.returns.append(score)
        row.seconds.append(seconds)
        self.tell(f"{job}: return {score:.1f}, {seconds:.1f} s")

    def failed(self, job: Job, reason: str) -> None:
        """A run failed."""
        row = self.rows[job.config.env, job.label]
        row.running.discard(job.config.seed)
        row.failed += 1
        self.tell(f"{job} failed: {reason}")

    def tell(self, line: str) -> None:
        """Print a line, with how far the comparison is."""
        self.console.print(f"[{self.done}/{self.total}] {line}{self._left()}", markup=False, highlight=False)

    @property
    def done(self) -> int:
        """Runs that came to an end."""
        return sum(len(row.returns) + row.failed for row in self.rows.values())

    @property
    def total(self) -> int:
        """All runs."""
        return sum(row.total for row in self.rows.values())

    def seconds_left(self) -> float | None:
        """How long the rest takes, if it goes on as so far; None before the first run is finished."""
        seconds = sum(sum(row.seconds) for row in self.rows.values())
        steps = sum(row.timesteps * len(row.seconds) for row in self.rows.values())
        if not steps:
            return None
        rest = 0.0
        for row in self.rows.values():
            # An agent that has not been seen yet is taken to be as quick, a step, as those that have.
            each = sum(row.seconds) / len(row.seconds) if row.seconds else row.timesteps * seconds / steps
            rest += each * row.left
        # Seconds of training, several runs at a time, become those that pass.
        return rest * (time.perf_counter() - self.began) / seconds

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f", {clock(left)} left"


class LiveTable(Display):
    """A bar and a table, kept up to date in place: for a terminal."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        super().__init__(jobs, console)
        self.bar = Progress(
            TextColumn("runs"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=console,
            expand=True,
        )
        self.task = self.bar.add_task("", total=self.total)

    @contextmanager
    def running(self) -> Iterator[None]:
        with (
            super().running(),
            Live(console=self.console, refresh_per_second=REFRESHES_PER_SECOND, get_renderable=self.render),
        ):
            yield

    def tell(self, line: str) -> None:
        # What failed must not be overlooked; the rest is in the table.
        if " failed: " in line:
            self.console.print(line, markup=False, highlight=False, style="red")

    def render(self) -> Group:
        """Bar and table as of now, cut to the terminal's height: rich would crop what is beyond."""
        elapsed = f"{clock(time.perf_counter() - self.began)} gone"
        self.bar.update(self.task, completed=self.done, description=f"{elapsed}{self._left()}")
        room = max(1, self.console.size.height - OTHER_LINES)
        rows = list(self.rows.items())
        if len(rows) <= room:
            return Group(self.bar, _table(rows))
        rows.sort(key=lambda item: item[1].left == 0)  # what is done has no news
        hidden = [row for _, row in rows[room:]]
        note = f"and {len(hidden)} more, {sum(row.left == 0 for row in hidden)} of them done"
        return Group(self.bar, _table(rows[:room]), Text(note, style="dim"))


def _table(rows: Sequence[tuple[tuple[str, str], Row]]) -> Table:
    """The returns so far, a line each."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("environment", "agent"):
        table.add_column(column)  # the widest is cut where there is no room
    for column in ("runs", "running", "return, IQM", "s a run"):
        table.add_column(column, justify="right", no_wrap=True)
    for (env, label), row in rows:
        runs = Text(f"{len(row.returns)}/{row.total}")
        if row.failed:
            runs.append(f" {row.failed} failed", style="red")
        running = str(len(row.running)) if row.running else ""
        score = f"{trim_mean(row.returns, 0.25):.1f}" if row.returns else ""
        pace = f"{sum(row.seconds) / len(row.seconds):.1f}" if row.seconds else ""
        names = (Text(name, no_wrap=True, overflow="ellipsis") for name in (env, label))
        table.add_row(*names, runs, running, score, pace)
    return table


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_display(jobs: Sequence[Job], console: Console) -> Display:
    """What shows progress: lines where there is no terminal."""
    return (LiveTable if console.is_terminal else Display)(jobs, console)
