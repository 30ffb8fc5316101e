"""The laboratory's results in words: a CSV file for programs, a page in Markdown, and a table on the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gumbel_rl.lab.sweep import Refusal, Results, Row

if TYPE_CHECKING:
    from rich.table import Table

# A bias is called one where chance alone would look like it less often than this.
SIGNIFICANT = 1e-6

COLUMNS = (
    "problem",
    "reference",
    "estimator",
    "samples",
    "temperature",
    "learning_steps",
    "estimates",
    "bias2",
    "bias2_error",
    "bias_p",
    "variance",
    "variance_error",
    "mse",
    "mse_error",
    "cosine",
    "cosine_error",
    "zero_share",
    "seconds",
    "seconds_low",
    "seconds_high",
)

HEAD = ("estimator", "T", "bias²", "variance", "error", "cosine", "zero", "µs")


def to_csv(results: Results) -> str:
    """Every row, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in results.rows:
        q = row.quality
        writer.writerow(
            [
                row.problem,
                row.reference,
                row.cell.label,
                row.cell.samples,
                "" if row.cell.temperature is None else f"{row.cell.temperature:g}",
                row.learning_steps,
                q.estimates,
                *(
                    f"{number:.6g}"
                    for number in (
                        q.bias2,
                        q.bias2_error,
                        q.bias_p,
                        q.variance,
                        q.variance_error,
                        q.mse,
                        q.mse_error,
                        q.cosine,
                        q.cosine_error,
                        q.zero_share,
                        row.timing.seconds,
                        row.timing.low,
                        row.timing.high,
                    )
                ),
            ]
        )
    return text.getvalue()


def to_markdown(results: Results, command: str, settings: str) -> str:
    """All rows, a table for each problem and number of samples."""
    parts = ["# Estimators, measured", f"```console\n$ {command}\n```", settings, EXPLANATION]
    for problem in problems(results.rows):
        of_problem = [row for row in results.rows if row.problem == problem]
        parts.append(f"## {problem}\n\nExact gradient: {of_problem[0].reference}.")
        for samples in dict.fromkeys(row.cell.samples for row in of_problem):
            rows = [row for row in of_problem if row.cell.samples == samples]
            lines = [" | ".join(HEAD), " | ".join(["---", *["---:"] * (len(HEAD) - 1)])]
            lines += [" | ".join([f"`{row.cell.label}`", *_cells(row)[1:]]) for row in rows]
            parts.append(f"### {counted(samples)}: {problem}\n\n" + "\n".join(f"| {line} |" for line in lines))
    if results.refusals:
        parts.append("## Not measured\n\n" + "\n".join(f"* {line}" for line in refused(results)))
    return "\n\n".join(parts) + "\n"


EXPLANATION = (
    "Squared bias, variance and mean squared error are of one estimate, relative to the squared norm of the exact "
    "gradient, ± a standard error: to estimate nothing, always 0, is an error of 1. **Bold**: a bias that chance alone "
    "would look like less than once in a million times. The squared bias of an unbiased estimator is 0 on average, so "
    "that half of the measured ones are negative. T: temperature. Cosine: with the exact gradient, of one estimate for "
    "all rows. Zero: share of rows whose gradient is exactly zero. µs: microseconds of processor time of an estimate "
    "for one state in a batch, forward and backward; the quartiles are in the CSV file."
)


def terminal_table(results: Results, problem: str) -> Table:
    """The rows of a problem at the smallest number of samples that all estimators have, the least error first.

    Of several temperatures it shows the one with the least error. A star: the bias is told from none.
    """
    from rich.table import Table  # an extra

    samples = common_samples(results.rows, problem)
    rows = [row for row in results.rows if row.problem == problem and row.cell.samples == samples]
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.quality.mse):
        best.setdefault(row.cell.label, row)
    table = Table(title=f"{problem}; {counted(samples)}, each at its best temperature T", title_justify="left")
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in best.values():
        q = row.quality
        # Adding zero turns the -0.0 that rounding leaves behind into 0.0.
        bias, *others = (
            f"{round(value, 3) + 0.0:.3f}" if value < 100 else f"{value:,.0f}"
            for value in (q.bias2, q.variance, q.mse, q.cosine)
        )
        table.add_row(*_cells(row)[:2], f"{bias}{'*' if is_biased(row) else ' '}", *others, *_cells(row)[-2:])
    return table


def common_samples(rows: Sequence[Row], problem: str) -> int:
    """The smallest number of samples at which the most estimators were measured."""
    labels: dict[int, set[str]] = {}
    for row in rows:
        if row.problem == problem:
            labels.setdefault(row.cell.samples, set()).add(row.cell.label)
    return min(labels, key=lambda samples: (-len(labels[samples]), samples))


def problems(rows: Iterable[Row]) -> list[str]:
    """Names of the problems, in order."""
    return list(dict.fromkeys(row.problem for row in rows))


def refused(results: Results) -> list[str]:
    """What could not be measured, and why, a line for each estimator and reason."""
    groups: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in results.refusals:
        groups.setdefault((refusal.cell.label, refusal.reason), []).append(refusal)
    lines = []
    for (label, reason), refusals in groups.items():
        samples = sorted({refusal.cell.samples for refusal in refusals})
        where = dict.fromkeys(refusal.problem for refusal in refusals)
        everywhere = {row.problem for row in results.rows} <= set(where)
        on = "" if everywhere else f" on {'; '.join(where)}"
        noun = "sample" if samples == [1] else "samples"
        lines.append(f"`{label}` with {', '.join(map(str, samples))} {noun}{on}: {reason}")
    return lines


def counted(samples: int) -> str:
    """A number of samples in words."""
    return f"{samples} sample{'' if samples == 1 else 's'}"


def is_biased(row: Row) -> bool:
    """Whether its bias is told from none."""
    return row.quality.bias_p < SIGNIFICANT


def uncertain(value: float, error: float) -> str:
    """A number with its standard error, to the error's first digit or, if that is 1, the second: `0.265 ± 0.003`."""
    if not error > 0:
        return "0" if value == 0 else f"{value:.3g}"
    places = max(-math.floor(math.log10(error)), 0)
    if error * 10**places < 2:
        places += 1
    if places > 6:
        return f"{value:.1e} ± {error:.0e}"
    # Adding zero turns the -0.0 that rounding leaves behind into 0.0.
    return f"{round(value, places) + 0.0:.{places}f} ± {error:.{places}f}"


def _cells(row: Row) -> list[str]:
    q = row.quality
    bias = uncertain(q.bias2, q.bias2_error)
    return [
        row.cell.label,
        "" if row.cell.temperature is None else f"{row.cell.temperature:g}",
        f"**{bias}**" if is_biased(row) else bias,
        uncertain(q.variance, q.variance_error),
        uncertain(q.mse, q.mse_error),
        uncertain(q.cosine, q.cosine_error),
        f"{q.zero_share:.1%}" if q.zero_share else "0",
        f"{1e6 * row.timing.seconds:.2g}" if row.timing.seconds < 1e-4 else f"{1e6 * row.timing.seconds:,.0f}",
    ]
