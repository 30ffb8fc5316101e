"""Estimators on the critics of several runs of each kind: the documentation's table, from the laboratory's `table.csv`.

    python benchmarks/critics_table.py                              # of benchmarks/results/estimators.critics.csv
    python benchmarks/critics_table.py runs/lab/table.csv

Runs are of one kind if their critics' names differ in the directory alone. Of each estimator with 4 samples it shows
the temperature of the least error on average, and over the runs the mean, the least and the most of each number.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

from gumbel_rl import ESTIMATORS
from gumbel_rl.lab.report import SIGNIFICANT

RESULTS = Path(__file__).resolve().parent / "results" / "estimators.critics.csv"
SAMPLES = "4"
HEAD = ("T", "squared bias", "variance", "cosine")

Row = dict[str, str]


def read(path: Path = RESULTS) -> dict[str, dict[str, list[list[Row]]]]:
    """By kind and estimator, the rows of each temperature, one for each run; those of the least error first."""
    found: dict[str, dict[str, dict[str, list[Row]]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["samples"] == SAMPLES:
                kind = row["problem"].rpartition(", ")[0]
                temperatures = found.setdefault(kind, {}).setdefault(row["estimator"], {})
                temperatures.setdefault(row["temperature"], []).append(row)
    return {
        kind: {
            label: sorted(temperatures.values(), key=lambda rows: sum(float(row["mse"]) for row in rows))
            for label, temperatures in estimators.items()
        }
        for kind, estimators in found.items()
    }


def table(found: dict[str, dict[str, list[list[Row]]]]) -> list[str]:
    """The table in Markdown, four columns for each kind."""
    lines = [
        f"| {' | '.join(['estimator', *HEAD * len(found)])} |",
        f"| {' | '.join(['---', *['---:'] * len(HEAD) * len(found)])} |",
    ]
    for label in ESTIMATORS:
        cells = [f"`{label}`"]
        for kind in found.values():
            best = kind[label][0]
            bias = spread(best, "bias2")
            biased = all(float(row["bias_p"]) < SIGNIFICANT for row in best)
            cells += [best[0]["temperature"], f"**{bias}**" if biased else bias]
            cells += [spread(best, "variance"), spread(best, "cosine")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def spread(rows: list[Row], column: str) -> str:
    """Mean over the runs, and the least and the most in brackets."""
    values = [float(row[column]) for row in rows]
    mean = sum(values) / len(values)
    if not any(values):
        return "0"
    numbers = [mean, min(values), max(values)]
    places = 2 if column == "cosine" else _places(numbers)
    middle, low, high = (f"{round(number, places) + 0.0:.{max(places, 0)}f}" for number in numbers)
    return middle if low == high else f"{middle} [{low}, {high}]"


def _places(numbers: list[float]) -> int:
    """So many that the largest of them has two digits at least, but no more than four."""
    largest = max(abs(number) for number in numbers)
    return min(max(1 - math.floor(math.log10(largest)), 0), 4)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, metavar="FILE")
    print("\n".join(table(read(parser.parse_args().results))))


if __name__ == "__main__":
    main()
