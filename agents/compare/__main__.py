"""Compare agents on environments over many seeds: all runs, statistics with intervals, and a report.

The same command goes on where a killed one stopped; more seeds, agents and environments can be added to --out later.

Example:
    python -m agents.compare --envs CartPole-v1 Acrobot-v1 --agents gumbel-ac reinforce:baseline=none ppo --seeds 30
        --out runs/comparison
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.command_line import hint, option, parse, path, run_command
from agents.conversion import Count, Natural
from agents.errors import UserError
from agents.signals import terminating

IDS = tyro.conf.arg(metavar="ID [ID ...]", help_behavior_hint="(required)")
OWN = tyro.conf.arg(metavar="ID [ID ...]", help_behavior_hint="(default: each agent's own)")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    envs: Annotated[tuple[str, ...], IDS] = ()
    """Environments."""
    agents: Annotated[tuple[str, ...], IDS] = ()
    """Agents, each with settings of its own or without: gumbel-ac, reinforce:baseline=none,gamma=0.95."""
    seeds: Annotated[int, option(int, "N")] = 10
    """Runs of each agent on each environment, with seeds from 0 on."""
    timesteps: Annotated[int | None, option(Count, "N"), hint("(default: as configured for each agent)")] = None
    """Environment steps of every run."""
    bins: Annotated[int | None, option(Count, "N"), hint("(default: as configured for each agent)")] = None
    """Values each dimension of a continuous action may take, which makes it discrete."""
    estimators: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]"), hint("(default: each agent's own)")
    ] = ()
    """Run agents that have a choice of gradient estimators with each of these."""
    eval_every: Annotated[int | None, option(Natural, "N"), hint("(default: a twentieth of the run)")] = None
    """Steps between periodic evaluations."""
    jobs: Annotated[int | None, option(Count, "N"), hint("(default: one for each core)")] = None
    """Runs at the same time."""
    cluster: Annotated[str | None, option(str, "ADDRESS"), hint("(default: this machine)")] = None
    """Address of a Ray cluster that is to do the runs."""
    out: Annotated[Path | None, path("DIR"), hint("(required)")] = None
    """Directory of the comparison."""


def main(argv: list[str] | None = None) -> None:
    """Compare as the command line says.

    Raises:
        UserError: Something in it is wrong.
        Interrupted: A signal came.
        SystemExit: Runs failed; the report lists them.
    """
    options = parse(Options, argv, prog="python -m agents.compare", description=__doc__ or "")
    if options.out is None:
        raise UserError("give --out a directory for the comparison")
    from agents.compare.plan import make_plan

    keys: dict[str, Any] = {"timesteps": options.timesteps, "bins": options.bins, "eval_every": options.eval_every}
    given = {key: value for key, value in keys.items() if value is not None}
    plan = make_plan(options.envs, options.agents, options.seeds, estimators=options.estimators, keys=given)

    # Only now: the mistakes above are told at once, and help needs none of this.
    from agents.compare.comparison import compare

    words = sys.argv[1:] if argv is None else argv
    plan.commands.append(shlex.join(["python", "-m", "agents.compare", *words]))
    with terminating():
        compare(plan, options.out, jobs=options.jobs, cluster=options.cluster)


if __name__ == "__main__":
    run_command(main)
