"""A comparison from a plan to a report: what is missing is run, and all that is there is summarised."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tarfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from agents.compare.applicability import missing_random_returns, random_return, sift
from agents.compare.cluster import check_modules
from agents.compare.fan_out import Finished, fan_out
from agents.compare.live import Display, make_display
from agents.compare.plan import Job, Plan
from agents.compare.records import Record, Unusable, read, read_summary
from agents.compare.report import console_table, write_report
from agents.compare.summary import summarise
from agents.compare.worker import remove_leftovers, run_elsewhere, run_here, unpack
from agents.errors import Interrupted, UserError
from agents.run_directory import provisional_path, write_text_atomically

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
        Interrupted: A signal came.
        SystemExit: With status 1, after the report is written: runs failed.
    """
    errors = Console(stderr=True)
    plan = sift(plan)
    for entry in plan.not_applicable:
        errors.print(f"not applicable: {entry['agent']} on {entry['env']}: {entry['reason']}", style="yellow")
    with claimed(out):
        plan = known_plan(out).extended(plan)
        records = read_summary(out / SUMMARY)
        todo, unusable = _take_stock(plan, out, records)
        display = make_display(list(plan.jobs(out)), errors)
        if cluster is not None:
            check_modules(dict.fromkeys(job.config.env for job in todo))
        # The cluster is asked before anything is written.
        work = fan_out(
            run_here if cluster is None else run_elsewhere, todo, jobs=jobs, cluster=cluster, started=display.started
        )
        plan.write(out / PLAN)
        remove_leftovers(out)
        for job, reason in unusable:
            shutil.rmtree(job.path)
            instead = "the summary still has it" if job.key in records else "it is done again"
            errors.print(f"{job} is unusable and was removed, {instead}: {reason}", style="yellow", markup=False)
        _random_returns(plan, errors)
        plan.write(out / PLAN)
        if todo:
            _run(plan, out, work, todo, records, display)
        with errors.status("statistics and report"):
            summary = summarise(plan, records)
            text = json.dumps(summary, separators=(",", ":"), allow_nan=False) + "\n"
            write_text_atomically(out / SUMMARY, text)
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
    # A command that was killed in its first moments leaves these.
    ours = {LOCK, provisional_path(out / PLAN).name}
    if any(entry.name not in ours for entry in out.iterdir()):
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


def _take_stock(
    plan: Plan, out: Path, records: dict[tuple[str, str, int], Record]
) -> tuple[list[Job], list[tuple[Job, str]]]:
    """Add the finished runs to the records; what is still to be done, and the runs that are unusable, with reasons."""
    todo: list[Job] = []
    unusable: list[tuple[Job, str]] = []
    for job in plan.jobs(out):
        if job.finished:
            try:
                records[job.key] = read(job.path)
            except Unusable as error:
                unusable.append((job, str(error)))
        if job.key not in records:
            todo.append(job)
    return todo, unusable


def _random_returns(plan: Plan, console: Console) -> None:
    """Find out those that are needed."""
    needed, quiet = missing_random_returns(plan), not console.is_terminal
    for config in track(needed, "random returns", console=console, transient=True, disable=quiet):
        try:
            found = random_return(config)
        except Exception as error:  # whatever the environment raises: its runs fail of it, each with the reason
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            reason = f"it is {found}"
            if math.isfinite(found):
                plan.random_returns[config.env] = found
                continue
        told = f"no normalised scores on {config.env}, as the return of random actions is not to be had: {reason}"
        console.print(told, style="yellow", markup=False)


def _run(
    plan: Plan,
    out: Path,
    work: Generator[Finished[Job, bytes | None]],
    todo: Sequence[Job],
    records: dict[tuple[str, str, int], Record],
    display: Display,
) -> None:
    """Do the runs that are to be done, and add them to the records.

    Raises:
        Interrupted: A signal came.
    """
    # What failed before is tried again.
    tried = {job.key for job in todo}
    plan.failed = [entry for entry in plan.failed if (entry["env"], entry["agent"], entry["seed"]) not in tried]
    for (env, label, _), record in records.items():
        display.known(env, label, record.score)
    try:
        with display.running(), closing(work):
            for done in work:
                job, error = done.item, done.error
                if error is None:
                    error = _receive(done, records)
                if error is None:
                    record = records[job.key]
                    display.finished(job, record.score, record.values["train_seconds"])
                else:
                    env, label, seed = job.key
                    plan.failed.append({"env": env, "agent": label, "seed": seed, "reason": error})
                    plan.write(out / PLAN)
                    display.failed(job, error)
    except (Interrupted, KeyboardInterrupt):
        told = f"interrupted after {display.done} of {display.total} runs; the same command goes on"
        raise Interrupted(told) from None


def _receive(done: Finished[Job, bytes | None], records: dict[tuple[str, str, int], Record]) -> str | None:
    """Add a finished run to the records; why it cannot be, if it cannot."""
    try:
        if done.value is not None:
            unpack(done.value, done.item.path)
        records[done.item.key] = read(done.item.path)
    except (EOFError, OSError, Unusable, UserError, tarfile.TarError, zlib.error) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
