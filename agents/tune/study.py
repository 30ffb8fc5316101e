"""The Optuna study: how it proposes and prunes, and which of its trials count."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from agents.errors import UserError
from agents.tune.objective import EVALUATIONS
from agents.tune.spaces import CHOICES, Space, find_space
from agents.tune.storage import open_storage

# Trials between the shipped settings and the sampler's proposals: a Latin hypercube in which every choice of every
# dimension comes up three times, the same cells for every agent.
DESIGN = 3 * CHOICES


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A study and how its trials are run: the search, or the confirmation of its best.

    Attributes:
        storage: Optuna storage URL.
        name: The study's name.
        agent: Id in the line-up.
        base: The shipped settings: a value for every key.
        seeds: Of every trial's runs.
        trials: The study's total; None for those that were enqueued.
        normalizable: Whether observations can be standardised.
        keep: Directory in which the trials' runs are kept.
        fixed: What the command set for all trials.
    """

    storage: str
    name: str
    agent: str
    base: Mapping[str, Any]
    seeds: Sequence[int]
    trials: int | None
    normalizable: bool
    keep: Path | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """What is searched."""
        return find_space(self.agent, normalizable=self.normalizable)

    def identity(self) -> dict[str, Any]:
        """What all trials of a study must have in common, whoever runs them."""
        return {
            "agent": self.agent,
            "env": self.base["env"],
            "bins": self.base.get("bins"),
            "timesteps": self.base["timesteps"],
            "seeds": list(self.seeds),
            "set": dict(self.fixed),
            "space": {name: list(dimension.choices) for name, dimension in self.space.items()},
        }


def open_study(stage: Stage, worker: int = 0) -> optuna.Study:
    """The stage's study, begun if there is none.

    Raises:
        UserError: The storage cannot be reached.
    """
    storage = open_storage(stage.storage)
    with warnings.catch_warnings():
        # `group` is needed as the shipped settings, which are no point of the space, are a trial as well.
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=DESIGN, multivariate=True, group=True, constant_liar=True, seed=crc32(b"%d" % worker)
        )
    # Trials tell their mean return so far, over all evaluations; one is ended if its best such mean is below the median
    # of the finished trials at the same point. Means rise smoothly and with the score, so that a late start of the
    # first half run is no reason to end it. Successive halving was not taken: it ends half or more of all trials at
    # each rung, too many where seeds differ as much as settings do.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=EVALUATIONS // 2)
    arguments: dict[str, Any] = {
        "study_name": stage.name,
        "storage": storage,
        "sampler": sampler,
        "pruner": pruner if stage.trials is not None else optuna.pruners.NopPruner(),
    }
    try:
        return optuna.create_study(direction="maximize", **arguments)
    except DuplicatedStudyError:
        return optuna.load_study(**arguments)


def begin(stage: Stage, *, patience: float = 10.0) -> Stage:
    """Prepare the search's study, or join it if it is under way.

    Args:
        stage: The search.
        patience: Seconds to wait for another process that is preparing it.

    Returns:
        The stage with the shipped settings that the study began with: configuration files may have changed since.

    Raises:
        UserError: The study has begun with other settings.
    """
    study = open_study(stage)
    deadline = time.monotonic() + patience
    while "identity" not in study.user_attrs and study.get_trials(deepcopy=False) and time.monotonic() < deadline:
        time.sleep(0.2)
    began = study.user_attrs.get("identity")
    if began is None:
        enqueue_fixed(study, {}, shipped=True)
        study.set_user_attr("base", dict(stage.base))
        study.set_user_attr("identity", stage.identity())
    else:
        wanted = stage.identity()
        began = {"bins": None, "set": {}} | began  # which studies had not before
        differing = [
            f"{key} {began.get(key)}, not {wanted[key]}" if key != "space" else "another search space"
            for key in wanted
            if began.get(key) != wanted[key]
        ]
        if differing:
            raise UserError(f"the study {stage.name} has {'; '.join(differing)}: give another --study or --storage")
    _enqueue_design(study, stage)
    return Stage(**{**vars(stage), "base": study.user_attrs["base"]})


def _enqueue_design(study: optuna.Study, stage: Stage) -> None:
    rng = np.random.default_rng(0)
    levels = {name: rng.permutation(np.arange(DESIGN) % CHOICES).tolist() for name in stage.space}
    present = {trial.user_attrs.get("design") for trial in study.get_trials(deepcopy=False)}
    for index in range(min(DESIGN, (stage.trials or 0) - 1)):
        if index not in present:
            params = {
                name: levels[name][index] if dimension.ordered else dimension.choices[levels[name][index]]
                for name, dimension in stage.space.items()
            }
            study.enqueue_trial(params, user_attrs={"design": index})


def enqueue_fixed(study: optuna.Study, settings: Mapping[str, Any], **attributes: Any) -> None:
    """Enqueue a trial of settings that need be no point of the space."""
    study.enqueue_trial({}, user_attrs={"fixed": dict(settings), **attributes})


def choose(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """What the sampler proposes: a choice for every dimension."""
    return {
        name: dimension.choices[trial.suggest_int(name, 0, len(dimension.choices) - 1)]
        if dimension.ordered
        else trial.suggest_categorical(name, dimension.choices)
        for name, dimension in space.items()
    }


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the total: it is under way, done, pruned, or crashed, and not interrupted."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING) or crashed(trial)


def crashed(trial: FrozenTrial) -> bool:
    """Whether the trial's settings cannot be run."""
    return trial.state == TrialState.FAIL and "crash" in trial.user_attrs


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count and are not under way."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if counts(trial) and trial.state != TrialState.RUNNING]


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials with a score, best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: -(trial.value or 0.0))
