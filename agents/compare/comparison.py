"""A comparison from a plan to a report: what is missing is run, and all that is there is summarised."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from agents.compare.applicability import missing_random_returns, random_return, sift
from agents.compare.fan_out import Finished, fan_out
from agents.compare.live import Display, make_display
from agents.compare.plan import Job, Plan
from agents.compare.records import Record, read, read_summary
from agents.compare.report import console_table, write_report
from agents.compare.summary import summarise
from agents.compare.worker import remove_leftovers, run_elsewhere, run_here, unpack
from agents.errors import UserError
from agents.run_directory import write_atomically

PLAN = "plan.json"
SUMMARY = "comparison.json"
LOCK = ".lock"


def compare(plan: Plan, out: Path, *, jobs: int | None = None, cluster: str | None = None) -> None:
    """Do the runs that a comparison still needs, and write its summary and report.

    Args:
        plan: What is to be compared; added to what `out` holds already.
        out: Directory of the comparison.
        jobs: Runs at the same time; one for each core if omitted.
        cluster: Address of a Ray cluster that is to do the runs.

    Raises:
        UserError: The plan cannot be carried out, or `out` is another comparison's, or in use.
        SystemExit: With status 1, after the report is written: runs failed.
    """
    errors = Console(stderr=True)
    plan = sift(plan)
    for entry in plan.not_applicable:
        errors.print(f"not applicable: {entry['agent']} on {entry['env']}: {entry['reason']}", style="yellow")
    with claimed(out):
        plan = known_plan(out).extended(plan)
        records = read_summary(out / SUMMARY)
        todo = []
        for job in plan.jobs(out):
            if job.finished:
                records[job.key] = read(job.path)
            elif job.key not in records:
                todo.append(job)
        # The cluster is asked before anything is written.
        work = fan_out(run_here if cluster is None else run_elsewhere, todo, jobs=jobs, cluster=cluster)
        plan.write(out / PLAN)
        remove_leftovers(out)
        _random_returns(plan, errors)
        plan.write(out / PLAN)
        if todo:
            display = make_display(list(plan.jobs(out)), errors)
            _run(plan, out, work, todo, records, display)
        with errors.status("statistics and report"):
            summary = summarise(plan, records)
            text = json.dumps(summary, separators=(",", ":"), allow_nan=False) + "\n"
            write_atomically(out / SUMMARY, lambda file: file.write_text(text, encoding="utf-8"))
            write_report(summary, out)
    console = Console()
    console.print(console_table(summary))
    console.print(f"report: {out / 'report.html'} and {out / 'report.md'}", soft_wrap=True)
    console.print(f"curves: tensorboard --logdir {out}", soft_wrap=True)
    if plan.failed:
        first = plan.failed[0]
        errors.print(
            f"{len(plan.failed)} runs failed and are tried again by the same command, "
            f"the first {first['env']} {first['agent']} seed {first['seed']}: {first['reason']}",
            style="red",
        )
        sys.exit(1)


def known_plan(out: Path) -> Plan:
    """What a directory is to hold according to its plan; nothing if it is empty or new.

    Raises:
        UserError: It holds something else.
    """
    if (out / PLAN).is_file():
        return Plan.read(out / PLAN)
    if any(entry.name != LOCK for entry in out.iterdir()):
        raise UserError(f"--out {out} holds something else than a comparison: give a new directory")
    return Plan()


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The directory, made if need be, and held by one command at a time.

    Raises:
        UserError: It cannot be made, holds something else, or another command is at work in it.
    """
    if out.is_dir():
        known_plan(out)  # refused before anything is written there
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another comparison is at work in {out}") from None
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _random_returns(plan: Plan, console: Console) -> None:
    """Find out those that are needed."""
    needed, quiet = missing_random_returns(plan), not console.is_terminal
    for config in track(needed, "random returns", console=console, transient=True, disable=quiet):
        plan.random_returns[config.env] = random_return(config)


def _run(
    plan: Plan,
    out: Path,
    work: Generator[Finished[Job, bytes | None]],
    todo: Sequence[Job],
    records: dict[tuple[str, str, int], Record],
    display: Display,
) -> None:
    """Do the runs that are to be done, and add them to the records."""
    # What failed before is tried again.
    tried = {job.key for job in todo}
    plan.failed = [entry for entry in plan.failed if (entry["env"], entry["agent"], entry["seed"]) not in tried]
    for (env, label, _), record in records.items():
        display.known(env, label, record.score)
    with display.running(), closing(work):
        for done in work:
            job, error = done.item, done.error
            if error is None:
                if done.value is not None:
                    unpack(done.value, job.path)
                record = records[job.key] = read(job.path)
                display.finished(job, record.score, record.values["train_seconds"])
            else:
                env, label, seed = job.key
                plan.failed.append({"env": env, "agent": label, "seed": seed, "reason": error})
                plan.write(out / PLAN)
                display.failed(job, error)
