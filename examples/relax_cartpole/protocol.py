"""The experiment: both gradients tuned alike on seeds of their own, then measured on others; nothing is run twice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import qmc

from agents.compare.fan_out import Finished, fan_out
from agents.config import TUNING_SEEDS
from agents.errors import UserError
from examples.relax_cartpole import training
from examples.relax_cartpole.gradients import ESTIMATORS, HIDDEN, Settings
from examples.relax_cartpole.variance import VarianceJob, measure_variances

# Bounds of the search, on logarithmic scales; the published grid of learning rates was .001 to .01.
SPACE = {"learning_rate": (0.003, 0.03), "critic_learning_rate": (0.003, 0.03), "critic_scale": (1.0, 100.0)}
# Every candidate is tried on the first seeds, the best of them on the others too.
FIRST_SEEDS, FINAL_SEEDS, FINALISTS = range(1, 5), range(5, 17), 3
TUNING_EPISODES = 750
# Learning curves are as long as this, in points of so many episodes.
CURVE, POINT = 600, 10
# Of the evaluation seeds, how many show the variance of their gradients.
VARIANCE_SEEDS = 10

PROTOCOL = {
    "space": {name: list(bounds) for name, bounds in SPACE.items()},
    "tuning_episodes": TUNING_EPISODES,
    "episodes": training.EPISODES,
    "step_limit": training.STEP_LIMIT,
    "gamma": training.GAMMA,
    "entropy_weight": training.ENTROPY_WEIGHT,
    "hidden": list(HIDDEN),
}


class Job(NamedTuple):
    """One training."""

    estimator: str
    settings: Settings
    seed: int
    episodes: int
    at_least: int = 0


def run(job: Job) -> dict[str, Any]:
    """Train once; what is worth keeping of it."""
    torch.set_num_threads(1)
    start = time.process_time()
    solved, returns = training.train(
        job.estimator, job.settings, job.seed, episodes=job.episodes, at_least=job.at_least
    )
    whole = returns[: len(returns) // POINT * POINT]
    return {
        "solved": solved,
        "episodes": len(returns),
        "cpu_seconds": round(time.process_time() - start, 2),
        "curve": np.reshape(whole, (-1, POINT)).mean(1).round(1).tolist(),
    }


def candidates(count: int) -> list[Settings]:
    """The first points of a scrambled Sobol sequence: the same for both gradients, and evenly spread."""
    low, high = np.log10(list(SPACE.values())).T
    # A power of two at a time, as the sequence wants it.
    points = qmc.Sobol(len(SPACE), rng=np.random.default_rng(0)).random_base2(max(count - 1, 1).bit_length())[:count]
    return [Settings(*(float(f"{x:.3g}") for x in 10 ** (low + point * (high - low)))) for point in points]


def key(settings: Settings) -> str:
    """Settings as a key of the results."""
    return " ".join(f"{name}={value:g}" for name, value in asdict(settings).items())


def settings_of(text: str) -> Settings:
    """What `key` was made of."""
    values = dict(part.split("=") for part in text.split())
    return Settings(*(float(values[field.name]) for field in fields(Settings)))


def read(path: Path) -> dict[str, Any]:
    """Results so far.

    Raises:
        UserError: The file is none, or was made by another protocol.
    """
    if not path.exists():
        tuning: dict[str, Any] = {name: {} for name in ESTIMATORS}
        runs: dict[str, Any] = {name: {} for name in ESTIMATORS}
        return {"protocol": PROTOCOL, "tuning": tuning, "chosen": {}, "runs": runs, "variance": {}}
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_by = results["protocol"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} holds no results of this experiment ({error!r}): name another file") from None
    changed = [name for name in PROTOCOL if made_by.get(name) != PROTOCOL[name]]
    if changed:
        raise UserError(f"{path} was made with another protocol ({', '.join(changed)} changed): name another file")
    return results


def write(results: Mapping[str, Any], path: Path) -> None:
    """JSON, one line for each run and each candidate.

    Raises:
        UserError: The file cannot be written.
    """
    parts = []
    for name, value in results.items():
        if name in ("tuning", "runs", "turned_down"):
            methods = ",\n".join(f"{json.dumps(method)}: {_lines(entries)}" for method, entries in value.items())
            parts.append(f"{json.dumps(name)}: {{\n{methods}\n}}")
        else:
            parts.append(f"{json.dumps(name)}: {_lines(value) if name == 'variance' else json.dumps(value)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}") from None


def _lines(entries: Mapping[str, Any]) -> str:
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()) + "\n}"


def score(solved: Mapping[str, int | None]) -> float:
    """Mean number of episodes to solve the task while tuning; a run that did not counts as all its episodes."""
    return float(np.mean([TUNING_EPISODES if one is None else one for one in solved.values()]))


def ranked(tried: Mapping[str, Mapping[str, int | None]], among: Sequence[Settings]) -> list[Settings]:
    """Candidates from the best to the worst, by the first seeds alone."""
    first = {TUNING_SEEDS + seed for seed in FIRST_SEEDS}

    def by_first(settings: Settings) -> float:
        return score({seed: one for seed, one in tried[key(settings)].items() if int(seed) in first})

    return sorted(among, key=by_first)


def tuning_jobs(
    results: Mapping[str, Any], estimator: str, among: Sequence[Settings], seeds: Sequence[int]
) -> Iterator[Job]:
    """What is missing of the tuning."""
    for settings in among:
        tried = results["tuning"][estimator].get(key(settings), {})
        for seed in seeds:
            if str(TUNING_SEEDS + seed) not in tried:
                yield Job(estimator, settings, TUNING_SEEDS + seed, TUNING_EPISODES)


def measure(path: Path, *, seeds: int = 30, count: int = 16, jobs: int = 1) -> dict[str, Any]:
    """Run what the file at `path` does not hold yet, and write it after every run.

    Args:
        path: The results, read and written.
        seeds: Evaluation seeds, from 0 on.
        count: Candidates of each gradient.
        jobs: Processes.

    Raises:
        UserError: The file cannot be gone on with or written to, or a run failed.
    """
    results, among = read(path), candidates(count)
    write(results, path)  # what cannot be written is found out before the work, not after it

    def work(jobs_left: Sequence[Job], says: str) -> None:
        for done in watched(fan_out(run, jobs_left, jobs=jobs), len(jobs_left), says):
            job, found = done.item, succeeded(done)
            if job.seed > TUNING_SEEDS:
                tried = results["tuning"][job.estimator].setdefault(key(job.settings), {})
                tried[str(job.seed)] = found["solved"]
            else:
                runs = results["runs"][job.estimator]
                if (earlier := runs.get(str(job.seed))) is not None:
                    # Of settings that more tuning has turned down: nothing that was measured is thrown away.
                    by_settings = results.setdefault("turned_down", {}).setdefault(job.estimator, {})
                    by_settings.setdefault(earlier["settings"], {})[str(job.seed)] = earlier["solved"]
                runs[str(job.seed)] = {"settings": key(job.settings), **found}
                results["runs"][job.estimator] = dict(sorted(runs.items(), key=lambda pair: int(pair[0])))
            write(results, path)

    # The two take turns, so that neither has the quieter machine.
    work(taking_turns(*(tuning_jobs(results, name, among, FIRST_SEEDS) for name in ESTIMATORS)), "first seeds")
    best = {name: ranked(results["tuning"][name], among)[:FINALISTS] for name in ESTIMATORS}
    work(taking_turns(*(tuning_jobs(results, name, best[name], FINAL_SEEDS) for name in ESTIMATORS)), "finalists")
    for name in ESTIMATORS:
        tried = results["tuning"][name]
        results["chosen"][name] = min(map(key, best[name]), key=lambda text: score(tried[text]))
    evaluation = [
        [
            Job(name, settings_of(chosen), seed, training.EPISODES, CURVE)
            for seed in range(seeds)
            if results["runs"][name].get(str(seed), {}).get("settings") != chosen
        ]
        for name, chosen in results["chosen"].items()
    ]
    work(taking_turns(*evaluation), "measurement")
    chosen = tuple(settings_of(results["chosen"][name]) for name in ESTIMATORS)
    texts = [key(settings) for settings in chosen]
    variance = results.setdefault("variance", {})
    missing = [
        VarianceJob(chosen, seed)
        for seed in range(min(seeds, VARIANCE_SEEDS))
        if variance.get(str(seed), {}).get("settings") != texts
    ]
    for done in watched(fan_out(measure_variances, missing, jobs=jobs), len(missing), "variance"):
        variance[str(done.item.seed)] = {"settings": texts, **succeeded(done)}
        write(results, path)
    return results


def watched(finished: Iterable[Finished[Any, Any]], total: int, says: str) -> Iterable[Finished[Any, Any]]:
    """The same, with a progress bar if there is something to wait for."""
    return track(finished, says, total=total, console=Console(stderr=True)) if total else finished


def succeeded(done: Finished[Any, dict[str, Any]]) -> dict[str, Any]:
    """What a job found.

    Raises:
        UserError: It failed.
    """
    if done.value is None:
        raise UserError(f"{done.item}: {done.error}")
    return done.value


def taking_turns(*sequences: Iterator[Job] | Sequence[Job]) -> list[Job]:
    """One of each in turn, then what is left."""
    rows = [list(sequence) for sequence in sequences]
    longest = max(map(len, rows))
    return [row[i] for i in range(longest) for row in rows if i < len(row)]
