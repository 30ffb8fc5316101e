"""What a comparison shows while it runs, on terminals of any size."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from agents.compare import live
from agents.compare.live import Display, LiveTable, clock, make_display
from agents.compare.plan import Job, make_plan

OUT = Path("out")


def jobs(envs=("CartPole-v1",), agents=("gumbel-ac",), seeds=4, timesteps=1000) -> list[Job]:
    return list(make_plan(list(envs), list(agents), seeds, keys={"timesteps": timesteps}).jobs(OUT))


def terminal(height: int = 24, width: int = 80) -> Console:
    return Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True)


def lines(display: LiveTable) -> list[str]:
    display.console.print(display.render())
    return display.console.export_text().splitlines()


@pytest.fixture
def time(monkeypatch):
    """Seconds that pass when told."""

    class Time:
        now = 100.0

    monkeypatch.setattr(live.time, "perf_counter", lambda: Time.now)
    return Time


def test_time_left_goes_by_each_agents_pace(time):
    every = jobs(agents=("gumbel-ac", "ppo"), seeds=4)
    slow, quick = ([job for job in every if job.label == label] for label in ("gumbel-ac", "ppo"))
    display = Display(every, terminal())
    time.now += 50.0  # until the first run begins, which is no part of it
    with display.running():
        assert display.seconds_left() is None
        time.now += 8.0
        display.finished(slow[0], 1.0, 12.0)
        # Nothing is known of the other but its steps: 12 s each for 7 runs, of which 8 s did 12.
        assert display.seconds_left() == pytest.approx(7 * 12 * 8 / 12)
        time.now += 1.0
        display.finished(quick[0], 1.0, 3.0)
        assert display.seconds_left() == pytest.approx((3 * 12 + 3 * 3) * 9 / 15)
        display.failed(slow[1], "bad luck")  # is done, and says nothing of the pace
        assert display.seconds_left() == pytest.approx((2 * 12 + 3 * 3) * 9 / 15)
        for job in (*slow[2:], *quick[1:]):
            display.finished(job, 1.0, 5.0)
        assert display.seconds_left() == 0.0


def test_an_unseen_agents_pace_goes_by_its_steps(time):
    every = [*jobs(seeds=1, timesteps=1000), *jobs(agents=("ppo",), seeds=1, timesteps=5000)]
    display = Display(every, terminal())
    with display.running():
        time.now += 4.0
        display.finished(every[0], 1.0, 4.0)
        assert display.seconds_left() == pytest.approx(5 * 4.0)


def test_what_an_extended_comparison_had_is_done_and_has_no_pace(time):
    every = jobs(seeds=10)
    display = Display(every, terminal())
    for score in range(7):
        display.known("CartPole-v1", "gumbel-ac", float(score))
    assert (display.done, display.total) == (7, 10)
    with display.running():
        time.now += 2.0
        display.finished(every[7], 50.0, 2.0)
        assert display.seconds_left() == pytest.approx(2 * 2.0)
    told = display.console.export_text()
    assert told == "[8/10] CartPole-v1 gumbel-ac seed 7: return 50.0, 2.0 s, 0:04 left\n"


def test_the_table_says_how_each_agent_does():
    every = jobs(agents=("gumbel-ac", "ppo"), seeds=4)
    display = LiveTable(every, terminal())
    for score in (0.0, 10.0, 20.0, 1000.0):
        display.known("CartPole-v1", "gumbel-ac", score)
    mine = [job for job in every if job.label == "ppo"]
    for job in (*mine[:3], mine[2]):  # the last one's process died: it is started once more
        display.started(job)
    display.finished(mine[0], 7.0, 1.5)
    display.failed(mine[1], "bad luck")
    bar, head, *rows = lines(display)[-4:]
    assert bar.split()[0] == "runs"
    assert "6/8" in bar
    assert head.split() == ["environment", "agent", "runs", "running", "return,", "IQM", "s", "a", "run"]
    assert rows[0].split() == ["CartPole-v1", "gumbel-ac", "4/4", "15.0"]
    assert rows[1].split() == ["CartPole-v1", "ppo", "1/4", "1", "failed", "1", "7.0", "1.5"]


ENVS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
AGENTS = tuple(f"gumbel-ac:gamma=0.{number},net_arch=[{'64, ' * 20}64]" for number in range(10, 24))


@pytest.mark.parametrize("height", [6, 24, 40])
def test_a_terminal_shows_the_bar_and_the_rows_that_have_news(height):
    """42 rows with labels longer than the terminal is wide."""
    every = jobs(ENVS, AGENTS, seeds=1)
    display = LiveTable(every, terminal(height))
    done = [job for job in every if job.config.env == "CartPole-v1"]
    for job in done:
        display.finished(job, 12.0, 1.0)
    shown = lines(display)
    assert len(shown) < height
    assert "14/42" in shown[0]
    assert "left" in shown[0]
    rows = shown[2:-1]
    assert len(rows) == height - live.OTHER_LINES
    # Those that are done come after the others.
    unfinished = 2 * len(AGENTS)
    assert ["CartPole" in row for row in rows] == [False] * min(len(rows), unfinished) + [True] * (
        len(rows) - unfinished
    )
    hidden = 42 - len(rows)
    assert shown[-1] == f"and {hidden} more, {min(hidden, 14)} of them done"


def test_where_there_is_room_rows_stay_in_order():
    every = jobs(ENVS, ("gumbel-ac",), seeds=1)
    display = LiveTable(every, terminal(10))
    display.finished(every[0], 12.0, 1.0)
    assert [line.split()[0] for line in lines(display)] == ["runs", "environment", *ENVS]


def test_a_live_terminal_keeps_the_bar():
    """Rich's own cropping must find nothing to crop."""
    console = terminal(24)
    display = LiveTable(jobs(ENVS, AGENTS, seeds=1), console)
    with display.running():
        display.failed(jobs(ENVS, AGENTS, seeds=1)[0], "bad [luck]")
    told = console.file.getvalue()
    last = told[told.rindex("runs ") :]
    assert "1/42" in last
    assert "more, 1 of them done" in last
    assert "…" not in last.splitlines()[-1]
    assert "failed: bad [luck]" in " ".join(told.split())


def test_lines_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=200)
    display = make_display(jobs(seeds=2), console)
    assert type(display) is Display
    display.failed(jobs(seeds=2)[1], "bad [luck]")
    assert console.file.getvalue() == "[1/2] CartPole-v1 gumbel-ac seed 1 failed: bad [luck]\n"
    assert type(make_display(jobs(), terminal())) is LiveTable


def test_clock():
    assert [clock(seconds) for seconds in (0.4, 59.6, 3599, 3600, 36061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]
