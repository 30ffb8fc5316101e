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


PATHWISE = ("straight-through", "gumbel-softmax", "st-gumbel-softmax", "gumbel-rao", "zgr", "reinmax")


def critics() -> dict[str, dict[str, dict[str, str]]]:
    """By problem and estimator: with 4 samples, at the temperature of the least error."""
    best: dict[str, dict[str, dict[str, str]]] = {}
    for row in sorted(rows_of("estimators.critics.csv"), key=lambda row: float(row["mse"])):
        if row["samples"] == "4":
            best.setdefault(row["problem"].partition(",")[0], {}).setdefault(row["estimator"], row)
    return best


def critic_table(best: dict[str, dict[str, str]]) -> str:
    """The table of a critic."""
    lines = [
        "| estimator | T | squared bias | variance | error | cosine |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label in ESTIMATORS:
        row = best[label]
        bias, variance, error = (
            uncertain(float(row[name]), float(row[f"{name}_error"])) for name in ("bias2", "variance", "mse")
        )
        cells = [
            f"`{label}`",
            row["temperature"],
            f"**{bias}**" if float(row["bias_p"]) < SIGNIFICANT else bias,
            variance,
            error,
            f"{float(row['cosine']):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_tables_of_critics_are_those_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(critics()) == {"CartPole-v1", "gumbel_rl/Coordination-v0"}
    for best in critics().values():
        assert critic_table(best) in text


def test_what_the_page_says_about_the_critics() -> None:
    cartpole, coordination = critics()["CartPole-v1"], critics()["gumbel_rl/Coordination-v0"]
    exact = float(cartpole["exact"]["seconds"])
    assert all(2 * exact < float(row["seconds"]) for label, row in cartpole.items() if label != "exact")
    assert 0.085 < float(coordination["local-expectation"]["mse"]) < 0.095
    assert 9 < float(coordination["exact"]["seconds"]) / float(coordination["local-expectation"]["seconds"]) < 11
    # Squared biases of 0.5 to 28, and no error below 0.9, whatever the number of samples and the temperature.
    biases = [float(best[label]["bias2"]) for best in critics().values() for label in PATHWISE]
    assert min(biases) > 0.5
    assert max(biases) < 28.5
    for row in rows_of("estimators.critics.csv"):
        assert row["estimator"] not in PATHWISE or float(row["mse"]) > 0.9


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
