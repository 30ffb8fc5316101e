"""The tables of a comparison, as text that is not yet dressed for a page or a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.compare.figures import AGGREGATES
from agents.compare.ranking import other_steps, other_steps_across, ranked, ranked_across, steps_taken, told_apart
from agents.formats import (
    UNKNOWN,
    compact,
    decimals,
    fixed,
    interval,
    percent,
    ranges,
    seconds,
    time_to_threshold,
)

# More columns than this do not fit on a page; the heat map shows more.
BEST = 6

OTHER_STEPS = "†"


class Label(str):
    """Text shown as code: the name of an agent or an environment; a mark behind it is no part of the name."""

    mark: str

    def __new__(cls, name: str, mark: str = "") -> Label:
        label = super().__new__(cls, name)
        label.mark = mark
        return label


class Strong(str):
    """Text shown in bold."""


@dataclass(frozen=True)
class Table:
    """A table: the first column holds names, the others numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Problem:
    """Runs that are not in the comparison, for one reason."""

    env: str
    agent: str
    seeds: str
    reason: str


def requested(summary: Mapping[str, Any], env: str, label: str) -> int:
    """Seeds that were asked for, whatever came of them."""
    others = [entry for kind in ("failed", "missing") for entry in summary[kind]]
    lost = {entry["seed"] for entry in others if (entry["env"], entry["agent"]) == (env, label)}
    return len(lost | set(summary["environments"][env]["agents"][label]["seeds"]))


def results(summary: Mapping[str, Any], env: str) -> Table:
    """What every agent came to on an environment, best first."""
    environment = summary["environments"][env]
    write = fixed(return_decimals(environment))
    others = other_steps(environment)
    level = percent(summary["confidence"])
    head = ["agent", "steps", "seeds", f"return, IQM [{level}]", "median", "worst"]
    if environment["threshold"] is not None:
        head += ["solved", "reached", "steps to threshold", "seconds to threshold"]
    rows = []
    for label in ranked(environment):
        agent = environment["agents"][label]
        scores, done, asked = agent["return"], len(agent["seeds"]), requested(summary, env, label)
        row = [
            Label(label),
            compact(steps_taken(agent)) + (f" {OTHER_STEPS}" if label in others else ""),
            str(done) if done == asked else f"{done} of {asked}",
            interval(scores["iqm"], write),
            write(scores["median"][0]),
            write(scores["min"]),
        ]
        if environment["threshold"] is not None:
            row += [
                f"{agent['solved']['count']} of {done}",
                reached(agent),
                time_to_threshold(agent["steps_to_threshold"], compact),
                time_to_threshold(agent["seconds_to_threshold"], seconds),
            ]
        rows.append([*row, seconds(agent["train_seconds"]["median"])])
    return Table([*head, "training, s"], rows)


def reached(agent: Mapping[str, Any]) -> str:
    """How many seeds have been at the threshold; unknown where nobody looked."""
    entry = agent["steps_to_threshold"]
    return f"{entry['reached']} of {len(agent['seeds'])}" if entry else UNKNOWN


def return_decimals(environment: Mapping[str, Any]) -> int:
    """Decimal places of an environment's returns."""
    scores = [agent["return"] for agent in environment["agents"].values()]
    return decimals(score[end] for score in scores for end in ("min", "max"))


def more_results(summary: Mapping[str, Any], env: str) -> Table:
    """Further aggregates of the same runs."""
    environment = summary["environments"][env]
    write, two = fixed(return_decimals(environment)), fixed(2)
    solved = environment["threshold"] is not None
    normalized = any(agent["normalized"] for agent in environment["agents"].values())
    head = ["agent", "median", "mean", "best", "IQM, drawing actions"]
    head += ["share solved"] if solved else []
    head += [f"normalised {name}" for name in AGGREGATES.values()] if normalized else []
    rows = []
    for label in ranked(environment):
        agent = environment["agents"][label]
        scores = agent["return"]
        row = [
            Label(label),
            interval(scores["median"], write),
            interval(scores["mean"], write),
            write(scores["max"]),
            interval(agent["stochastic_return"]["iqm"], write),
        ]
        row += [interval(agent["solved"]["share"], two)] if solved else []
        if normalized:
            estimates = agent["normalized"] or dict.fromkeys(AGGREGATES, (None, None, None))
            row += [interval(estimates[name], two) for name in AGGREGATES]
        rows.append(row)
    return Table(head, rows)


def improvement(chances: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> Table:
    """Probability of improvement among the best: how likely a run of the row beats one of the column."""
    best = list(labels)[:BEST]
    rows = []
    for label in best:
        cells = ["" if label == other else _chance(chances[label][other]) for other in best]
        rows.append([Label(label), *cells])
    return Table(["beats", *map(Label, best)], rows)


def _chance(chance: Sequence[float | None]) -> str:
    text = interval(chance, fixed(2))
    return Strong(text) if told_apart(chance) else text


def across(summary: Mapping[str, Any]) -> Table:
    """Aggregates over the environments' normalised returns, best first."""
    agents, others = summary["across"]["agents"], other_steps_across(summary)
    level = percent(summary["confidence"])
    rows = [
        [
            Label(label, OTHER_STEPS if label in others else ""),
            *(interval(agents[label][key], fixed(2)) for key in AGGREGATES),
        ]
        for label in ranked_across(summary["across"])
    ]
    return Table(["agent", *(f"{text} [{level}]" for text in AGGREGATES.values())], rows)


def problems(entries: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Failed, missing or impossible runs, those alike together."""
    alike: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for entry in entries:
        seeds = alike[entry["env"], entry["agent"], entry.get("reason", "")]
        if "seed" in entry:
            seeds.append(entry["seed"])
    return [
        Problem(env, agent, f"{'seeds' if len(seeds) > 1 else 'seed'} {ranges(seeds)}" if seeds else "", reason)
        for (env, agent, reason), seeds in alike.items()
    ]


def hardware(summary: Mapping[str, Any]) -> Table:
    """The machines of the runs, as far as they are known, and the versions."""
    machine, load = summary["hardware"], summary["hardware"]["load"]
    facts = {
        # A text holds what different machines say.
        "processor": machine.get("cpu"),
        "cores": machine.get("cores"),
        "memory, GB": machine.get("memory_gb"),
        "system": machine.get("os"),
        "load during the runs": load and f"{load[0]:.2f} to {load[2]:.2f}, median {load[1]:.2f}",
    }
    known = {name: str(fact) for name, fact in facts.items() if fact is not None}
    return Table(["", ""], [[name, words] for name, words in (known | summary["versions"]).items()])


def episodes(summary: Mapping[str, Any], key: str) -> str:
    """Episodes of an evaluation according to the settings of all agents: `100 `, or nothing where they do not tell."""
    agents = [agent for environment in summary["environments"].values() for agent in environment["agents"].values()]
    counts = sorted({agent["settings"][key] for agent in agents if key in agent["settings"]})
    return f"{' or '.join(map(str, counts))} " if counts else ""
