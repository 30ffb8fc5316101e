"""One run of a comparison: whole in its place, or nothing at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from conftest import SHORT

from agents.compare import worker
from agents.compare.plan import Job
from agents.compare.records import read
from agents.config import resolve
from agents.errors import UserError
from agents.run_directory import RunDirectory


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


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seed": 1, "eval_return_mean": "x"}'])
def test_a_damaged_run_is_refused(job, content):
    worker.run_here(job)
    RunDirectory(job.path).result.write_text(content)
    with pytest.raises(UserError, match=r"is damaged .*: remove it, and the same command repeats it"):
        read(job.path)


def test_a_run_without_evaluations_has_an_empty_curve(job):
    worker.run_here(replace(job, config=replace(job.config, eval_every=0)))
    assert read(job.path).curve.steps == []
    assert yaml.safe_load((job.path / "config.yaml").read_text())["eval_every"] == 0
