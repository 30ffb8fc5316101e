"""What the runs say: estimates with their intervals, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from rich.table import Table
from scipy import stats

from agents.compare import appearance
from agents.compare.figures import pixels, svg
from agents.compare.improvement import probability_of_improvement
from agents.compare.statistics import CONFIDENCE, aggregates, band
from agents.compare.survival import share_by_time, time_to_event
from examples.relax_cartpole.protocol import CURVE, POINT
from examples.relax_cartpole.training import EPISODES, SOLVED_ABOVE
from examples.relax_cartpole.variance import CHECKPOINTS

# Mean and spread of 5 seeds, the same that the settings were chosen on (Grathwohl et al. 2018, table 3).
PUBLISHED = {"relax": (472, 114), "score-function": (1152, 90)}
NAMES = {"relax": "RELAX", "score-function": "score function, value baseline"}


def summary(runs: Mapping[str, Mapping[str, Any]], variance: Mapping[str, Any]) -> dict[str, Any]:
    """Estimates with 95 % intervals, in episodes, by estimator.

    A run that never solved the task counts in the mean with all the episodes that it was given, which is too few:
    `mean` is then a lower bound. The median (Kaplan and Meier 1958) needs no such thing; None is beyond what was
    watched.
    """
    times = {name: solve_times(found) for name, found in runs.items()}
    counted = {name: [np.array([EPISODES if t is None else t for t in found], float)] for name, found in times.items()}
    means = aggregates(counted, ["mean"])
    found: dict[str, Any] = {}
    for name, solved in times.items():
        middle = time_to_event(solved, [EPISODES] * len(solved))
        found[name] = {
            "seeds": len(solved),
            "solved": middle.reached,
            "mean": [round(value, 1) for value in means[name]["mean"]],
            "median": [middle.median, middle.low, middle.high],
            "std": round(float(counted[name][0].std(ddof=1)), 1),
            "slowest": None if middle.reached < len(solved) else max(t for t in solved if t is not None),
            "cpu_seconds": round(float(np.median([one["cpu_seconds"] for one in runs[name].values()])), 1),
        }
    relax, rival = (counted[name][0] for name in ("relax", "score-function"))
    welch = stats.ttest_ind(relax, rival, equal_var=False)
    interval = welch.confidence_interval(CONFIDENCE)
    quicker = probability_of_improvement([-relax], [-rival])
    found["relax - score-function"] = {
        "mean": [round(float(value), 1) for value in (relax.mean() - rival.mean(), interval.low, interval.high)],
        "p_value": round(float(welch.pvalue), 4),
        "probability_quicker": [round(value, 3) for value in quicker],
    }
    found["variance"] = {
        f"{name} / {other}": ratios(variance, name, other)
        for name, other in (("relax", "score-function"), ("score-function", "none"), ("relax", "none"))
    }
    return found


def ratios(variance: Mapping[str, Any], name: str, other: str) -> list[list[float]]:
    """Ratio of two variances at every checkpoint: geometric mean over seeds and its t interval, on the log scale."""
    logs = np.log([np.divide(one[name], one[other]) for one in variance.values()])
    middle, reach = logs.mean(0), stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * stats.sem(logs)
    bounds = np.exp([middle, middle - reach, middle + reach]).T
    return [[round(float(value), 3) for value in checkpoint] for checkpoint in bounds]


def solve_times(runs: Mapping[str, Any]) -> list[int | None]:
    """Episode at which each run solved the task."""
    return [one["solved"] for one in runs.values()]


def rows(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """The summary in words: what is said, and a cell for each gradient."""
    found = [results["summary"][name] for name in NAMES]
    return {
        "seeds": [str(one["seeds"]) for one in found],
        "of them solved it": [str(one["solved"]) for one in found],
        "episodes, mean [95 %]": [_interval(one["mean"]) for one in found],
        "median [95 %]": [_interval(one["median"]) for one in found],
        "standard deviation": [f"{one['std']:.0f}" for one in found],
        "slowest": ["–" if one["slowest"] is None else str(one["slowest"]) for one in found],
        "published, mean ± spread": ["{} ± {}".format(*PUBLISHED[name]) for name in NAMES],
        "CPU seconds of a run": [f"{one['cpu_seconds']:.1f}" for one in found],
    }


def difference(results: Mapping[str, Any]) -> str:
    """How the two compare, in one line."""
    found = results["summary"]["relax - score-function"]
    return (
        f"mean of RELAX less that of its rival: {_interval(found['mean'])} episodes; "
        "it is the quicker one with probability {:.2f} [{:.2f}, {:.2f}]".format(*found["probability_quicker"])
    )


# Ratios of variances, as tables name them.
RATIOS = {"relax / score-function": "RELAX / value baseline", "score-function / none": "value baseline / none"}


def variance_rows(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ratios of variances in words: for each of `CHECKPOINTS` a cell for each of `RATIOS`."""
    found = results["summary"]["variance"]
    return {
        f"{number} episodes": ["{:.2f} [{:.2f}, {:.2f}]".format(*found[name][i]) for name in RATIOS]
        for i, number in enumerate(CHECKPOINTS)
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The summary, for the terminal."""
    solving = Table("", *NAMES.values())
    for says, cells in rows(results).items():
        solving.add_row(says, *cells)
    spread = Table("variance of the gradient after", *RATIOS.values())
    for says, cells in variance_rows(results).items():
        spread.add_row(says, *cells)
    return [solving, spread]


def _interval(estimate: Sequence[float | None]) -> str:
    return "{} [{}, {}]".format(*("–" if value is None else f"{value:.0f}" for value in estimate))


def figure(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Learning curves, and the share of seeds that have solved the task."""
    with matplotlib.rc_context(appearance.STYLE):
        drawing = appearance.canvas("CartPole, one episode an update: RELAX and its rival", 3.7)
        curves, shares = drawing.subplots(1, 2)
        look = appearance.marks(NAMES)
        for name, found in runs.items():
            colour = look[name].get_color()
            middle, low, high = band(np.array([one["curve"][: CURVE // POINT] for one in found.values()]))
            x = POINT * (0.5 + np.arange(len(middle)))
            curves.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            curves.plot(x, middle, color=colour)
            times, share = share_by_time(solve_times(found), [EPISODES] * len(found))
            shares.plot(times, share, color=colour, drawstyle="steps-post")
            shares.axvline(PUBLISHED[name][0], color=colour, linewidth=1, dashes=(4, 3))
        curves.axhline(SOLVED_ABOVE, color=appearance.INK, linewidth=1, dashes=(6, 3), alpha=0.75)
        curves.set_xlabel("episode")
        curves.set_ylabel(f"return, mean of {POINT}, IQM over seeds")
        shares.set_xlabel("episode")
        shares.set_ylabel("share of seeds that have solved it")
        shares.set_ylim(-0.03, 1.03)
        published = Line2D([], [], color=appearance.INK, linewidth=1, dashes=(4, 3))
        appearance.legend(drawing, {NAMES[name]: look[name] for name in runs} | {"published mean (right)": published})
        return drawing


def save(drawing: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        imsave(path, pixels(drawing))
    else:
        path.write_text(svg("relax-cartpole", drawing), encoding="utf-8")
