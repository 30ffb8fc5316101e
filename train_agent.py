"""Train an agent on an environment, and leave a run directory: model, curves, configuration and result.

Example:
    python train_agent.py --env CartPole-v1 --agent gumbel-ac --temperature exponential:1.0:0.3 --set gamma=0.99
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from agents.command_line import hint, option, parse, path, run_command
from agents.config import parse_assignments, resolve
from agents.conversion import Count, Natural, ScheduleSpec
from agents.errors import UserError

if TYPE_CHECKING:
    from agents.progress import DisplayKind

NEWEST = Path("the newest")
CONFIGURED = hint("(default: as configured for the agent and environment)")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line; those left out come from --config, configs/<agent>.yaml or the agent's defaults."""

    env: Annotated[str | None, option(str, "ID"), hint("(default: CartPole-v1)")] = None
    """Environment: an id of Gymnasium's registry, or module:Id-v0 for one that your module registers."""
    agent: Annotated[str | None, option(str, "ID"), hint("(default: gumbel-ac)")] = None
    """Agent: gumbel-ac, gumbel-sac, reinforce, ppo, a2c, dqn, qrdqn or maskable-ppo."""
    estimator: Annotated[str | None, option(str, "ID"), CONFIGURED] = None
    """Gradient estimator of the agent."""
    timesteps: Annotated[int | None, option(Count, "N"), CONFIGURED] = None
    """Environment steps to train for."""
    bins: Annotated[int | None, option(Count, "N"), CONFIGURED] = None
    """Values each dimension of a continuous action may take, which makes it discrete."""
    seed: Annotated[int | None, option(int, "N"), hint("(default: 0)")] = None
    """Seed of everything random: the same seed gives the same run."""
    n_envs: Annotated[int | None, option(Count, "N"), CONFIGURED] = None
    """Environments stepped together."""
    temperature: Annotated[Any, option(ScheduleSpec, "TAU"), CONFIGURED] = None
    """Temperature of the estimator: a number, or a schedule such as exponential:1.0:0.3."""
    device: Annotated[str | None, option(str, "DEVICE"), hint("(default: a GPU for images, else cpu)")] = None
    """Torch device."""
    threads: Annotated[int | None, option(Count, "N"), hint("(default: 1, or torch's own for images)")] = None
    """Threads of torch."""
    engine: Annotated[str | None, option(str, "ENGINE"), hint("(default: auto)")] = None
    """How environments are run: auto, vector, dummy or subproc."""
    threshold: Annotated[float | None, option(float, "RETURN"), hint("(default: the environment's own)")] = None
    """Mean return that counts as solved."""
    eval_every: Annotated[int | None, option(Natural, "N"), hint("(default: a twentieth of the run)")] = None
    """Steps between periodic evaluations, 0 for none."""
    eval_episodes: Annotated[int | None, option(Count, "N"), hint("(default: 100)")] = None
    """Episodes of the final evaluation."""
    config: Annotated[Path | None, path("FILE"), hint("")] = None
    """YAML file of keys and values, for example the config.yaml of a run, which repeats that run."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Any other key; `python -m agents.lineup AGENT` lists an agent's hyperparameters."""
    run_dir: Annotated[Path | None, path("DIR"), hint("(default: runs/<env>/<agent>/<time>-seed<seed>)")] = None
    """Directory of the run."""
    resume: Annotated[Path | None, path("RUN_DIR", NEWEST), hint("(without RUN_DIR: the newest)")] = None
    """Go on with an interrupted run from its last checkpoint."""
    no_progress: bool = False
    """Print lines instead of a progress bar."""


# Options that are no keys of the configuration.
NO_KEYS = ("config", "set", "run_dir", "resume", "no_progress")
# What may accompany --resume: everything else was settled when the run began.
ALONG_WITH_RESUME = ("resume", "device", "threads", "no_progress")


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says.

    Raises:
        UserError: Something in it is wrong.
        Interrupted: A signal came.
    """
    options = parse(Options, argv, prog="train_agent.py", description=__doc__ or "")
    given = {entry.name: value for entry in fields(options) if (value := getattr(options, entry.name)) != entry.default}
    if options.resume is not None:
        refused = [f"--{name.replace('_', '-')}" for name in given if name not in ALONG_WITH_RESUME]
        if refused:
            raise UserError(f"--resume goes on with the run's own configuration: leave out {', '.join(refused)}")
    else:
        keys = {name: value for name, value in given.items() if name not in NO_KEYS}
        config = resolve({**parse_assignments(options.set), **keys}, options.config)

    # Only now: the mistakes above are told at once, and help needs none of this.
    from rich.console import Console

    from agents.report import report
    from agents.run import resume, train
    from agents.run_directory import RunDirectory, newest_unfinished

    display: DisplayKind = "lines" if options.no_progress else "bar"
    if options.resume is None:
        run = train(config, options.run_dir, display=display)
    else:
        run = newest_unfinished() if options.resume is NEWEST else RunDirectory(options.resume)
        run = resume(run, device=options.device, threads=options.threads, display=display)
    Console().print(report(run), soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
