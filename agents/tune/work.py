"""Runs the trials of a study, in this process or in several, beside others that share the study."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from agents.errors import Interrupted, UserError
from agents.processes import end_with_parent, environment, shared_cores
from agents.signals import terminating
from agents.tune.objective import NothingLearnt, score
from agents.tune.spaces import to_keys
from agents.tune.storage import GRACE_SECONDS, requeue
from agents.tune.study import Stage, choose, counts, open_study

POLL_SECONDS = 1.0
# For a process that is to end, to give its trial back.
PATIENCE_SECONDS = 30.0


class Crashed(Exception):
    """The trial's settings cannot be run."""


class Surplus(Exception):
    """A trial that was begun beyond the total, as another process began the last one at the same time."""


def work(stage: Stage, worker: int, on_change: Callable[[], None]) -> None:
    """Run trials until the study has its total.

    Args:
        stage: The study.
        worker: Number among the processes of this command.
        on_change: Called after evaluations and trials.

    Raises:
        Interrupted: A signal came. The trial under way is enqueued once more.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(stage, worker)
    while True:
        _take_back(study)
        trials = study.get_trials(deepcopy=False)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        total = len(trials) if stage.trials is None else stage.trials
        done = sum(counts(trial) for trial in trials) - running
        full = waiting == 0 if stage.trials is None else done + running >= total
        if full and not running:
            return
        if full:
            # The last ones are with other processes. Should one of these die, its trial comes back.
            time.sleep(POLL_SECONDS)
            on_change()
            continue
        study.optimize(lambda trial: _objective(stage, trial, on_change), n_trials=1, catch=(Crashed, Surplus))
        on_change()


def _take_back(study: optuna.Study) -> None:
    """Enqueue once more the trials of processes that died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # Optuna does not notice one whose process died before its first heartbeat.
        age = datetime.now() - (trial.datetime_start or datetime.now())
        if "tuned" not in trial.user_attrs and age.total_seconds() > GRACE_SECONDS:
            requeue(study, trial)
            study.tell(trial.number, state=TrialState.FAIL)


def _objective(stage: Stage, trial: optuna.Trial, on_change: Callable[[], None]) -> float:
    _check_place(stage, trial)
    fixed = trial.user_attrs.get("fixed")
    if fixed is None:
        choices = choose(trial, stage.space)
        trial.set_user_attr("choices", choices)
        tuned = to_keys(choices, stage.base["n_envs"])
    else:
        tuned = fixed
    trial.set_user_attr("tuned", tuned)
    same = _same(trial, tuned)
    if same is not None:
        # With the same seeds it would come to the same.
        if same.state == TrialState.PRUNED:
            raise optuna.TrialPruned
        return float(same.value or 0.0)

    def on_evaluation(step: int, mean: float) -> None:
        # A run may be evaluated twice within a step, at its end.
        if step not in reported:
            reported.add(step)
            trial.report(mean, step)
        on_change()
        # The shipped settings are what the others are compared with.
        if fixed is None and trial.should_prune():
            raise optuna.TrialPruned

    reported: set[int] = set()
    try:
        with _directory(stage, trial) as directory:
            return score({**stage.base, **tuned}, stage.seeds, directory, on_evaluation)
    except optuna.TrialPruned:
        raise
    except NothingLearnt:
        # Pruned before its first report: to the sampler, the worst there is.
        raise optuna.TrialPruned from None
    except (Interrupted, KeyboardInterrupt):
        requeue(trial.study, _frozen(trial))
        raise Interrupted from None
    except Exception as error:  # whatever the environment or the algorithm makes of odd settings
        trial.set_user_attr("crash", " ".join(f"{type(error).__name__}: {error}".split()))
        raise Crashed from error


def _check_place(stage: Stage, trial: optuna.Trial) -> None:
    trials = trial.study.get_trials(deepcopy=False)
    if stage.trials is None:
        surplus = "fixed" not in trial.user_attrs
    else:
        surplus = sum(counts(other) for other in trials if other.number < trial.number) >= stage.trials
    if surplus:
        raise Surplus


def _same(trial: optuna.Trial, tuned: dict[str, object]) -> FrozenTrial | None:
    over = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return next((other for other in over if other.user_attrs.get("tuned") == tuned), None)


def _frozen(trial: optuna.Trial) -> FrozenTrial:
    # Numbers are places in the list.
    return trial.study.get_trials(deepcopy=False)[trial.number]


@contextmanager
def _directory(stage: Stage, trial: optuna.Trial) -> Iterator[Path]:
    if stage.keep is not None:
        yield stage.keep / stage.name / f"trial{trial.number:04d}"
        return
    with tempfile.TemporaryDirectory(prefix="tuning-") as directory:
        yield Path(directory)


def run_stage(stage: Stage, jobs: int, on_change: Callable[[], None]) -> None:
    """Run a stage to its end in so many processes.

    joblib is not used for it: it kills its workers where these are to give their trials back.

    Raises:
        Interrupted: A signal came.
        UserError: The processes came to an early end.
    """
    if jobs == 1:
        work(stage, 0, on_change)
        return
    # Forking is no way to treat a process with torch's threads.
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(stage, worker, os.getpid())) for worker in range(jobs)]
    try:
        with environment(shared_cores(jobs, os.cpu_count() or 1)):
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes):
            for process in processes:
                process.join(POLL_SECONDS / jobs)
            on_change()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()
    codes = [process.exitcode for process in processes]
    if any(codes) and not any(code == 0 for code in codes):
        raise UserError(f"all processes of {stage.name} ended early, with status {codes}; the same command goes on")


def _process(stage: Stage, worker: int, parent: int) -> None:
    end_with_parent(parent, PATIENCE_SECONDS)
    # Ctrl-C reaches the whole group of a terminal's foreground: the parent alone is to hear it, and to say who stops.
    if sys.platform != "win32":
        os.setpgrp()
    with terminating():
        try:
            work(stage, worker, lambda: None)
        except Interrupted:
            sys.exit(130)
