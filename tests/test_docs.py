"""The documentation: its examples run, and its figures are what the library computes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from gumbel_rl import ActionFactors, FactoredCategorical, GumbelSAC, make_estimator

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("README.md"), *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> str:
    """The page's Python blocks one after the other, with trainings cut short."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\.learn\([\d_]+", ".learn(60", "\n".join(blocks))


def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let algorithms get to their updates within these few steps."""
    limits = {
        OnPolicyAlgorithm: ("n_steps", 64),
        OffPolicyAlgorithm: ("learning_starts", 50),
        GumbelSAC: ("learning_starts", 40),
    }
    for cls, (setting, most) in limits.items():

        def setup(self: Any, original: Any = cls._setup_model, setting: str = setting, most: int = most) -> None:
            setattr(self, setting, min(getattr(self, setting), most))
            original(self)

        monkeypatch.setattr(cls, "_setup_model", setup)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    brief(monkeypatch)
    exec(compile(examples(page), str(page), "exec"), {"__name__": "__main__"})


def table_of_concepts() -> dict[str, list[float]]:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|((?: -?\d\.\d{3} \|){3})$", text, flags=re.MULTILINE)
    return {name: [float(cell) for cell in cells.split("|")[:3]] for name, cells in rows}


def test_bias_table_of_concepts() -> None:
    # Every cell is a mean of a million draws against the printed figure, which is off by rounding (5e-4). A deviation
    # beyond that of 6 standard errors has probability 2e-9 a cell, 2e-8 in all twelve.
    draws = 1_000_000
    factors = ActionFactors((3,))
    q = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    table = table_of_concepts()
    assert len(table) == 4
    for name, figures in table.items():
        tau = re.search(r"τ = ([\d.]+)", name)
        if tau is None:
            estimates = [(make_estimator(estimator), 1) for estimator in ("exact", "straight-through")]
        else:
            estimates = [(make_estimator("st-gumbel-softmax", temperature=float(tau[1])), draws)]
        for estimator, batch in estimates:
            torch.manual_seed(0)
            logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64).repeat(batch, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(
                estimator(FactoredCategorical(logits, factors), lambda z: z @ q).sum(), logits
            )
            error = gradient.std(0) / batch**0.5 if batch > 1 else torch.zeros(3, dtype=torch.float64)
            assert ((gradient.mean(0) - torch.tensor(figures, dtype=torch.float64)).abs() <= 5e-4 + 6 * error).all(), (
                name
            )


@pytest.mark.parametrize(
    ("statistics", "but", "beginning"),
    [
        (("iqm", "band"), "", "| IQM, learning curves | "),
        (("median",), "70 % at the maximum", "| median | "),
        (("improvement",), "solved 98 % and 95 %", "| probability of improvement | "),
    ],
)
def test_coverage_table_of_comparisons(statistics: tuple[str, ...], but: str, beginning: str) -> None:
    coverage = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text(encoding="utf-8"))["coverage"]
    found = [
        100 * row["coverage"]
        for row in coverage
        if row["statistic"] in statistics and row["method"] == "ours" and row["seeds"] >= 20 and row["law"] != but
    ]
    (row,) = re.findall(
        rf"^{re.escape(beginning)}(.*?) %", (ROOT / "docs" / "comparisons.md").read_text("utf-8"), flags=re.MULTILINE
    )
    assert row == f"{min(found):.1f} to {max(found):.1f}"


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_results_are_lines_of_the_report(page: str) -> None:
    reports = [ROOT / "benchmarks" / name / "report.md" for name in ("comparison", "combinations", "factored")]
    report = [line for path in reports for line in path.read_text(encoding="utf-8").splitlines()]
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    # Rows with an interval.
    rows = [line for line in lines if re.match(r"\| `[^`]+` \|.* \[[^\]]+\]", line)]
    assert rows
    assert set(rows) <= set(report)


def test_tables_of_the_plug_ins() -> None:
    text = (ROOT / "docs" / "stable-baselines3.md").read_text("utf-8")
    results = ROOT / "benchmarks" / "results"
    settings = json.loads((results / "plug_ins.json").read_text("utf-8"))["settings"]
    for name, found in settings.items():
        (value, low, high), seeds = found["iqm"], len(found["runs"])
        solved = f"{round(found['solved'][0] * seeds)} of {seeds}"
        iqm, worst = f"{value:.1f} [{low:.1f}, {high:.1f}]", f"{found['worst']:.1f}"
        row = f"| {iqm} | {worst} | {solved} | {found['entropy_ratio']:.2f} |"
        assert row in text, f"{name}: {row}"
    for speed in json.loads((results / "on_policy_plugin.json").read_text("utf-8"))["speed"]:
        stock, ours = speed["microseconds_a_step"].values()
        value, low, high = (f"{number:.{1 if number > 10 else 2}f}" for number in speed["stock_over_plug_in"])
        row = f"| {stock:.0f} | {ours:.0f} | {value} [{low}, {high}] |"
        assert row in text, f"{speed['space']}: {row}"
