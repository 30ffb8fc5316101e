"""What `comparison.json` says of made-up runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agents.compare import statistics
from agents.compare.plan import Cell, Plan
from agents.compare.records import Curve, Record
from agents.compare.summary import summarise
from agents.config import resolve

CARTPOLE, ACROBOT, TAXI = "CartPole-v1", "Acrobot-v1", "Taxi-v3"
THRESHOLDS = {CARTPOLE: 475.0, ACROBOT: -100.0, TAXI: 8.0}
RANDOM = {CARTPOLE: 25.0, ACROBOT: -500.0, TAXI: -192.0}


def cell(env: str, label: str, seeds: int, **keys) -> Cell:
    layered = {"timesteps": 1000, "eval_every": 500, "threshold": THRESHOLDS[env], "env": env, "agent": "reinforce"}
    return Cell(label, resolve(layered | keys), tuple(range(seeds)))


def record(seed: int, score: float, *, curve=((500, 1.0, 0.0), (1000, 2.0, 9.0)), steps_to_threshold=None) -> Record:
    """A run; `curve` holds steps, seconds and return of each evaluation."""
    values = {
        "seed": seed,
        "eval_return_mean": score,
        "eval_return_std": 0.0,
        "eval_return_stochastic_mean": score - 1,
        "timesteps": 1000,
        "train_seconds": 2.0,
        "steps_to_threshold": steps_to_threshold,
        "seconds_to_threshold": None if steps_to_threshold is None else steps_to_threshold / 500,
        "load": None,
    }
    steps, seconds, returns = zip(*curve, strict=True) if curve else ((), (), ())
    return Record(values, {"versions": {}, "machine": {}}, Curve(list(steps), list(seconds), list(returns)))


def summary(*rows: tuple[Cell, list[Record]]) -> dict:
    """Read back from JSON."""
    known = {(cell.env, cell.label, record.seed): record for cell, records in rows for record in records}
    found = summarise(Plan([cell for cell, _ in rows], random_returns=RANDOM), known)
    return json.loads(json.dumps(found, allow_nan=False))


def runs(*scores: float) -> list[Record]:
    return [record(seed, score) for seed, score in enumerate(scores)]


def row(found: dict, label: str = "a", env: str = CARTPOLE) -> dict:
    return found["environments"][env]["agents"][label]


def test_estimates_by_hand():
    agent = row(summary((cell(CARTPOLE, "a", 4), runs(25.0, 475.0, 250.0, 500.0))))
    assert agent["return"]["iqm"][0] == agent["return"]["median"][0] == 362.5
    assert agent["return"]["mean"][0] == 312.5
    assert (agent["return"]["min"], agent["return"]["max"]) == (25, 500)
    assert agent["stochastic_return"]["iqm"][0] == 361.5
    assert agent["solved"]["count"] == 2
    assert agent["normalized"]["iqm"][0] == 0.75
    # 1 - (0 + 1 + .5 + 1) / 4: what is above the threshold does not count.
    assert agent["normalized"]["optimality_gap"][0] == 0.375


def test_what_is_missing_is_told():
    found = summary((cell(CARTPOLE, "a", 3), runs(1.0, 2.0)), (cell(CARTPOLE, "b", 1), []))
    assert found["missing"] == [
        {"env": CARTPOLE, "agent": "a", "seed": 2},
        {"env": CARTPOLE, "agent": "b", "seed": 0},
    ]
    assert list(found["environments"][CARTPOLE]["agents"]) == ["a"]


def test_a_threshold_that_was_looked_for():
    records = [record(0, 500.0, steps_to_threshold=500), record(1, 30.0), record(2, 30.0)]
    agent = row(summary((cell(CARTPOLE, "a", 3), records)))
    assert agent["steps_to_threshold"]["reached"] == agent["seconds_to_threshold"]["reached"] == 1
    assert agent["steps_to_threshold"]["median"][0] is None


@pytest.mark.parametrize("keys", [{"eval_every": 0}, {"periodic_episodes": 19}])
def test_a_threshold_that_nobody_looked_for(keys):
    agent = row(summary((cell(CARTPOLE, "a", 2, **keys), runs(500.0, 500.0))))
    assert agent["steps_to_threshold"] is None
    assert agent["seconds_to_threshold"] is None
    # The final policy was evaluated all the same.
    assert agent["solved"]["count"] == 2


class TestCurves:
    def test_runs_without_evaluations_do_not_remove_those_of_the_others(self):
        some = [record(seed, 1.0, curve=((500, 1.0, 10.0 * seed), (1000, 2.0, 20.0 * seed))) for seed in range(4)]
        curve = row(summary((cell(CARTPOLE, "a", 5), [*some, record(4, 1.0, curve=())])))["curve"]
        assert curve == row(summary((cell(CARTPOLE, "a", 4), some)))["curve"]
        assert curve["steps"]["iqm"][0] == 15

    def test_no_evaluations_at_all(self):
        assert row(summary((cell(CARTPOLE, "a", 1), [record(0, 1.0, curve=())])))["curve"] is None

    def test_over_seconds_as_far_as_the_fastest(self):
        """From where all have begun: at 3 seconds the slow run is half way between its evaluations."""
        fast, slow = ((500, 1.0, 0.0), (1000, 3.0, 8.0)), ((500, 2.0, 0.0), (1000, 4.0, 8.0))
        records = [record(0, 1.0, curve=fast), record(1, 1.0, curve=slow)]
        curve = row(summary((cell(CARTPOLE, "a", 2), records)))["curve"]["seconds"]
        assert (curve["x"][0], curve["x"][-1]) == (2, 3)
        assert curve["iqm"][-1] == 6

    def test_bands_take_as_many_resamples_as_the_report_tells(self):
        rng = np.random.default_rng(0)
        ends = rng.normal(size=(6, 2))
        records = [record(seed, 1.0, curve=((500, 1.0, a), (1000, 2.0, b))) for seed, (a, b) in enumerate(ends)]
        found = summary((cell(CARTPOLE, "a", 6), records))
        curve = row(found)["curve"]["steps"]
        grid = np.asarray([np.interp(curve["x"], (500, 1000), pair) for pair in ends])
        _, low, high = statistics.band(grid, resamples=found["resamples"])
        np.testing.assert_allclose(curve["low"], low, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(curve["high"], high, rtol=1e-5, atol=1e-9)
        assert not np.allclose(curve["low"], statistics.band(grid, resamples=2000)[1], rtol=1e-5, atol=1e-9)


class TestAcross:
    def test_every_seed_counts_and_every_environment_the_same(self):
        """B has a single run on Acrobot: that costs A none of its own, and B none of those on CartPole."""
        found = summary(
            (cell(CARTPOLE, "a", 3), runs(475.0, 475.0, 250.0)),
            (cell(ACROBOT, "a", 2), runs(-500.0, -100.0)),
            (cell(CARTPOLE, "b", 4), runs(25.0, 25.0, 25.0, 475.0)),
            (cell(ACROBOT, "b", 2), runs(-300.0)),
        )["across"]
        assert found["environments"] == {CARTPOLE: {"seeds": [3, 4]}, ACROBOT: {"seeds": [1, 2]}}
        assert found["left_out"] == []
        assert found["agents"]["a"]["mean"][0] == pytest.approx((2.5 / 3 + 0.5) / 2)
        assert found["agents"]["b"]["mean"][0] == pytest.approx((0.25 + 0.5) / 2)
        # On CartPole 9 of 12 pairs are A's and 2 are ties; on Acrobot there are a win and a loss.
        assert found["improvement"]["a"]["b"][0] == pytest.approx(((9 + 1) / 12 + 0.5) / 2)
        assert found["agents"]["a"]["mean"][1] is not None
        assert found["agents"]["b"]["mean"][1] is None
        share = dict(zip(found["profiles"]["thresholds"], found["profiles"]["agents"]["a"]["share"], strict=True))
        middle = min(share, key=lambda threshold: abs(threshold - 0.75))
        assert share[middle] == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-5)

    def test_who_has_no_runs_somewhere_is_left_out_by_name(self):
        found = summary(
            (cell(CARTPOLE, "a", 1), runs(475.0)),
            (cell(ACROBOT, "a", 1), runs(-100.0)),
            (cell(CARTPOLE, "b", 1), runs(475.0)),
            (cell(ACROBOT, "b", 1), []),
            (cell(CARTPOLE, "c", 1), []),
        )["across"]
        assert list(found["agents"]) == ["a"]
        assert found["left_out"] == [
            {"agent": "b", "reason": f"no runs on {ACROBOT}"},
            {"agent": "c", "reason": f"no runs on {CARTPOLE}, {ACROBOT}"},
        ]

    def test_an_environment_without_runs_does_not_count(self):
        found = summary(
            (cell(CARTPOLE, "a", 1), runs(475.0)),
            (cell(ACROBOT, "a", 1), runs(-100.0)),
            (cell(TAXI, "a", 1), []),
        )["across"]
        assert list(found["environments"]) == [CARTPOLE, ACROBOT]
        assert list(found["agents"]) == ["a"]

    def test_nobody_has_run_everywhere(self):
        found = summary((cell(CARTPOLE, "a", 1), runs(475.0)), (cell(ACROBOT, "b", 1), runs(-100.0)))["across"]
        assert found["agents"] == {}
        assert [entry["agent"] for entry in found["left_out"]] == ["a", "b"]
        assert found["environments"] == {CARTPOLE: {"seeds": None}, ACROBOT: {"seeds": None}}

    def test_one_environment_is_not_all(self):
        found = summary((cell(CARTPOLE, "a", 1), runs(475.0)), (cell(ACROBOT, "a", 1), []))
        assert found["across"] is None
