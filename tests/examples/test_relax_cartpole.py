"""RELAX's CartPole protocol: episodes, the criterion, what is run and what is not run again, and what is said of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.compare.fan_out import Finished
from agents.compare.statistics import aggregates
from agents.config import TUNING_SEEDS
from agents.errors import UserError
from examples.relax_cartpole import __main__ as command
from examples.relax_cartpole import protocol, training, variance
from examples.relax_cartpole.gradients import ESTIMATORS, Episode, Settings
from examples.relax_cartpole.protocol import Job, candidates, key, settings_of
from examples.relax_cartpole.report import difference, rows, summary, variance_rows
from examples.relax_cartpole.variance import VarianceJob
from gumbel_rl.critics import mlp

GOOD = Settings(0.01, 0.01, 10.0)


# Episodes.


def test_an_episode_is_what_the_policy_did() -> None:
    torch.manual_seed(0)
    env = gym.make("CartPole-v1", max_episode_steps=training.STEP_LIMIT)
    env.reset(seed=0)
    policy = mlp([4, *training.HIDDEN, 2], torch.nn.ReLU)
    episode, total = training.play(env, policy)
    steps = len(episode.returns)
    assert total == steps
    assert [tuple(part.shape) for part in episode] == [(steps, 4), (steps, 2), (steps, 2), (steps,)]
    chosen = (policy(episode.observations) + episode.noise).argmax(-1)
    assert torch.equal(episode.actions, torch.eye(2)[chosen])
    # Rewards are 1: the return from step t is (1 - gamma^(T - t)) / (1 - gamma).
    left = torch.arange(steps, 0, -1)
    torch.testing.assert_close(episode.returns, (1 - training.GAMMA**left) / (1 - training.GAMMA))
    replayed = gym.make("CartPole-v1")
    replayed.reset(seed=0)
    observation, _ = replayed.reset()
    for t in range(steps):
        assert np.array_equal(observation, episode.observations[t].numpy())
        observation, *_ = replayed.step(int(chosen[t]))


def test_the_entropy_grows_along_its_gradient() -> None:
    # Of one logit x against 0 the entropy has the slope -x p (1 - p).
    policy = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        policy.weight.copy_(torch.tensor([[0.7], [0.0]]))
    (slope,) = training.entropy_gradient(policy, torch.ones(3, 1))
    p = torch.sigmoid(torch.tensor(0.7))
    torch.testing.assert_close(slope[0, 0], -3 * 0.7 * p * (1 - p))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_runs_are_determined_by_their_seed(estimator: str) -> None:
    first, again, other = (training.train(estimator, GOOD, seed, episodes=12) for seed in (1, 1, 2))
    assert first == again
    assert first.returns != other.returns
    assert first.solved is None
    assert len(first.returns) == 12


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_learns(estimator: str) -> None:
    # Against the gradient, returns fall to 10; without learning they stay near 20.
    returns = training.train(estimator, GOOD, 3, episodes=160).returns
    assert np.mean(returns[-30:]) > 60 > 40 > np.mean(returns[:30])


@pytest.mark.parametrize(("bad", "good", "solved"), [(50, 195.0, None), (50, 196.0, 150), (0, 200.0, 100)])
def test_solved_is_a_mean_above_195_over_100_episodes(
    bad: int, good: float, solved: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = iter([9.0] * bad + [good] * (200 - bad))

    def scripted(env: Any, policy: Any) -> tuple[Episode, float]:
        noise = torch.zeros(2, 2)
        return Episode(torch.ones(2, 4), torch.eye(2), noise, torch.ones(2)), next(totals)

    monkeypatch.setattr(training, "play", scripted)
    found = training.train("score-function", GOOD, 0, episodes=200, at_least=170)
    assert found.solved == solved
    assert len(found.returns) == (200 if solved is None else 170)


# The experiment.


class Worker:
    """In place of processes: solves the task after as many episodes as the settings and the seed say."""

    def __init__(self) -> None:
        self.done: list[Job] = []
        self.looked: list[int] = []

    def __call__(self, function: Any, items: Sequence[Any], *, jobs: int) -> Iterator[Finished[Any, dict[str, Any]]]:
        for job in items:
            if isinstance(job, VarianceJob):
                self.looked.append(job.seed)
                found = {name: [number, 1.0, 2.0, 3.0] for number, name in enumerate((*ESTIMATORS, "none"), start=1)}
                yield Finished(job, found, None)
                continue
            self.done.append(job)
            # Best at a learning rate of .01; the rival is the slower one.
            solved = 200 + int(500 * abs(np.log10(job.settings.learning_rate / 0.01))) + job.seed % 10
            solved += 100 * (job.estimator == "score-function")
            curve = [150.0] * (protocol.CURVE // protocol.POINT)
            yield Finished(job, {"solved": solved, "episodes": 600, "cpu_seconds": 1.0, "curve": curve}, None)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    stands_in = Worker()
    monkeypatch.setattr(protocol, "fan_out", stands_in)
    return stands_in


def test_both_are_tuned_alike_and_on_seeds_of_their_own(worker: Worker, tmp_path: Path) -> None:
    results = protocol.measure(tmp_path / "r.json", seeds=5, count=8)
    tuning = [job for job in worker.done if job.seed > TUNING_SEEDS]
    for name in ESTIMATORS:
        own = [job for job in tuning if job.estimator == name]
        assert len(own) == len(set(own)) == 8 * 4 + 3 * 12
        assert {job.settings for job in own} == set(candidates(8))
        best = min(candidates(8), key=lambda settings: abs(np.log10(settings.learning_rate / 0.01)))
        assert results["chosen"][name] == key(best)
        measured = [job for job in worker.done if job.estimator == name and job.seed < TUNING_SEEDS]
        assert [job.seed for job in measured] == list(range(5))
        assert {(job.settings, job.episodes) for job in measured} == {(best, training.EPISODES)}


def test_nothing_is_run_twice(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    first = protocol.measure(path, seeds=3, count=2)
    worker.done.clear()
    assert protocol.measure(path, seeds=3, count=2) == first
    assert worker.done == []
    assert worker.looked == [0, 1, 2]
    protocol.measure(path, seeds=5, count=2)
    assert worker.looked == [0, 1, 2, 3, 4]
    assert sorted((job.estimator, job.seed) for job in worker.done) == sorted(
        (name, seed) for name in ESTIMATORS for seed in (3, 4)
    )


def test_runs_with_settings_that_are_no_longer_chosen_are_put_aside(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    results = protocol.measure(path, seeds=2, count=1)
    before, solved = results["chosen"]["relax"], [run["solved"] for run in results["runs"]["relax"].values()]
    results = protocol.measure(path, seeds=2, count=8)
    assert results["turned_down"]["relax"] == {before: dict(zip("01", solved, strict=True))}
    assert protocol.read(path) == results
    assert results["chosen"]["relax"] != before
    assert {run["settings"] for run in results["runs"]["relax"].values()} == {results["chosen"]["relax"]}


def test_candidates_are_a_sequence_within_the_bounds() -> None:
    many = candidates(20)
    assert len(set(many)) == 20
    assert candidates(7) == many[:7]
    for settings in many:
        assert settings_of(key(settings)) == settings
        for name, (low, high) in protocol.SPACE.items():
            assert low <= getattr(settings, name) <= high


@pytest.mark.parametrize(
    ("text", "message"),
    [("nonsense", "holds no results"), ("[]", "holds no results"), ('{"protocol": {"gamma": 1}}', "another protocol")],
)
def test_a_file_of_something_else_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        protocol.measure(path)
    assert path.read_text(encoding="utf-8") == text


def test_a_job_is_one_training() -> None:
    found = protocol.run(Job("relax", GOOD, 4, episodes=25))
    returns = training.train("relax", GOOD, 4, episodes=25).returns
    assert found["solved"] is None
    assert found["episodes"] == 25
    assert found["curve"] == pytest.approx([np.mean(returns[:10]), np.mean(returns[10:20])], abs=0.051)


# What is said.


def test_unsolved_runs_count() -> None:
    def runs(*solved: int | None) -> dict[str, Any]:
        return {str(seed): {"solved": one, "cpu_seconds": 2.0} for seed, one in enumerate(solved)}

    spread = {
        "0": {"relax": [1.0, 3.0], "score-function": [2.0, 3.0], "none": [8.0, 30.0]},
        "1": {"relax": [1.1, 3.0], "score-function": [2.0, 3.0], "none": [2.0, 30.0]},
    }
    said = summary({"relax": runs(100, 200, 300, None), "score-function": runs(None, None, None, 400)}, spread)
    relax, rival = said["relax"], said["score-function"]
    assert relax["mean"][0] == pytest.approx((600 + training.EPISODES) / 4, abs=0.1)
    assert relax["mean"][1] < relax["mean"][0] < relax["mean"][2]
    assert (relax["solved"], rival["solved"]) == (3, 1)
    assert relax["median"][0] == 200
    assert rival["median"][0] is None
    assert relax["slowest"] is None
    assert said["relax - score-function"]["mean"][0] == pytest.approx((600 - 400 - 2 * training.EPISODES) / 4, abs=0.1)
    # The three that solved it beat all; the other one ties with three.
    assert said["relax - score-function"]["probability_quicker"][0] == pytest.approx((3 * 4 + 3 / 2) / 16, abs=1e-3)
    # Geometric means of 1/2 and 11/20, and of 1 and 1.
    (ratio, low, high), certain = said["variance"]["relax / score-function"]
    assert ratio == pytest.approx((1 / 2 * 11 / 20) ** 0.5, abs=1e-3)
    assert ratio / low == pytest.approx(high / ratio, rel=0.02)
    assert low < ratio
    assert certain == [1, 1, 1]
    assert said["variance"]["score-function / none"][1][0] == pytest.approx(0.1)


def test_variances_are_those_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance, "CHECKPOINTS", (2, 4))
    monkeypatch.setattr(variance, "FRESH", 20)
    # A value that is always 0 is no baseline.
    job = VarianceJob((GOOD, Settings(0.01, 0.01, 0.0)), 5)
    found = variance.measure_variances(job)
    assert found == variance.measure_variances(job)
    assert found["score-function"] == found["none"] != found["relax"]
    good = variance.measure_variances(VarianceJob((GOOD, GOOD), 5))
    assert good["relax"] == found["relax"]
    assert good["score-function"] != found["none"]

    monkeypatch.setattr(variance, "ESTIMATORS", {"relax": Constant, "score-function": Constant})
    found = variance.measure_variances(job)
    # Entries of +1 and -1 in turn: each has the variance 20/19, and the policy has 50 + 110 + 22 of them.
    assert found["none"] == pytest.approx([182 * 20 / 19] * 2, rel=1e-3)


class Constant:
    """A gradient of ones, its sign changing from call to call."""

    def __init__(self, *arguments: Any) -> None:
        self.sign = 1.0

    def gradient(self, policy: torch.nn.Module, episode: Episode) -> tuple[torch.Tensor, ...]:
        self.sign = -self.sign
        return tuple(torch.full_like(parameter, self.sign) for parameter in policy.parameters())

    def learn(self, episode: Episode, gradient: Any) -> None:
        pass


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["relax_cartpole", *arguments])
    command.run_command(command.main)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_command_makes_table_and_figure(
    suffix: str,
    worker: Worker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, picture = tmp_path / "new" / "r.json", tmp_path / f"f{suffix}"
    call(monkeypatch, "--seeds", "3", "--candidates", "2", "--out", str(out), "--figure", str(picture))
    said = capsys.readouterr().out
    assert "RELAX" in said
    assert "472 ± 114" in said
    assert json.loads(out.read_text("utf-8"))["summary"]["relax"]["seeds"] == 3
    assert picture.read_bytes().startswith({".svg": b"<?xml", ".png": b"\x89PNG"}[suffix])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2"),
        (["--jobs", "0"], "--jobs at least 1"),
        (["--figure", "f.bmp"], "must end in .svg or .png, got f.bmp"),
        (["--out", "/dev/null/r.json"], "/dev/null/r.json"),
    ],
)
def test_mistakes_end_with_status_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_page_says_what_was_measured() -> None:
    results = json.loads(command.RESULT.read_text(encoding="utf-8"))
    page = (command.ROOT / "docs" / "relax.md").read_text(encoding="utf-8")
    assert results["summary"] == json.loads(json.dumps(summary(results["runs"], results["variance"])))
    for says, cells in (rows(results) | variance_rows(results)).items():
        assert f"| {says} | {' | '.join(cells)} |" in page
    assert difference(results).replace("mean of RELAX", "Mean of RELAX", 1) in page
    for settings in results["chosen"].values():
        for part in settings.split():
            assert part.partition("=")[2].lstrip("0") in page
    tuning = results["tuning"]
    failed = {name: [one is None for tried in tuning[name].values() for one in tried.values()] for name in ESTIMATORS}
    relax, rival = (f"{sum(found)} of {len(found)}" for found in failed.values())
    assert f"{relax} with RELAX and {rival} with its rival" in page
    ((settings, first),) = results["turned_down"]["relax"].items()
    counted = [np.array([training.EPISODES if one is None else one for one in first.values()], float)]
    mean = aggregates({"first": counted}, ["mean"])["first"]["mean"]
    assert "mean of {:.0f} [{:.0f}, {:.0f}] episodes, {} runs".format(*mean, list(first.values()).count(None)) in page
    assert f"{settings_of(settings).learning_rate:g}".lstrip("0") in page
