"""Whole comparisons of tiny runs: killed, extended, failing, refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.compare.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
TINY = "n_envs=4,eval_episodes=4"
SHORT = ("--timesteps", "300", "--eval-every", "100")
AGENTS = (f"gumbel-ac:{TINY}", f"reinforce:{TINY}")


def words(out: Path, *, envs=("CartPole-v1",), agents=AGENTS, seeds=3, jobs=2) -> list[str]:
    return ["--envs", *envs, "--agents", *agents, "--seeds", str(seeds), *SHORT, "--jobs", str(jobs), "--out", str(out)]


def results(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished run: another one has others."""
    found = {str(path.relative_to(out)): path.stat() for path in out.glob("runs/*/*/*/result.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def told(out: Path) -> dict:
    """The summary, without what differs between two runs of the same thing: times, and where it lies."""

    def stripped(value):
        if isinstance(value, dict):
            changing = ("date", "command", "hardware", "load", "seconds", "train_seconds", "seconds_to_threshold")
            return {key: stripped(entry) for key, entry in value.items() if key not in changing}
        return [stripped(entry) for entry in value] if isinstance(value, list) else value

    return stripped(json.loads((out / "comparison.json").read_text()))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """An undisturbed comparison."""
    out = tmp_path_factory.mktemp("reference") / "out"
    main(words(out))
    return out


def test_a_comparison_leaves_runs_summary_and_reports(reference):
    assert len(results(reference)) == 6
    summary = json.loads((reference / "comparison.json").read_text())
    agents = summary["environments"]["CartPole-v1"]["agents"]
    assert list(agents) == list(AGENTS)
    for label, row in agents.items():
        assert row["seeds"] == [0, 1, 2]
        for run in row["runs"]:
            path = next(reference.glob(f"runs/CartPole-v1/{label.split(':')[0]}*/seed{run['seed']}/result.json"))
            assert json.loads(path.read_text())["eval_return_mean"] == run["eval_return_mean"]
        low, high = row["return"]["min"], row["return"]["max"]
        assert low <= row["return"]["iqm"][0] <= high
        assert row["timesteps"] == 300
        assert row["steps_to_threshold"] == {"median": [None, None, None], "reached": 0}
    assert summary["environments"]["CartPole-v1"]["threshold"] == 475
    assert 15 < summary["environments"]["CartPole-v1"]["random_return"] < 30
    assert summary["missing"] == summary["failed"] == summary["not_applicable"] == []
    assert {"report.md", "report.html", "comparison.json", "plan.json", "figures"} <= set(os.listdir(reference))


def test_the_command_of_a_row_repeats_its_run(reference, tmp_path):
    import shlex

    import train_agent

    row = json.loads((reference / "comparison.json").read_text())["environments"]["CartPole-v1"]["agents"][AGENTS[0]]
    python, script, *options = shlex.split(row["command"])
    assert (python, script) == ("python", "train_agent.py")
    train_agent.main([*options, "--run-dir", str(tmp_path / "run"), "--no-progress"])
    repeated = json.loads((tmp_path / "run" / "result.json").read_text())
    assert repeated["eval_return_mean"] == row["runs"][0]["eval_return_mean"]


def test_finished_runs_are_not_repeated_and_more_can_be_added(reference, tmp_path, capsys):
    out = tmp_path / "out"
    main(words(out, agents=AGENTS[:1], seeds=2))
    before = results(out)
    assert len(before) == 2
    main(words(out))
    after = results(out)
    assert len(after) == 6
    assert before.items() <= after.items()
    assert told(out) == told(reference)
    # Asking for less takes nothing away, and runs nothing.
    main(words(out, agents=AGENTS[1:], seeds=1))
    assert results(out) == after
    assert told(out) == told(reference)


def test_plan_and_summary_are_all_that_it_takes_to_go_on(reference, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("plan.json", "comparison.json"):
        (out / name).write_bytes((reference / name).read_bytes())
    main(words(out))
    assert results(out) == {}
    assert told(out) == told(reference)


@pytest.mark.slow
def test_killed_ten_times_no_run_is_lost_or_done_twice(reference, tmp_path):
    out, chance = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "agents.compare", *words(out)]
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(10):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From the imports to the last runs: all of it takes some five seconds.
        time.sleep(chance.uniform(1.0, 5.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = results(out)
        assert seen.items() <= now.items()
        seen = now
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert seen.items() <= results(out).items()
    assert len(results(out)) == 6
    assert not list(out.glob("runs/*/*/.seed*"))
    assert told(out) == told(reference)


def test_a_failed_run_is_reported_and_the_rest_goes_on(tmp_path, command):
    agents = (AGENTS[0], f"reinforce:{TINY},max_episode_steps=5")
    outcome = command(main, *words(tmp_path / "out", agents=agents, seeds=2))
    assert outcome.status == 1
    assert "2 runs failed" in outcome.err
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {(entry["agent"], entry["seed"]) for entry in summary["failed"]} == {(agents[1], 0), (agents[1], 1)}
    assert all("episode" in entry["reason"] for entry in summary["failed"])
    assert len(summary["environments"]["CartPole-v1"]["agents"][AGENTS[0]]["runs"]) == 2
    assert "max_episode_steps" in (tmp_path / "out" / "report.md").read_text()


def test_what_does_not_apply_is_told_first(tmp_path, command):
    agents = (f"gumbel-ac:{TINY}", f"dqn:{TINY}")
    environments = ("CartPole-v1", "gumbel_rl/FactoredBandit-v0")
    outcome = command(main, *words(tmp_path / "out", envs=environments, agents=agents, seeds=1))
    assert outcome.status == 0
    first = " ".join(outcome.err.split())
    assert first.startswith(f"not applicable: {agents[1]} on gumbel_rl/FactoredBandit-v0: dqn does not support the")
    assert len(results(tmp_path / "out")) == 3
    (entry,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["not_applicable"]
    assert entry["env"] == "gumbel_rl/FactoredBandit-v0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--agents", "ppo"], "give --out a directory"),
        (["--agents", "ppo", "--out", "DIR"], "nothing to compare: give --envs one id or more"),
        (["--envs", "CartPole-v1", "--out", "DIR"], "nothing to compare: give --agents one id or more"),
        (["--envs", "CartPole-v1", "--agents", "ppo", "--seeds", "0", "--out", "DIR"], "no seeds"),
        (["--envs", "CartPole-v1", "--agents", "ppo", "ppo", "--out", "DIR"], "--agents names ppo twice"),
        (["--envs", "CartPole-v1", "--agents", "ppo", "--jobs", "0", "--out", "DIR"], "must be at least 1"),
        (["--envs", "CartPole-v1", "--agents", "ppo", "--out", "DIR", "--sseeds", "3"], "no option '--sseeds'"),
        (["--envs", "NoSuch-v0", "--agents", "ppo", "--out", "DIR"], "unknown environment 'NoSuch-v0'"),
        (
            ["--envs", "CartPole-v1", "--agents", "ppo", "--cluster", "127.0.0.1:9", "--out", "DIR"],
            "127.0.0.1:9",
        ),
    ],
)
def test_refuses(given, message, tmp_path, command):
    complaint = command(main, *[tmp_path / "out" if word == "DIR" else word for word in given]).complaint
    assert message in complaint
    assert not results(tmp_path / "out")


def test_refuses_another_directory(tmp_path, command):
    (tmp_path / "notes.txt").write_text("mine")
    complaint = command(main, *words(tmp_path)).complaint
    assert "holds something else than a comparison" in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
    complaint = command(main, *words(tmp_path / "notes.txt")).complaint
    assert "cannot write to" in complaint


def test_refuses_other_settings_under_the_same_name(tmp_path, command):
    out = tmp_path / "out"
    short = ["--envs", "gumbel_rl/FactoredBandit-v0", "--agents", "reinforce", "--seeds", "1", "--out", str(out)]
    assert command(main, *short, "--timesteps", "64", "--eval-every", "0").status == 0
    before = results(out), (out / "plan.json").read_bytes()
    complaint = command(main, *short, "--timesteps", "128", "--eval-every", "0").complaint
    assert (
        "--out holds another comparison: reinforce on gumbel_rl/FactoredBandit-v0 has timesteps=64 there" in complaint
    )
    assert (results(out), (out / "plan.json").read_bytes()) == before


def test_one_command_at_a_time(reference, command):
    from agents.compare.comparison import claimed

    with claimed(reference):
        complaint = command(main, *words(reference)).complaint
    assert complaint == f"another comparison is at work in {reference}"
