"""What a comparison consists of: agents with their settings, environments, seeds, and where each run lies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agents.compare.labels import parse_label, with_estimators
from agents.config import TUNING_SEEDS, RunConfig, resolve
from agents.errors import UserError
from agents.run_directory import RunDirectory, unique_file_name, write_text_atomically

# Raised whenever an old plan could no longer be read.
FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """An agent on an environment: a row of a table, with a run for each seed.

    Args:
        label: The agent as it was asked for, such as `gumbel-ac:estimator=exact`.
        config: Its configuration, with seed 0.
        seeds: Of its runs.
    """

    label: str
    config: RunConfig
    seeds: tuple[int, ...]

    @property
    def env(self) -> str:
        """Id of the environment."""
        return self.config.env

    @property
    def settings(self) -> dict[str, Any]:
        """All keys that decide its runs, but the seed."""
        mapping = self.config.to_mapping()
        del mapping["seed"]
        return mapping


@dataclass(frozen=True)
class Job:
    """A run that a comparison needs."""

    label: str
    config: RunConfig
    path: Path
    """Its run directory, which exists once the run is finished."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Environment, label and seed."""
        return self.config.env, self.label, self.config.seed

    @property
    def finished(self) -> bool:
        """Whether its directory is there."""
        return RunDirectory(self.path).finished

    def __str__(self) -> str:
        return f"{self.config.env} {self.label} seed {self.config.seed}"


@dataclass
class Plan:
    """All that a comparison is to hold, and what is known besides its runs.

    Attributes:
        cells: Its rows.
        not_applicable: Agents that cannot act in an environment: `{env, agent, reason}` each.
        failed: Runs that ended with an error: `{env, agent, seed, reason}` each.
        random_returns: Mean return of random actions, by environment.
        commands: The command lines that added to it.
    """

    cells: list[Cell] = field(default_factory=list)
    not_applicable: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    random_returns: dict[str, float] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    @property
    def environments(self) -> list[str]:
        """Their ids, in order."""
        return list(dict.fromkeys(cell.env for cell in self.cells))

    def jobs(self, out: Path) -> Iterator[Job]:
        """All runs. Agents take turns from seed to seed: a change of the machine's load falls on all of them."""
        seeds = sorted({seed for cell in self.cells for seed in cell.seeds})
        for seed in seeds:
            for cell in self.cells:
                if seed in cell.seeds:
                    yield job(out, cell, seed)

    def extended(self, other: Plan) -> Plan:
        """This plan with the rows and seeds of another one.

        Raises:
            UserError: A row is in both with different settings, or rows of an environment cannot be compared.
        """
        cells = {(cell.env, cell.label): cell for cell in self.cells}
        for cell in other.cells:
            known = cells.get((cell.env, cell.label), cell)
            check_same(known, cell)
            cells[cell.env, cell.label] = replace(known, seeds=tuple(sorted({*known.seeds, *cell.seeds})))
        check_comparable(cells.values())
        return replace(
            self,
            cells=list(cells.values()),
            # With bins of its own, an agent may act after all.
            not_applicable=[
                entry
                for entry in _union(self.not_applicable, other.not_applicable)
                if (entry["env"], entry["agent"]) not in cells
            ],
            random_returns={**other.random_returns, **self.random_returns},
            commands=list(dict.fromkeys([*self.commands, *other.commands])),
        )

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        content = {
            "format": FORMAT,
            "cells": [
                {"label": cell.label, "seeds": list(cell.seeds), "config": cell.config.to_mapping()}
                for cell in self.cells
            ],
            "not_applicable": self.not_applicable,
            "failed": self.failed,
            "random_returns": self.random_returns,
            "commands": self.commands,
        }
        text = json.dumps(content, indent=1) + "\n"
        write_text_atomically(path, text)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read what `write` wrote.

        Raises:
            UserError: It is damaged, or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise UserError(f"{path} was written by another version of this program")
            cells = [Cell(cell["label"], resolve(cell["config"]), tuple(cell["seeds"])) for cell in content["cells"]]
            known = {key: content[key] for key in ("not_applicable", "failed", "random_returns", "commands")}
            return cls(cells, **known)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"cannot read {path}: it is damaged ({type(error).__name__}: {error})") from error


def job(out: Path, cell: Cell, seed: int) -> Job:
    """A run of a row."""
    path = out / "runs" / unique_file_name(cell.env) / unique_file_name(cell.label) / f"seed{seed}"
    return Job(cell.label, replace(cell.config, seed=seed), path)


def make_plan(
    envs: Sequence[str],
    agents: Sequence[str],
    seeds: int,
    *,
    estimators: Sequence[str] = (),
    keys: Mapping[str, Any] | None = None,
) -> Plan:
    """The runs of every agent on every environment that it can act in.

    Args:
        envs: Ids of environments.
        agents: Labels: ids of agents, each with overrides or without, such as `reinforce:baseline=none,gamma=0.95`.
        seeds: How many, from 0 on.
        estimators: Gradient estimators with each of which to run every agent that has a choice.
        keys: Configuration that all runs share.

    Raises:
        UserError: Something is given twice, is not known, or cannot be compared.
    """
    if not envs or not agents:
        raise UserError(f"nothing to compare: give --{'agents' if envs else 'envs'} one id or more")
    if seeds < 1:
        raise UserError(f"no seeds: --seeds must be at least 1, got {seeds}")
    if seeds > TUNING_SEEDS:
        raise UserError(
            f"--seeds must be at most {TUNING_SEEDS:,}, got {seeds:,}: the seeds from there on are for tuning"
        )
    labels = [label for agent in agents for label in with_estimators(agent, estimators)]
    for option, given in (("--envs", envs), ("--agents", labels), ("--estimators", estimators)):
        twice = next((text for number, text in enumerate(given) if text in given[:number]), None)
        if twice is not None:
            raise UserError(f"{option} names {twice} twice")
    plan = Plan()
    for env in envs:
        for label in labels:
            agent, overrides = parse_label(label)
            # Finished or not at all: checkpoints would only cost time. A killed run begins anew, for the same result.
            layered = {"checkpoint_every": 0, **(keys or {}), **overrides, "env": env, "agent": agent, "seed": 0}
            plan.cells.append(Cell(label, resolve(layered), tuple(range(seeds))))
    check_comparable(plan.cells, settled=False)
    return plan


# Agents on one environment are compared only where these are the same.
SHARED = ("env_kwargs", "bins", "threshold", "eval_episodes", "periodic_episodes")


def check_comparable(cells: Iterable[Cell], *, settled: bool = True) -> None:
    """Refuse rows of an environment whose returns do not mean the same.

    Args:
        cells: Rows.
        settled: Whether a threshold of None says that there is none. Before, it stands for the environment's own.

    Raises:
        UserError: There are such rows.
    """
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        for key in SHARED:
            if key == "threshold" and cell.config.threshold is None and not settled:
                continue
            known = first.setdefault((cell.env, key), cell)
            one, other = known.settings[key], cell.settings[key]
            if one != other:
                raise UserError(
                    f"{known.label} and {cell.label} cannot be compared on {cell.env}: "
                    f"their {key} differ, {one!r} and {other!r}"
                )


def check_same(known: Cell, cell: Cell) -> None:
    """Refuse a row that has other settings than the one known by its name.

    Raises:
        UserError: It has.
    """
    ours, theirs = known.settings, cell.settings
    different = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if different:
        key = different[0]
        raise UserError(
            f"--out holds another comparison: {cell.label} on {cell.env} has {key}={ours.get(key)!r} there, and "
            f"{key}={theirs.get(key)!r} here; give another directory, or the same settings"
        )


def _union(one: Iterable[dict[str, str]], other: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    return [dict(pairs) for pairs in dict.fromkeys(tuple(entry.items()) for entry in [*one, *other])]
