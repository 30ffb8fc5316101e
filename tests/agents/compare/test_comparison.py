"""Whole comparisons of tiny runs: killed, extended, failing, refused."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest

from agents.compare import comparison
from agents.compare.__main__ import main
from agents.compare.fan_out import Finished, answer
from agents.compare.plan import Job, Plan
from agents.processes import WATCH_SECONDS
from agents.run_directory import provisional_path

ROOT = Path(__file__).resolve().parents[3]
TINY = "n_envs=4,eval_episodes=4"
SHORT = ("--timesteps", "300", "--eval-every", "100")
AGENTS = (f"gumbel-ac:{TINY}", f"reinforce:{TINY}")
BANDIT = "gumbel_rl/FactoredBandit-v0"


def bandit(out: Path, *, agent="reinforce", env=BANDIT, seeds=1, timesteps=64) -> list[str]:
    """The quickest comparison there is."""
    short = ("--seeds", str(seeds), "--timesteps", str(timesteps), "--eval-every", "0", "--jobs", "1")
    return ["--envs", env, "--agents", agent, *short, "--out", str(out)]


def words(out: Path, *, envs=("CartPole-v1",), agents=AGENTS, seeds=3, jobs=2) -> list[str]:
    return ["--envs", *envs, "--agents", *agents, "--seeds", str(seeds), *SHORT, "--jobs", str(jobs), "--out", str(out)]


def results(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished run: another one has others."""
    # Attempts, whose names begin with a dot, are none.
    found = {str(path.relative_to(out)): path.stat() for path in out.glob("runs/*/*/seed*/result.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def ended(err: str) -> list[tuple[str, str, int]]:
    """The runs that came to an end while the command was at work, as it told them: environment, agent, seed."""
    lines = re.findall(r"\[\d+/\d+\] (\S+) (\S+) seed (\d+)(?:: return| failed:)", " ".join(err.split()))
    return [(env, agent, int(seed)) for env, agent, seed in lines]


def wanted(agents=AGENTS, seeds=range(3), env="CartPole-v1") -> list[tuple[str, str, int]]:
    return sorted((env, agent, seed) for agent in agents for seed in seeds)


@pytest.fixture
def in_process(monkeypatch):
    """Do the runs in this process, one after another: starting others takes much longer than such runs do."""

    def here(function, items, *, jobs, cluster, started):
        for item in items:
            started(item)
            found = answer(function, item)
            yield Finished(item, found.value, found.error)

    monkeypatch.setattr(comparison, "fan_out", here)


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


def test_finished_runs_are_not_repeated_and_more_can_be_added(reference, tmp_path, command, in_process):
    out = tmp_path / "out"
    first = command(main, *words(out, agents=AGENTS[:1], seeds=2))
    assert ended(first.err) == wanted(AGENTS[:1], range(2))
    before = results(out)
    assert len(before) == 2
    # As if it had been killed before the summary: the directories alone tell what is finished.
    (out / "comparison.json").unlink()
    more = command(main, *words(out))
    assert sorted(ended(more.err)) == sorted(set(wanted()) - set(ended(first.err)))
    after = results(out)
    assert len(after) == 6
    assert before.items() <= after.items()
    assert told(out) == told(reference)
    # Asking for less takes nothing away, and runs nothing.
    (out / "comparison.json").unlink()
    less = command(main, *words(out, agents=AGENTS[1:], seeds=1))
    assert ended(less.err) == []
    assert results(out) == after
    assert told(out) == told(reference)


def test_plan_and_summary_are_all_that_it_takes_to_go_on(reference, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("plan.json", "comparison.json"):
        (out / name).write_bytes((reference / name).read_bytes())
    assert ended(command(main, *words(out)).err) == []
    assert results(out) == {}
    assert told(out) == told(reference)


def test_damaged_runs_are_done_again_unless_the_summary_has_them(reference, tmp_path, command, in_process):
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    first, second = sorted(out.glob("runs/CartPole-v1/gumbel*/seed[01]"))
    for path in (first, second):
        result = path / "result.json"
        result.write_text(result.read_text()[:50])
    outcome = command(main, *words(out))
    assert outcome.status == 0
    assert f"CartPole-v1 {AGENTS[0]} seed 0 is unusable and was removed, the summary still has it" in " ".join(
        outcome.err.split()
    )
    assert ended(outcome.err) == []
    assert not first.exists()
    assert told(out) == told(reference)

    second.mkdir(parents=True)
    (second / "result.json").write_text("{")
    (out / "comparison.json").unlink()
    outcome = command(main, *words(out))
    assert outcome.status == 0
    assert f"CartPole-v1 {AGENTS[0]} seed 1 is unusable and was removed, it is done again" in " ".join(
        outcome.err.split()
    )
    assert sorted(ended(outcome.err)) == wanted(AGENTS[:1], range(2))
    assert told(out) == told(reference)


def test_what_cannot_be_taken_over_is_that_runs_failure(tmp_path, command, monkeypatch):
    """Archives of another machine that are damaged, and runs that are unusable once they are there."""

    def elsewhere(function, items, *, jobs, cluster, started):
        for number, item in enumerate(items):
            started(item)
            if number == 0:
                yield Finished(item, b"no archive", None)
            elif number == 1:
                item.path.mkdir(parents=True)
                yield Finished(item, None, None)
            else:
                found = answer(function, item)
                yield Finished(item, found.value, found.error)

    monkeypatch.setattr(comparison, "fan_out", elsewhere)
    out = tmp_path / "out"
    outcome = command(main, *bandit(out, seeds=3))
    assert outcome.status == 1
    summary = json.loads((out / "comparison.json").read_text())
    failed = {entry["seed"]: entry["reason"] for entry in summary["failed"]}
    assert set(failed) == {0, 1}
    assert failed[0].startswith("ReadError: ")
    assert failed[1].startswith("Unusable: FileNotFoundError: ")
    (row,) = summary["environments"][BANDIT]["agents"].values()
    assert row["seeds"] == [2]


def test_a_signal_ends_the_command_in_one_line(tmp_path, command, monkeypatch):
    closed = []

    def signalled(function, items, *, jobs, cluster, started):
        try:
            found = answer(function, items[0])
            yield Finished(items[0], found.value, found.error)
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("went on after the signal")
        finally:
            closed.append(True)

    monkeypatch.setattr(comparison, "fan_out", signalled)
    before = signal.getsignal(signal.SIGTERM)
    outcome = command(main, *bandit(tmp_path / "out", seeds=2))
    assert outcome.status == 130
    assert outcome.err.splitlines()[-1] == "interrupted after 1 of 2 runs; the same command goes on"
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_first_moment_left_behind_is_in_nobodys_way(tmp_path, command, in_process):
    out = tmp_path / "out"
    out.mkdir()
    provisional_path(out / "plan.json").write_text('{"form')
    assert command(main, *bandit(out)).status == 0
    assert not list(out.glob(".*.partial"))


class Moody(gym.Env):
    """Raises in `step`, or gives rewards that are not finite."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, mood="raise"):
        self.mood = mood

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        if self.mood == "raise":
            raise RuntimeError("not in the\nmood")
        return self.observation_space.sample(), float(self.mood), True, False, {}


@pytest.mark.filterwarnings("ignore:.*The reward is an inf value")
@pytest.mark.parametrize(
    ("mood", "reason"), [("raise", "RuntimeError: not in the mood"), ("inf", "ValueError: Expected parameter logits")]
)
def test_an_environment_that_raises_ends_its_runs_and_not_the_command(
    mood, reason, tmp_path, command, in_process, monkeypatch
):
    spec = gym.envs.registration.EnvSpec("Moody-v0", Moody, kwargs={"mood": mood}, reward_threshold=1.0)
    monkeypatch.setitem(gym.registry, "Moody-v0", spec)
    for _ in range(2):  # and again, however it ended before
        outcome = command(main, *bandit(tmp_path / "out", env="Moody-v0", agent="ppo:n_envs=1,n_steps=64"))
        assert outcome.status == 1, outcome
        assert "no normalised scores on Moody-v0" in outcome.err
        summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
        (failed,) = summary["failed"]
        assert failed["reason"].startswith(reason)
        assert len(failed["reason"]) <= 300  # not the whole tensor
        assert reason in " ".join(outcome.err.split())


def test_modules_of_the_users_own_are_not_sent_to_a_cluster(tmp_path, command, monkeypatch):
    (tmp_path / "my_game.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyGame-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        given = [*bandit(tmp_path / "out", env="my_game:MyGame-v0"), "--cluster", "127.0.0.1:9"]
        complaint = command(main, *given).complaint
    finally:
        gym.registry.pop("MyGame-v0", None)
    assert "my_game:MyGame-v0 comes from a module of your own" in complaint
    assert not list((tmp_path / "out").glob("plan.json"))


def job_of(run: tuple[str, str, int], out: Path) -> Job:
    return next(job for job in Plan.read(out / "plan.json").jobs(out) if job.key == run)


@pytest.mark.slow
def test_killed_ten_times_no_run_is_lost_or_done_twice(reference, tmp_path):
    out, chance = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "agents.compare", *words(out)]
    seen: dict[str, tuple[int, int]] = {}
    before: set[tuple[str, str, int]] = set()
    for number in range(10):
        with (tmp_path / "told").open("w") as errors:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
            if number % 2 or len(seen) == 6:
                # While it starts, or soon after.
                time.sleep(chance.uniform(0.5, 4.0))
            else:
                # As soon as it has got further, with the next runs under way.
                while process.poll() is None and results(out).keys() <= seen.keys():
                    time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        # Its workers are gone soon, and put nothing in place any more.
        time.sleep(2 * WATCH_SECONDS)
        now = results(out)
        assert seen.items() <= now.items()
        assert not before & set(ended((tmp_path / "told").read_text()))
        assert number % 2 or len(now) > len(seen) or len(now) == 6
        seen, before = now, {run for run in wanted() if job_of(run, out).finished}
        assert len(seen) == len(before)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(ended(done.stderr)) == sorted(set(wanted()) - before)
    assert seen.items() <= results(out).items()
    assert len(results(out)) == 6
    assert not list(out.glob("runs/*/*/.seed*"))
    assert told(out) == told(reference)


def test_a_failed_run_is_reported_and_the_rest_goes_on(tmp_path, command, in_process):
    agents = (AGENTS[0], f"reinforce:{TINY},max_episode_steps=5")
    outcome = command(main, *words(tmp_path / "out", agents=agents, seeds=2))
    assert outcome.status == 1
    assert "2 runs failed" in outcome.err
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {(entry["agent"], entry["seed"]) for entry in summary["failed"]} == {(agents[1], 0), (agents[1], 1)}
    assert all("episode" in entry["reason"] for entry in summary["failed"])
    assert len(summary["environments"]["CartPole-v1"]["agents"][AGENTS[0]]["runs"]) == 2
    assert "max_episode_steps" in (tmp_path / "out" / "report.md").read_text()


def test_what_does_not_apply_is_told_first(tmp_path, command, in_process):
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


def test_refuses_other_settings_under_the_same_name(tmp_path, command, in_process):
    out = tmp_path / "out"
    assert command(main, *bandit(out)).status == 0
    before = results(out), (out / "plan.json").read_bytes()
    complaint = command(main, *bandit(out, timesteps=128)).complaint
    assert f"--out holds another comparison: reinforce on {BANDIT} has timesteps=64 there" in complaint
    assert (results(out), (out / "plan.json").read_bytes()) == before


def test_one_command_at_a_time(reference, command):
    from agents.compare.comparison import claimed

    with claimed(reference):
        complaint = command(main, *words(reference)).complaint
    assert complaint == f"another comparison is at work in {reference}"
