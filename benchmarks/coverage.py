"""How often the 95 % intervals of a comparison hold the truth: simulated runs from known laws, the project's functions.

    python benchmarks/coverage.py                        # 1500 simulations a number, 7 minutes on one core
    python benchmarks/coverage.py --simulations 200      # a quick look

Writes `benchmarks/results/coverage.json` and prints a table. Beside each coverage stands its Monte-Carlo standard
error; those of shares are sums over all counts and have none. Rows "percentile bootstrap" are the plain intervals that
the project does not use, for comparison, from a quarter of the simulations.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from coverage_laws import LAWS, PAIRS, TASKS, Law
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from agents.compare.improvement import probability_of_improvement
from agents.compare.statistics import AGGREGATES, CONFIDENCE, aggregates, band, profiles, share
from agents.compare.survival import time_to_event

RESULT = Path(__file__).resolve().parent / "results" / "coverage.json"
SEEDS = (5, 10, 20, 30)
# Fewer than the default of `aggregates`: quicker, and if anything less covered.
RESAMPLES = 2000
# True values are those of so many runs.
MANY = 4_000_000
NAMES = ("iqm", "median", "mean")


@dataclass(frozen=True)
class Coverage:
    """One number of the table; `error` is its Monte-Carlo standard error, 0 where it is exact."""

    statistic: str
    law: str
    seeds: int
    truth: float | None
    coverage: float
    error: float
    simulations: int
    method: str = "ours"


def covers(low: float | None, truth: float, high: float | None) -> bool:
    """Whether the interval holds the truth, which may be an end of it but for rounding."""
    slack = 1e-9 * max(1.0, abs(truth))
    return (low is None or low <= truth + slack) and (high is None or truth - slack <= high)


def counted(
    statistic: str, law: str, seeds: int, truth: float | None, hits: int, simulations: int, method: str = "ours"
) -> Coverage:
    rate = hits / simulations
    error = math.sqrt(rate * (1 - rate) / simulations)
    return Coverage(statistic, law, seeds, truth, rate, error, simulations, method)


def of_aggregates(simulations: int) -> Iterator[Coverage]:
    """One task, and four of them."""
    cases = [(name, (law,)) for name, law in LAWS.items()] + [("four tasks", TASKS)]
    for index, (law, tasks) in enumerate(cases):
        many = [task(np.random.default_rng(1), MANY) for task in tasks]
        truths = {name: float(AGGREGATES[name](*many)) for name in NAMES}
        for seeds in SEEDS:
            rng = np.random.default_rng((2, seeds, index))
            runs = [np.stack([task(rng, seeds) for task in tasks], axis=1) for _ in range(simulations)]
            hits = dict.fromkeys(NAMES, 0)
            for scores in runs:
                found = aggregates({law: list(scores.T)}, NAMES, resamples=RESAMPLES)[law]
                for name in NAMES:
                    hits[name] += covers(found[name].low, truths[name], found[name].high)
            for name in NAMES:
                yield counted(name, law, seeds, truths[name], hits[name], simulations)
            if len(tasks) == 1:
                # A simulated run set is a point of a curve.
                _, low, high = band(np.concatenate(runs, axis=1), resamples=RESAMPLES)
                found_hits = sum(covers(a, truths["iqm"], b) for a, b in zip(low, high, strict=True))
                yield counted("band", law, seeds, truths["iqm"], found_hits, simulations)
            if seeds == 20:
                few = runs[: simulations // 4]
                for name in NAMES:
                    plain = sum(percentile(scores.T, AGGREGATES[name], truths[name]) for scores in few)
                    yield counted(name, law, seeds, truths[name], plain, len(few), "percentile bootstrap")


def percentile(
    samples: Sequence[NDArray[np.float64]], statistic: Callable[..., NDArray[np.float64]], truth: float
) -> bool:
    """Whether the plain interval, percentiles of the (stratified) bootstrap as in rliable, holds the truth."""
    interval = stats.bootstrap(
        samples,
        statistic,
        # All pairs of runs in each resample: fewer of them, and not all in memory at once.
        n_resamples=1000 if statistic is wins else RESAMPLES,
        batch=100 if statistic is wins else None,
        method="percentile",
        confidence_level=CONFIDENCE,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return covers(interval.low, truth, interval.high)


def wins(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return (1 + np.sign(a[..., :, None] - b[..., None, :]).mean(axis=(-2, -1))) / 2


def of_improvement(simulations: int) -> Iterator[Coverage]:
    """One task, and four of them: of the pairs that are nearest to equal, and of those farthest from it."""
    cases = [(name, (pair,)) for name, pair in PAIRS.items()]
    cases.append(("four tasks, .50 to .90", tuple(list(PAIRS.values())[number] for number in (0, 2, 7, 8))))
    cases.append(("four tasks, .50 to .99", tuple(list(PAIRS.values())[number] for number in (0, 3, 4, 11))))
    for index, (law, tasks) in enumerate(cases):
        truth = float(np.mean([true_improvement(*pair) for pair in tasks]))
        for seeds in SEEDS:
            rng = np.random.default_rng((3, seeds, index))
            runs = [
                tuple(np.stack([pair[side](rng, seeds) for pair in tasks], axis=1) for side in (0, 1))
                for _ in range(simulations)
            ]
            found = [probability_of_improvement(list(a.T), list(b.T)) for a, b in runs]
            hits = sum(covers(one.low, truth, one.high) for one in found)
            yield counted("improvement", law, seeds, truth, hits, simulations)
            if seeds == 20 and len(tasks) == 1:
                few = runs[: simulations // 4]
                plain = sum(percentile((a[:, 0], b[:, 0]), wins, truth) for a, b in few)
                yield counted("improvement", law, seeds, truth, plain, len(few), "percentile bootstrap")


def true_improvement(a: Law, b: Law) -> float:
    rng = np.random.default_rng(4)
    theirs = np.sort(b(rng, MANY // 4))
    ours = np.sort(a(rng, MANY // 4))
    below = np.searchsorted(theirs, ours, "left") + np.searchsorted(theirs, ours, "right")
    return float(below.mean() / 2 / len(theirs))


def of_shares() -> Iterator[Coverage]:
    """Exactly: the chances of all counts whose interval holds the true share."""
    for truth in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        for seeds in SEEDS:
            intervals = [share(count, seeds) for count in range(seeds + 1)]
            chances = stats.binom.pmf(range(seeds + 1), seeds, truth)
            rate = sum(
                float(chance)
                for chance, one in zip(chances, intervals, strict=True)
                if covers(one.low, truth, one.high)
            )
            yield Coverage("share", f"share {truth}", seeds, truth, rate, 0.0, 0)


def of_profiles(simulations: int) -> Iterator[Coverage]:
    """Of four tasks, at three thresholds."""
    thresholds = np.asarray([0.3, 0.7, 0.9])
    many = np.stack([task(np.random.default_rng(1), MANY // 4) for task in TASKS], axis=1)
    truths = [float((many > threshold).mean()) for threshold in thresholds]
    for seeds in SEEDS:
        rng = np.random.default_rng((5, seeds))
        hits = np.zeros(len(thresholds), dtype=int)
        for _ in range(simulations):
            scores = np.stack([task(rng, seeds) for task in TASKS], axis=1)
            found = profiles({"": list(scores.T)}, thresholds)[""]
            hits += [covers(*ends) for ends in zip(found.low, truths, found.high, strict=True)]
        for threshold, truth, count in zip(thresholds, truths, hits.tolist(), strict=True):
            yield counted("profile", f"four tasks, > {threshold:g}", seeds, truth, count, simulations)


def of_times(simulations: int) -> Iterator[Coverage]:
    """Of exponential times; the law does not matter, since all depends on ranks, but ties and censoring do."""
    # Seen at evaluations, five of them until the median.
    grid = math.log(2) / 5
    for seen in ("at once", "at evaluations"):
        for watched in (1.0, 0.7, 0.4):
            horizon = math.inf if watched == 1 else -math.log(1 - watched)
            if seen == "at evaluations" and watched < 1:
                horizon = grid * math.floor(horizon / grid)
            truth = math.log(2)
            for seeds in SEEDS:
                rng = np.random.default_rng((6, seeds, round(10 * watched), seen == "at once"))
                hits = 0
                for _ in range(simulations):
                    times = rng.exponential(size=seeds)
                    if seen == "at evaluations":
                        times = grid * np.ceil(times / grid)
                    observed = [float(time) if time <= horizon + 1e-9 else None for time in times]
                    found = time_to_event(observed, [min(horizon, 1e9)] * seeds)
                    hits += covers(found.low, truth, found.high)
                law = f"{1 - watched:.0%} not reached, seen {seen}"
                yield counted("median time", law, seeds, truth, hits, simulations)


def table(found: list[Coverage]) -> Table:
    shown = Table("statistic", "law", "method", *(f"{seeds} seeds" for seeds in SEEDS), title="Coverage, %")
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for one in found:
        cells = rows.setdefault((one.statistic, one.law, one.method), {})
        cells[one.seeds] = f"{100 * one.coverage:.1f} ± {100 * one.error:.1f}"
    for row, cells in rows.items():
        shown.add_row(*row, *(cells.get(seeds, "") for seeds in SEEDS))
    return shown


def written(head: dict[str, float], found: list[dict[str, object]]) -> str:
    """JSON, a number of the table on each line."""
    lines = ",\n".join(f"  {json.dumps(one)}" for one in found)
    return f'{json.dumps(head)[:-1]}, "coverage": [\n{lines}\n]}}\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1500, help="of each number (1500)")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file to write")
    args = parser.parse_args()
    if args.simulations < 4:
        parser.error("--simulations: at least 4")
    start = time.perf_counter()
    found = list(of_shares())
    parts = {
        "improvement": (of_improvement, (len(PAIRS) + 2) * len(SEEDS) + len(PAIRS)),
        "aggregates": (of_aggregates, len(LAWS) * (4 * len(SEEDS) + 3) + 3 * len(SEEDS) + 3),
        "profiles": (of_profiles, 3 * len(SEEDS)),
        "times": (of_times, 6 * len(SEEDS)),
    }
    for name, (part, total) in parts.items():
        found += track(part(args.simulations), description=name, total=total)
    seconds = round(time.perf_counter() - start)
    head = {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seconds": seconds}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(written(head, [asdict(one) for one in found]), encoding="utf-8")
    console = Console()
    console.print(table(found))
    console.print(f"{seconds} s; written to {args.out}")


if __name__ == "__main__":
    main()
