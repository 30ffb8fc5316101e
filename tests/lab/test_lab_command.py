"""`python -m gumbel_rl.lab` as a user meets it: what it leaves behind, and mistakes in one line."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from gumbel_rl import ESTIMATORS
from gumbel_rl.lab import __main__ as module
from gumbel_rl.lab import built_in, figures, report
from gumbel_rl.lab.__main__ import Options, _problems, main
from gumbel_rl.lab.command_line import parse
from gumbel_rl.lab.sweep import Cell, Results, Sweep, run

QUICK = ["--estimates", "40", "--instances", "2", "--factors", "2", "--choices", "3", "--learning-steps", "2"]


@pytest.fixture(scope="module")
def results() -> Results:
    sweep = Sweep(list(ESTIMATORS), temperatures=(0.5, 1.0), samples=(1, 2), estimates=60, learning_steps=2, rounds=2)
    problems = [built_in(kind, sizes, instances=2) for kind, sizes in (("linear", (3, 2)), ("nonlinear", (4, 3)))]
    told: list[float] = []
    found = run(sweep, problems, lambda what, share: told.append(share))
    assert sum(told) == pytest.approx(1)
    return found


def test_every_estimator_problem_temperature_and_number_of_samples_has_a_row(results: Results) -> None:
    cells = {(row.problem, row.cell) for row in results.rows}
    assert len(cells) == len(results.rows)
    for problem in ("linear, factors of 3, 2", "nonlinear, factors of 4, 3"):
        for label, cls in ESTIMATORS.items():
            for samples in (1, 2):
                for temperature in (0.5, 1.0) if cls.has_temperature else (None,):
                    assert ((problem, Cell(label, samples, temperature)) in cells) == (label != "rloo" or samples > 1)
    assert {row.learning_steps for row in results.rows if row.cell.label in {"rebar", "relax"}} == {2}
    assert {row.learning_steps for row in results.rows if row.cell.label not in {"rebar", "relax"}} == {0}


def test_refusals_are_told_once(results: Results) -> None:
    assert report.refused(results) == ["`rloo` with 1 sample: Rloo needs at least 2 samples, got 1"]


def test_csv_holds_every_row_in_numbers(results: Results) -> None:
    rows = list(csv.DictReader(report.to_csv(results).splitlines()))
    assert len(rows) == len(results.rows)
    for line, row in zip(rows, results.rows, strict=True):
        assert line["estimator"] == row.cell.label
        assert float(line["mse"]) == pytest.approx(row.quality.mse, rel=1e-5)
        assert float(line["bias2"]) == pytest.approx(row.quality.bias2, rel=1e-5)
        assert float(line["seconds"]) == pytest.approx(row.timing.seconds, rel=1e-5)
        assert (line["temperature"] == "") == (row.cell.temperature is None)


def test_markdown_has_a_line_for_every_row(results: Results) -> None:
    page = report.to_markdown(results, "python -m gumbel_rl.lab", "Settings.")
    lines = re.findall(r"^\| `.*\|$", page, flags=re.MULTILINE)
    assert len(lines) == len(results.rows)
    assert {line.count("|") for line in lines} == {len(report.HEAD) + 1}
    assert "Exact gradient: closed form" in page


def test_bias_is_marked_where_it_is_told_from_none(results: Results) -> None:
    row = results.rows[0]
    for p, marked in ((1e-7, True), (1e-5, False)):
        one = replace(row, quality=replace(row.quality, bias_p=p, bias2=0.25, bias2_error=0.01))
        page = report.to_markdown(Results([one], []), "", "")
        assert ("**0.250 ± 0.010**" in page) == marked


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.26534, 0.0031, "0.265 ± 0.003"),
        (16.138, 0.1523, "16.14 ± 0.15"),
        (-0.0004, 0.003, "0.000 ± 0.003"),
        (123.4, 25.0, "123 ± 25"),
        (1234.5, 110.0, "1234 ± 110"),
        (0.0, 0.0, "0"),
        (0.25, 0.0, "0.25"),
    ],
)
def test_numbers_are_written_as_far_as_they_are_known(value: float, error: float, text: str) -> None:
    assert report.uncertain(value, error) == text


def test_figures_show_every_estimator(results: Results) -> None:
    made = figures.figures(results)
    assert set(made) == {"bias-variance", "temperature", "cost"}
    for name, figure in made.items():
        assert isinstance(figure, Figure)
        text = figures.svg(name, figure)
        assert text == figures.svg(name, figures.figures(results)[name])
        for label in ESTIMATORS:
            assert f">{label}</text>" in text, name
        assert figures.png(figure, dpi=40).startswith(b"\x89PNG")


def test_without_several_temperatures_there_is_no_figure_of_them(results: Results) -> None:
    one = Results([row for row in results.rows if row.cell.temperature in {None, 1.0}], [])
    assert set(figures.figures(one)) == {"bias-variance", "cost"}


def test_looks_are_all_different_and_the_same_in_every_figure() -> None:
    looks = figures._looks(ESTIMATORS)
    assert len({(look.get_color(), look.get_marker()) for look in looks.values()}) == len(ESTIMATORS)
    some = figures._looks(["zgr", "gumbel-rao:draws=100"])
    assert some["zgr"].get_color() == looks["zgr"].get_color()


def test_command_leaves_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "lab"
    estimators = ["--estimators", "exact", "rloo:samples=3", "st-gumbel-softmax", "--temperatures", "1", "0.5"]
    where = ["--samples", "1", "--objectives", "nonlinear", "--masked", "0.4", "--out", str(out)]
    main([*QUICK, *estimators, *where])
    assert {path.name for path in out.iterdir()} == {
        *("table.md", "table.csv"),
        *(f"{name}.{kind}" for name in ("bias-variance", "temperature", "cost") for kind in ("svg", "png")),
    }
    page = (out / "table.md").read_text(encoding="utf-8")
    assert "python -m gumbel_rl.lab --estimates 40" in page
    assert "nonlinear, 2 factors of 3, 40% masked" in page
    rows = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["estimator"], row["temperature"]) for row in rows] == [
        ("exact", ""),
        ("rloo:samples=3", ""),
        ("st-gumbel-softmax", "0.5"),
        ("st-gumbel-softmax", "1"),
    ]
    assert "nonlinear" in capsys.readouterr().out


def test_it_computes_in_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def watched(*arguments: Any) -> Results:
        threads.append(torch.get_num_threads())
        return run(*arguments)

    monkeypatch.setattr(module, "run", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        main([*QUICK, "--estimators", "exact", "--objectives", "linear", "--out", str(tmp_path)])
        assert threads == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--factors", "1", "2", "--choices", "2", "3"], ["1 factor of 2", "1 factor of 3", "2 factors of 2", "2 factors of 3"]),  # noqa: E501
        (["--sizes", "2,3,5", "4,4"], ["factors of 2, 3, 5", "2 factors of 4"]),
    ],
)  # fmt: skip
def test_sizes_factors_and_choices(options: list[str], wanted: list[str]) -> None:
    given = Options(**_parsed(options), objectives=("linear",))
    assert [problem.name for problem in _problems(given)] == [f"linear, {name}" for name in wanted]


def _parsed(options: list[str]) -> dict[str, object]:
    parsed = parse(Options, options, prog="", description="")
    return {name: getattr(parsed, name) for name in ("factors", "choices", "sizes")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--estimators", "rlo"], "did you mean 'rloo'"),
        (["--estimators", "rloo:draws=3"], "has no option 'draws'"),
        (["--estimators", "rloo:3"], "key=value"),
        (["--objectives", "linnear"], "did you mean 'linear'"),
        (["--temperatures", "0"], "temperatures must be positive"),
        (["--samples", "0"], "samples must be positive"),
        (["--samples", "x"], "--samples"),
        (["--sizes", "3;4"], "commas between them"),
        (["--masked", "1"], "below 1"),
        (["--estimates", "10"], "at least 40"),
        (["--estimate", "100"], "--estimate"),
        (["--run", "no/such/run"], "no/such/run is no run directory"),
        (["--out", __file__], "exists"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert re.fullmatch(r"error: .+\n", captured.err)
    assert message in captured.err.lower() or message in captured.err
    assert not list(tmp_path.rglob("table.*"))
