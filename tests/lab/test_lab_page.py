"""The page on the laboratory: its figures are those of the committed results."""

from __future__ import annotations

import csv
from pathlib import Path

from gumbel_rl import ESTIMATORS
from gumbel_rl.lab.report import SIGNIFICANT, uncertain

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "laboratory.md"


def rows_of(name: str) -> list[dict[str, str]]:
    with (RESULTS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def least_errors(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """By problem and estimator: with 4 samples, at the temperature of the least error."""
    best: dict[tuple[str, str], dict[str, str]] = {}
    for row in sorted(rows_of(name), key=lambda row: float(row["mse"])):
        if row["samples"] == "4":
            best.setdefault((row["problem"], row["estimator"]), row)
    return best


def critic_rows(name: str) -> list[str]:
    """The lines of a table of critics."""
    best = least_errors(name)
    problems = list(dict.fromkeys(row["problem"] for row in rows_of(name)))
    lines = []
    for label in ESTIMATORS:
        cells = [f"`{label}`"]
        for problem in problems:
            row = best[problem, label]
            bias = uncertain(float(row["bias2"]), float(row["bias2_error"]))
            cells += [
                row["temperature"],
                f"**{bias}**" if float(row["bias_p"]) < SIGNIFICANT else bias,
                uncertain(float(row["variance"]), float(row["variance_error"])),
                f"{float(row['cosine']):.2f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_table_of_critics_is_that_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for line in critic_rows():
        assert line in text


def test_committed_results_have_every_estimator() -> None:
    for name, problems in (("estimators.critics.csv", 2), ("estimators.objectives.csv", 3)):
        rows = rows_of(name)
        assert len({row["problem"] for row in rows}) == problems
        for problem in {row["problem"] for row in rows}:
            assert {row["estimator"] for row in rows if row["problem"] == problem} == set(ESTIMATORS)


def test_figures_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for where in ("lab", "lab-critics"):
        for name in ("bias-variance", "temperature", "cost"):
            assert f"assets/{where}-{name}.svg" in text
            assert (PAGE.parent / "assets" / f"{where}-{name}.svg").stat().st_size > 1000
