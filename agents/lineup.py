"""The line-up: every agent by its id.

`python -m agents.lineup` lists the agents, `python -m agents.lineup AGENT` the hyperparameters of one.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from agents.errors import UserError, did_you_mean
from agents.gumbel_ac import GumbelAC
from agents.gumbel_sac import GumbelSAC
from agents.hyperparameters import Hyperparameters
from agents.peers import A2C, DQN, PPO, QRDQN, MaskablePPO
from agents.reinforce import Reinforce

LINEUP: dict[str, type[Hyperparameters]] = {
    cls.agent: cls for cls in (GumbelAC, GumbelSAC, Reinforce, PPO, A2C, DQN, QRDQN, MaskablePPO)
}
"""The hyperparameters' class of every agent, by its id."""


def find_agent(agent: str) -> type[Hyperparameters]:
    """The hyperparameters' class of an agent.

    Raises:
        UserError: There is no such agent.
    """
    if agent not in LINEUP:
        raise UserError(f"unknown agent {agent!r}{did_you_mean(agent, LINEUP)}; known are {', '.join(LINEUP)}")
    return LINEUP[agent]


def default(entry: Field[Any]) -> Any:
    """The class's default of a hyperparameter."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def main(argv: list[str] | None = None) -> None:
    """List the agents, or the hyperparameters of one."""
    import sys

    from docstring_parser import parse_from_object
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        Console().print("usage: python -m agents.lineup [AGENT]\n\n" + (main.__doc__ or ""), markup=False)
        return
    if len(arguments) > 1:
        raise UserError(f"one agent at a time, got {' '.join(arguments)}")
    if not arguments:
        for column in ("agent", "is"):
            table.add_column(column)
        for name, cls in LINEUP.items():
            table.add_row(name, (cls.__doc__ or "").splitlines()[0])
    else:
        cls = find_agent(arguments[0])
        helps = {
            entry.arg_name: entry.description or ""
            for base in reversed(cls.__mro__[:-1])
            for entry in parse_from_object(base).params
        }
        for column in ("hyperparameter", "default", "is"):
            table.add_column(column)
        for entry in fields(cls):
            table.add_row(entry.name, str(default(entry)), helps.get(entry.name, ""))
    Console().print(table, markup=False)


if __name__ == "__main__":
    from agents.command_line import run_command

    run_command(main)
