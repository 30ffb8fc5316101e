"""Tune an agent's hyperparameters for an environment.

Every agent is searched in a space of the same size, with the same sampler, and on seeds that no comparison uses. The
first trial is the agent as shipped; the best ones are run again on fresh seeds. Tuning that was interrupted goes on
with the same command, and the same command with the same --storage on other machines shares the work.

Example:
    python -m agents.tune --env CartPole-v1 --agent ppo --trials 40 --jobs 2 --write
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from agents.command_line import hint, option, parse, path, run_command
from agents.config import CONFIGS, parse_assignments, read_mapping, resolve
from agents.conversion import Count, Natural, Range
from agents.errors import Interrupted, UserError
from agents.signals import terminating

if TYPE_CHECKING:
    from agents.tune.report import Outcome
    from agents.tune.study import Stage


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    env: Annotated[str, option(str, "ID")]
    """Environment: an id of Gymnasium's registry, or module:Id-v0 for one that your module registers."""
    agent: Annotated[str, option(str, "ID")]
    """Agent: gumbel-ac, gumbel-sac, reinforce, ppo, a2c, dqn, qrdqn or maskable-ppo."""
    trials: Annotated[int, option(Count, "N")] = 40
    """Trials of the study in all, those before an interruption and on other machines included."""
    timesteps: Annotated[int | None, option(Count, "N"), hint("(default: as configured)")] = None
    """Environment steps of a run."""
    bins: Annotated[int | None, option(Count, "N"), hint("(default: as configured)")] = None
    """Values each dimension of a continuous action may take, which makes it discrete."""
    seeds_per_trial: Annotated[int, option(Annotated[int, Range(1, 1000)], "N")] = 3
    """Runs of a trial, whose mean score counts."""
    confirm: Annotated[int, option(Natural, "N")] = 5
    """How many of the best trials are run again on fresh seeds, to choose among them; 0 for none."""
    confirm_seeds: Annotated[int, option(Annotated[int, Range(1, 1000)], "N")] = 10
    """Runs of each of these. An agent that fails on one seed in ten shows it only on many."""
    jobs: Annotated[int | None, option(Count, "N"), hint("(default: one for each core)")] = None
    """Processes."""
    storage: Annotated[str | None, option(str, "URL"), hint("(default: sqlite:///runs/tuning/<env>/<agent>.db)")] = None
    """Optuna storage: the URL of a database."""
    study: Annotated[str | None, option(str, "NAME"), hint("(default: <env>/<agent>)")] = None
    """Name of the study in the storage."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """A key that is not searched, for all trials."""
    out: Annotated[Path | None, path("FILE"), hint("")] = None
    """File for the resulting block of configs/<agent>.yaml; standard output if it goes nowhere else."""
    write: bool = False
    """Put the block into configs/<agent>.yaml."""
    keep: Annotated[Path | None, path("DIR"), hint("")] = None
    """Keep the trials' runs there; without it they are removed."""
    no_progress: bool = False
    """Print lines instead of a progress bar."""


def main(argv: Sequence[str] | None = None, configs: Path = CONFIGS) -> None:
    """Tune as the command line says.

    Raises:
        UserError: Something in it is wrong.
        Interrupted: A signal came.
    """
    options = parse(Options, argv, prog="python -m agents.tune", description=__doc__ or "")
    try:
        import optuna
    except ImportError as error:
        raise UserError("tuning needs Optuna: pip install -e '.[tune]'") from error
    if options.out is not None and not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: there is no directory {options.out.parent}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    search = _search(options, configs)
    with terminating():
        try:
            outcome = _run(options, search)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(f"interrupted after {_done(search)} trials; the same command goes on") from None
    _tell(options, search, outcome, configs)


def _search(options: Options, configs: Path) -> Stage:
    """The search, checked: what is wrong is told before anything is written.

    Raises:
        UserError: It cannot be run.
    """
    from agents.tune.objective import search_seeds
    from agents.tune.spaces import find_space, searched_keys
    from agents.tune.storage import default_storage
    from agents.tune.study import Stage

    keys = parse_assignments(options.set)
    own = {"timesteps": options.timesteps, "bins": options.bins}
    own = {key: value for key, value in own.items() if value is not None}
    base = resolve({**keys, **own, "agent": options.agent, "env": options.env}, configs=configs)
    find_space(options.agent)
    searched = sorted(searched_keys(options.agent) & set(keys))
    if searched:
        raise UserError(f"--set {searched[0]}: that key is searched; leave it out")
    return Stage(
        normalizable=_check(base.to_mapping()),
        storage=options.storage or default_storage(options.env, options.agent),
        name=options.study or f"{options.env}/{options.agent}",
        agent=options.agent,
        base=base.to_mapping(),
        seeds=search_seeds(options.seeds_per_trial),
        trials=options.trials,
        keep=options.keep,
        fixed=keys,
    )


def _check(base: dict[str, Any]) -> bool:
    """Build the agent once, as shipped; returns whether observations can be standardised.

    Raises:
        UserError: The environment cannot be made, or the agent does not fit it.
    """
    from agents.device import prepare_torch
    from agents.environments import make_training_env, policy_for

    config = resolve(base)
    env = make_training_env(config, config.seed)
    try:
        config = prepare_torch(config, env)
        config.hyperparameters.build(
            policy_for(env.observation_space), env, timesteps=config.timesteps, seed=config.seed, device=config.device
        )
    finally:
        env.close()
    try:
        make_training_env(replace(config, normalize=True), config.seed).close()
    except UserError:
        return False
    return True


def _run(options: Options, search: Stage) -> Outcome:
    from agents.tune.live import Board
    from agents.tune.objective import confirmation_seeds
    from agents.tune.report import candidates, judge
    from agents.tune.study import begin, enqueue_fixed, finished, open_study
    from agents.tune.work import run_stage

    search = begin(search)
    study = open_study(search)
    left = (search.trials or 0) - len(finished(study))
    board = Board(search, f"{search.agent} on {search.base['env']}", bar=not options.no_progress)
    with board.running():
        run_stage(search, max(1, min(options.jobs or os.cpu_count() or 1, left)), board.refresh)
    chosen = candidates(study, options.confirm or 1)
    if not chosen:
        reasons = [trial.user_attrs["crash"] for trial in finished(study) if "crash" in trial.user_attrs]
        raise UserError(f"no trial came to its end, the first because of {reasons[0]}" if reasons else "no trial ended")
    if not options.confirm:
        return judge(study, None, chosen)

    # Scores are compared over the same seeds: with another number of them the best are all run again.
    name = f"{search.name}/confirmation on {options.confirm_seeds} seeds"
    stage = replace(search, name=name, seeds=confirmation_seeds(options.confirm_seeds), trials=None)
    confirmation = open_study(stage)
    present = {trial.user_attrs.get("of") for trial in confirmation.get_trials(deepcopy=False)}
    for trial in chosen:
        if trial.number not in present:
            enqueue_fixed(confirmation, trial.user_attrs["tuned"], of=trial.number, **_shipped(trial.user_attrs))
    board = Board(stage, "confirmation", bar=not options.no_progress)
    with board.running():
        run_stage(stage, min(options.jobs or os.cpu_count() or 1, len(chosen)), board.refresh)
    outcome = judge(study, confirmation, chosen)
    if not outcome.candidates:
        raise UserError("none of the best trials could be run again: the storage holds the reasons")
    return outcome


def _shipped(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"shipped": True} if attributes.get("shipped") else {}


def _done(search: Stage) -> str:
    from agents.tune.study import finished, open_study

    return f"{len(finished(open_study(search)))} of {search.trials}"


def _tell(options: Options, search: Stage, outcome: Outcome, configs: Path) -> None:
    """Print the table and put the block where it belongs."""
    from rich.console import Console

    from agents.tune import blocks
    from agents.tune.report import origin, plot, table

    console = Console()
    console.print(table(outcome, search))
    picture = plot(outcome.study, search.storage)
    if picture is not None:
        console.print(f"picture: {picture}", soft_wrap=True, highlight=False)

    file = configs / f"{options.agent}.yaml"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    wanted = {**outcome.study.user_attrs["base"], **outcome.tuned}
    for key in ("agent", "env", "seed", "eval_every", "checkpoint_every"):
        del wanted[key]
    values = {**outcome.tuned, "timesteps": wanted["timesteps"]}
    # What the search began with may be no longer, or was never, what the file says.
    values |= blocks.missing(blocks.updated(text, options.env, values, ()), options.agent, options.env, wanted)
    words = [f"--env {options.env} --agent {options.agent} --trials {options.trials}"]
    words += [f"--timesteps {wanted['timesteps']} --seeds-per-trial {options.seeds_per_trial}"]
    # Not the storage, whose URL may hold a password.
    words += [f"--confirm {options.confirm} --confirm-seeds {options.confirm_seeds}"]
    words += [f"--bins {options.bins}"] if options.bins is not None else []
    words += [f"--set {shlex.quote(assignment)}" for assignment in options.set]
    comments = [f"{blocks.MARK}: python -m agents.tune {' '.join(words)}", f"{blocks.MARK} {origin(outcome, search)}"]
    if not outcome.tuned:
        console.print("the shipped settings won", highlight=False)
    if options.write and outcome.tuned:
        blocks.write(file, options.env, values, comments)
        console.print(f"written: {file}", soft_wrap=True, highlight=False)
    if options.out is None and options.write:
        return
    given = read_mapping(file) if file.exists() else {}
    name = blocks.block_name(options.env, given)
    block = blocks.render(name, {**(given.get(name) or {}), **values}, comments)
    if options.out is None:
        print(block, end="")
    else:
        try:
            options.out.write_text(block, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {options.out}: {error.strerror}") from error


if __name__ == "__main__":
    run_command(main)
