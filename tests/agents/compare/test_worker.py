"""One run of a comparison: whole in its place, or nothing at all."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import SHORT

import agents.run
from agents.callbacks import LogRows
from agents.compare import worker
from agents.compare.fan_out import fan_out
from agents.compare.plan import Job
from agents.compare.records import Unusable, read
from agents.config import resolve
from agents.errors import UserError
from agents.run_directory import RunDirectory
from agents.scoring import Score


@pytest.fixture
def job(tmp_path) -> Job:
    config = resolve({**SHORT, "env": "CartPole-v1", "checkpoint_every": 0, "seed": 3})
    return Job("gumbel-ac", config, tmp_path / "out" / "runs" / "CartPole-v1" / "gumbel-ac" / "seed3")


def names(job: Job) -> list[str]:
    return sorted(path.name for path in job.path.parent.iterdir())


def test_a_run_lies_in_its_place(job):
    assert not job.finished
    worker.run_here(job)
    assert job.finished
    assert names(job) == ["seed3"]
    record = read(job.path)
    assert record.seed == 3
    assert record.curve.steps[-1] >= SHORT["timesteps"]
    assert len(record.curve.returns) == len(record.curve.seconds) == len(record.curve.steps) >= 2
    assert record.curve.seconds == sorted(record.curve.seconds)


def test_elsewhere_gives_the_same_run(job, tmp_path):
    worker.run_here(job)
    there = tmp_path / "there" / "seed3"
    worker.unpack(worker.run_elsewhere(job), there)
    ours, theirs = read(job.path), read(there)
    assert theirs.score == ours.score
    assert theirs.curve.returns == ours.curve.returns
    assert sorted(path.name for path in there.iterdir() if "tfevents" not in path.name) == sorted(
        path.name for path in job.path.iterdir() if "tfevents" not in path.name
    )


def test_a_failed_run_leaves_nothing(job):
    broken = replace(job, config=replace(job.config, env="CartPole-v1", env_kwargs={"no_such_argument": 1}))
    with pytest.raises(UserError, match="no_such_argument"):
        worker.run_here(broken)
    assert names(job) == []


def test_the_first_attempt_stays(job, tmp_path):
    worker.run_here(job)
    first = RunDirectory(job.path).result.stat()
    worker.run_here(job)
    worker.unpack(worker.run_elsewhere(job), job.path)
    again = RunDirectory(job.path).result.stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert names(job) == ["seed3"]


def test_a_run_that_lost_its_result_is_replaced(job):
    worker.run_here(job)
    RunDirectory(job.path).result.unlink()
    worker.run_here(job)
    assert RunDirectory(job.path).finished
    assert names(job) == ["seed3"]


def test_what_cannot_be_moved_is_an_error(job, tmp_path):
    job.path.parent.mkdir(parents=True)
    job.path.write_text("in the way")
    with pytest.raises(OSError, match="irectory"):
        worker.run_here(job)
    assert names(job) == ["seed3"]


def test_leftovers_of_killed_runs_are_removed(job):
    worker.run_here(job)
    (job.path.parent / ".seed4.0123456789ab").mkdir()
    (job.path.parent / ".seed4.0123456789ab" / "config.yaml").write_text("")
    worker.remove_leftovers(job.path.parents[3])
    assert names(job) == ["seed3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"eval_return_mean": float("nan")}, "eval_return_mean is nan"),
        ({"eval_return_stochastic_mean": float("-inf")}, "eval_return_stochastic_mean is -inf"),
        ({"eval_return_mean": "x"}, "TypeError"),
        ({"eval_return_mean": None}, "TypeError"),
        ({"steps_to_threshold": None, "seconds_to_threshold": None, "load": None}, None),
    ],
)
def test_results_that_cannot_be_compared_are_refused(finished, tmp_path, changes, message):
    path = tmp_path / "run"
    shutil.copytree(finished.path, path)
    result = json.loads(finished.result.read_text())
    RunDirectory(path).result.write_text(json.dumps({**result, **changes}))
    if message is None:
        assert read(path).score == result["eval_return_mean"]
    else:
        with pytest.raises(Unusable, match=message):
            read(path)


@pytest.mark.parametrize("file", ["result", "progress"])
@pytest.mark.parametrize("content", [None, "", "[]", '{"seed": 1', "\ufffd\nx"])
def test_damaged_runs_are_refused(finished, tmp_path, file, content):
    path = tmp_path / "run"
    shutil.copytree(finished.path, path)
    damaged = getattr(RunDirectory(path), file)
    if content is None:
        damaged.unlink()
    else:
        damaged.write_text(content, encoding="utf-8")
    if file == "progress" and content is not None:
        assert read(path).curve.steps == []  # a table without such columns
    else:
        with pytest.raises(Unusable):
            read(path)


def test_an_evaluation_that_is_not_finite_makes_a_run_unusable(finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished.path, path)
    table = RunDirectory(path).progress
    rows = list(csv.DictReader(table.open(newline="")))
    evaluated = next(row for row in rows if row["eval/mean_reward"])
    evaluated["eval/mean_reward"] = "nan"
    with table.open("w", newline="") as to:
        writer = csv.DictWriter(to, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(Unusable, match="returns is nan"):
        read(path)


def test_a_return_that_is_not_finite_is_a_failed_run(job, monkeypatch):
    monkeypatch.setattr(agents.run, "play", lambda *args, **kwargs: Score(np.array([np.nan]), np.array([1])))
    for run in (worker.run_here, worker.run_elsewhere):
        with pytest.raises(Unusable, match="eval_return_mean is nan"):
            run(job)
        assert not list(job.path.parents[3].glob("**/*seed*"))


def test_a_run_whose_process_is_told_to_end_is_run_again(job):
    mark = job.path.parents[3] / "signalled"

    # In here it is sent by value: the process need not find this module.
    def signalled_once(job: Job) -> None:
        if not mark.exists():
            mark.touch()
            between_updates = LogRows.between_updates

            def signalled(self):
                signal.raise_signal(signal.SIGTERM)
                return between_updates(self)

            LogRows.between_updates = signalled
        worker.run_here(job)

    job.path.parent.mkdir(parents=True)
    (done,) = fan_out(signalled_once, [job], jobs=1)
    assert done.error is None
    assert mark.exists()
    assert job.finished
    assert names(job) == ["seed3"]


def test_a_run_without_evaluations_has_an_empty_curve(job):
    worker.run_here(replace(job, config=replace(job.config, eval_every=0)))
    assert read(job.path).curve.steps == []
    assert yaml.safe_load((job.path / "config.yaml").read_text())["eval_every"] == 0
