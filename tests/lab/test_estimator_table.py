"""The table of estimators: traits against what is known of the methods, and the committed table against a small run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import outcomes

from gumbel_rl import ESTIMATORS
from gumbel_rl.lab import built_in, learn, measure
from gumbel_rl.lab.labels import make
from gumbel_rl.lab.measurement import BLOCKS, Quality, quality_of
from gumbel_rl.lab.methods import continuous, discrete, methods, setting
from gumbel_rl.lab.table import BEGIN, END, KINDS, describe_bias, is_biased, main, render, replace_in_page
from gumbel_rl.lab.traits import chi_square_p, find_traits

ROOT = Path(__file__).resolve().parent.parent.parent
COMMITTED = ROOT / "benchmarks" / "results" / "estimators.json"
TRAITS = ("backpropagates", "differentiable", "exact_samples", "evaluations")

# What is known of them: a gradient returns to the sample, the gradient is the derivative, the samples are exact.
KNOWN = {
    "gaussian-reparameterisation": ("yes", "yes", "yes", 1),
    "gaussian-score-function": ("no", "surrogate", "yes", 1),
    "gaussian-rloo": ("no", "surrogate", "yes", 1),
    "gumbel-max": ("no", "no", "yes", 1),
    "exact": ("no sample", "yes", "no sample", 256),
    "score-function": ("no", "surrogate", "yes", 1),
    "rloo": ("no", "surrogate", "yes", 1),
    "local-expectation": ("no", "surrogate", "yes", 13),
    "rebar": ("relaxed copy", "surrogate", "yes", 2),
    "relax": ("relaxed copy", "surrogate", "yes", 2),
    "straight-through": ("yes", "surrogate", "yes", 1),
    "gumbel-softmax": ("yes", "yes", "no", 1),
    "st-gumbel-softmax": ("yes", "surrogate", "yes", 1),
    "gumbel-rao": ("yes", "surrogate", "yes", 1),
    "zgr": ("yes", "surrogate", "yes", 1),
    "reinmax": ("yes", "surrogate", "yes", 1),
    "gapped-st": ("yes", "surrogate", "yes", 1),
    "mixture": ("yes", "surrogate", "yes", 2),
}


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return content


def test_committed_table_has_every_estimator_and_what_they_are_compared_with(committed: dict[str, Any]) -> None:
    assert list(committed["methods"]) == [method.key for method in methods()]
    assert set(ESTIMATORS) < set(committed["methods"])
    assert {"gaussian-reparameterisation", "gaussian-score-function", "gaussian-rloo", "gumbel-max"} < set(
        committed["methods"]
    )


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.key)
def test_traits_are_those_known_and_those_committed(method: Any, committed: dict[str, Any]) -> None:
    made, where = setting(method, "nonlinear", 2)
    traits = find_traits(made, where)
    found = tuple(getattr(traits, name) for name in TRAITS)
    assert found == tuple(committed["methods"][method.key][name] for name in TRAITS)
    assert found == KNOWN.get(method.key, found)


@pytest.mark.parametrize("kind", KINDS)
def test_whether_there_is_a_bias_is_as_committed(kind: str, committed: dict[str, Any]) -> None:
    # Of an unbiased method a bias is found once in a million times, of a biased one none in a small run at most if its
    # bias is small; the smallest, of zgr, is 0.17 and found at 10 standard errors.
    samples = committed["settings"]["samples"]
    for method in methods():
        before = committed["methods"][method.key]
        if before["differentiable"] == "no":
            continue
        made, where = setting(method, kind, samples)
        size = 1 if method.key == "exact" else 1000 // BLOCKS
        if method.key not in {"rebar", "relax"}:  # which are unbiased whatever they have learnt
            quality = quality_of(where.gradients, where.gradient, size=size, at_once=50, seed=5)
            known = Quality(**before[kind])
            assert is_biased(quality) == is_biased(known), method.key
            assert abs(quality.variance - known.variance) <= 6 * (quality.variance_error + known.variance_error)
        unbiased = getattr(made, "unbiased", True)
        assert not (unbiased and is_biased(Quality(**before[kind]))), method.key


def test_committed_page_is_made_of_the_committed_numbers(committed: dict[str, Any]) -> None:
    table = render(committed)
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == table
    assert table in (ROOT / "docs" / "laboratory.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^-m].*\|$", table, flags=re.MULTILINE)
    assert len(rows) + table.count("| mixture") == len(methods())


def test_discrete_settings_measure_as_the_laboratory_does() -> None:
    problem = built_in("nonlinear", (4,) * 4)
    estimator = make("straight-through", samples=2, multilinear=False)
    where = discrete(estimator, problem)
    one = quality_of(where.gradients, where.gradient, size=20, at_once=20, seed=1)
    assert one == measure(estimator, problem, 400, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_gradients_are_those_of_sampling(kind: str) -> None:
    # Both estimators are tested against other closed forms elsewhere. Here they test this one: 6 standard errors in
    # 64 components, a false alarm of 1.3e-7.
    (method, *_) = methods()
    _, where = setting(method, kind, 50)
    torch.manual_seed(0)
    draws = where.gradients(400)
    error = draws.std(0) / 20
    assert ((draws.mean(0) - where.gradient).abs() <= 6 * error + 1e-9).all()
    assert (error.max() < 0.1).all()


def test_samples_that_are_wrong_fail_the_chi_square_test() -> None:
    problem = built_in("nonlinear", (4,) * 4)

    class Skewed(type(make("score-function", multilinear=False))):  # type: ignore[misc]
        """Samples at a temperature: noise that is not standard."""

        def __call__(self, dist: Any, f: Any, noise: Any = None) -> Any:
            return super().__call__(dist, f, 0.8 * self._noise(dist, noise))

    wrong = Skewed()
    assert find_traits(wrong, discrete(wrong, problem)).exact_samples == "no"

    from gumbel_rl.estimators import GaussianReparameterisation

    class Shifted(GaussianReparameterisation):
        def _sample(self, dist: Any, noise: Any) -> Any:
            return super()._sample(dist, noise) + 0.05

    shifted = Shifted()
    assert find_traits(shifted, continuous(shifted, "linear")).exact_samples == "no"


def test_chi_square() -> None:
    from scipy import stats

    chances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    counts = torch.tensor([130, 180, 310, 380])
    expected = stats.chisquare(counts.numpy(), 1000 * chances.numpy()).pvalue
    assert chi_square_p(counts, chances) == pytest.approx(expected, rel=1e-4)
    # Cells that are hardly ever expected are one.
    rare = torch.tensor([0.0005, 0.0005, 0.4, 0.599])
    assert chi_square_p(torch.tensor([1, 3, 420, 576]), rare) == pytest.approx(
        stats.chisquare([424, 576], [401, 599]).pvalue, rel=1e-4
    )


def test_vertices_are_told_apart() -> None:
    problem = built_in("linear", (3, 2))
    where = discrete(make("rloo", multilinear=True), problem)
    chances, cells = where.chances(outcomes((3, 2)))
    assert cells.tolist() == list(range(6))
    assert chances.sum() == pytest.approx(1)
    assert where.chances(outcomes((3, 2)) * 0.999)[1].tolist() == [-1] * 6


def test_biases_in_words() -> None:
    quality = Quality(0.25, 0.01, 1, 0, 1, 0, 0, 0, 0, 1e-9, 100)
    assert describe_bias(quality) == "0.500 ± 0.010"
    unknown = Quality(-0.01, 0.03, 1, 0, 1, 0, 0, 0, 0, 0.5, 100)
    assert describe_bias(unknown) == "none (< 0.3)"
    assert describe_bias(Quality(0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 100)) == "none"


def test_command_writes_and_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gumbel_rl.lab.table as module

    few = [method for method in methods() if method.key in {"gaussian-reparameterisation", "score-function", "rebar"}]
    monkeypatch.setattr(module, "methods", lambda: few)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    quick = ["--estimates", "40", "--rounds", "2", "--learning-steps", "1"]
    main([*quick, "--out", str(tmp_path / "out"), "--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n\n| method")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    content = json.loads((tmp_path / "out" / "estimators.json").read_text(encoding="utf-8"))
    assert (tmp_path / "out" / "estimators.md").read_text(encoding="utf-8") == render(content)
    assert content["methods"]["score-function"]["time"] == {"ratio": 1, "low": 1, "high": 1}


@pytest.mark.parametrize("page", ["", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_pages_without_a_place_are_refused(page: str) -> None:
    with pytest.raises(ValueError, match="once each, in this order"):
        replace_in_page(page, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "1"], "at least 2 samples"),
        (["--page", "no-such-page.md"], "no-such-page.md"),
        (["--estimates", "x"], "--estimates"),
    ],
)
def test_table_mistakes_end_with_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(tmp_path)])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: .+\n", captured.err)
    assert message in captured.err


def test_learning_is_for_those_that_learn() -> None:
    problem = built_in("linear", (2, 2))
    for label in ("score-function", "rebar"):
        estimator = make(label, multilinear=True)
        before = measure(estimator, problem, 40)
        learn(estimator, problem, 20)
        assert (measure(estimator, problem, 40) == before) == (not estimator.learns)
