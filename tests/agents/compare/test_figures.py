"""Figures and TensorBoard's events, read back."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import same_color
from synthetic_comparison import Player, Task, comparison
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import formats
from agents.compare.appearance import COLOURS
from agents.compare.figures import figures, pixels, svg
from agents.compare.ranking import ranked, ranked_across
from agents.compare.tensorboard import write_tensorboard

OF_ONE = {"learning curve", "learning curve over time", "final return", "performance profile"}
PLAYERS = {"gumbel-ac": Player(skill=1.0, spread=0.02), "ppo": Player(skill=0.9, timesteps=100_000, seconds=60.0)}


@pytest.fixture(scope="module")
def summary():
    return comparison({"CartPole-v1": Task(), "Acrobot-v1": Task(-100, -497, -500, -72)}, PLAYERS)


@pytest.fixture(scope="module")
def made(summary):
    return figures(summary)


def line(axes, colour: str):
    """The longest line of a colour."""
    lines = [line for line in axes.lines if same_color(line.get_color(), colour)]
    return max(lines, key=lambda line: len(line.get_xdata()))


def test_tags(made):
    kinds = OF_ONE | {"share at the threshold", "probability of improvement"}
    across = {"aggregates", "performance profile", "probability of improvement"}
    expected = {f"{env}/{kind}" for env in ("CartPole-v1", "Acrobot-v1") for kind in kinds}
    assert set(made) == expected | {f"all environments/{kind}" for kind in across}


def test_curves_are_those_of_the_summary(summary, made):
    for number, label in enumerate(PLAYERS):
        curves = summary["environments"]["CartPole-v1"]["agents"][label]["curve"]
        for axis, kind in (("steps", "learning curve"), ("seconds", "learning curve over time")):
            (axes,) = made[f"CartPole-v1/{kind}"].axes
            drawn = line(axes, COLOURS[number])
            np.testing.assert_array_equal(drawn.get_xdata(), curves[axis]["x"])
            np.testing.assert_array_equal(drawn.get_ydata(), curves[axis]["iqm"])
    assert axes.get_xlabel() == "seconds of training, as far as all seeds go"
    # 5 seconds beside 60: only a logarithm shows both.
    assert axes.get_xscale() == "log"
    assert made["CartPole-v1/learning curve"].axes[0].get_xscale() == "linear"


def test_a_label_has_one_colour_everywhere():
    """Whatever its rank, and wherever it is missing."""
    summary = comparison({"A-v0": Task(), "B-v0": Task()}, PLAYERS)
    del summary["environments"]["B-v0"]["agents"]["gumbel-ac"]
    made = figures(summary | {"across": None})
    assert same_color(line(made["A-v0/learning curve"].axes[0], COLOURS[1]).get_color(), COLOURS[1])
    (legend,) = made["B-v0/learning curve"].legends
    assert legend.get_texts()[0].get_text() == "ppo"
    assert same_color(legend.get_lines()[0].get_color(), COLOURS[1])


def test_share_at_the_threshold_is_kaplan_meiers():
    """By hand: 4 runs, one reaches at 10, one ends at 20 without, one reaches at 30, one ends at 40: 1/4, then 5/8."""
    summary = comparison({"A-v0": Task()}, {"ppo": Player()}, seeds=4)
    runs = summary["environments"]["A-v0"]["agents"]["ppo"]["runs"]
    for run, reached, end in zip(runs, (10, None, 30, None), (40, 20, 40, 40), strict=True):
        run |= {"steps_to_threshold": reached, "timesteps": end}
    drawn = line(figures(summary)["A-v0/share at the threshold"].axes[0], COLOURS[0])
    at = dict(zip(drawn.get_xdata(), drawn.get_ydata(), strict=True))
    assert at[10] == pytest.approx(1 / 4)
    assert at[30] == pytest.approx(5 / 8)
    assert at[40] == pytest.approx(5 / 8)


def test_heat_map_is_ordered_by_iqm(summary, made):
    (axes,) = made["CartPole-v1/probability of improvement"].axes
    agents = summary["environments"]["CartPole-v1"]["agents"]
    order = sorted(agents, key=lambda label: agents[label]["return"]["iqm"][0], reverse=True)
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{name}  ({i})" for i, name in enumerate(order, 1)]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    chance = summary["environments"]["CartPole-v1"]["improvement"][order[0]][order[1]][0]
    assert cells[1, 0] == f"{chance:.2f}"
    assert (0, 0) not in cells


def everything_alike(value: float = 500.0, seeds: int = 3):
    """All runs return the same, in training and at the end, and no interval has a width."""
    player = Player(skill=1.0, spread=0.0)
    summary = comparison({"A-v0": Task(), "B-v0": Task()}, {"a": player, "b": player}, seeds=seeds)
    for environment in summary["environments"].values():
        for agent in environment["agents"].values():
            agent["return"] |= {name: [value] * 3 for name in ("iqm", "median", "mean")} | {"min": value, "max": value}
            for run in agent["runs"]:
                run["eval_return_mean"] = value
            for curve in agent["curve"].values():
                curve |= {name: [value] * len(curve["x"]) for name in ("iqm", "low", "high")}
    return summary


@pytest.mark.parametrize(
    "odd",
    [
        everything_alike(),
        comparison({"A-v0": Task()}, {"a": Player()}, seeds=1, points=1),
        comparison({"A-v0": Task(None, None)}, {"a": Player(), "b": Player()}),
        comparison({"A-v0": Task(threshold=1e9)}, {"a": Player(), "b": Player()}),
        comparison({"A-v0": Task()}, {f"agent-{i}:some=overrides,that=are_long": Player() for i in range(12)}, seeds=2),
    ],
    ids=["constant", "single", "no threshold", "never reached", "twelve"],
)
def test_odd_comparisons_are_drawn_without_a_warning(odd, recwarn):
    for environment in odd["environments"].values():
        for agent in environment["agents"].values():
            if len(agent["seeds"]) == 1:
                # What JSON has for no interval.
                for curve in agent["curve"].values():
                    curve |= {"low": [None] * len(curve["x"]), "high": [None] * len(curve["x"])}
    made = figures(odd)
    for tag, figure in made.items():
        root = ElementTree.fromstring(svg(tag, figure))
        assert root.tag.endswith("svg")
    assert {tag.partition("/")[2] for tag in made} >= OF_ONE
    assert [str(warning.message) for warning in recwarn] == []


def test_of_many_labels_the_best_twenty_are_drawn():
    players = {f"a{number}": Player(skill=0.2 + number / 40, spread=0.001) for number in range(21)}
    summary = comparison({"A-v0": Task(), "B-v0": Task()}, players, seeds=2, points=2)
    best = set(ranked(summary["environments"]["A-v0"])[:20])
    across = set(ranked_across(summary["across"])[:20])
    made = figures(summary)
    for kind in ("learning curve", "learning curve over time", "share at the threshold", "performance profile"):
        figure = made[f"A-v0/{kind}"]
        names = {text.get_text() for text in figure.legends[0].get_texts()}
        assert {name for name in names if "," not in name} == best
        assert figure.get_suptitle().endswith(", best 20 of 21 by IQM")
    for name, shown in (("A-v0", best), ("all environments", across)):
        figure = made[f"{name}/probability of improvement"]
        assert {text.get_text().split()[0] for text in figure.axes[0].get_yticklabels()} == shown
        assert figure.get_suptitle().endswith(", best 20 of 21 by IQM")
    # Rows have room for all.
    assert len(made["A-v0/final return"].axes[0].get_yticks()) == 21
    assert "best" not in made["A-v0/final return"].get_suptitle()


def test_no_curve_no_figure_of_it(summary):
    entry = comparison({"A-v0": Task()}, PLAYERS)
    for agent in entry["environments"]["A-v0"]["agents"].values():
        agent["curve"] = None
    assert not any("learning curve" in tag for tag in figures(entry))


def test_letters_stay_letters_and_formulas_are_not_typeset(made):
    summary = comparison({"$A_1$-v0": Task()}, {"x:y=$\\frac$": Player(), "ppo": Player()})
    for tag, figure in figures(summary).items():
        if tag.endswith(("learning curve", "improvement")):
            text = "".join(ElementTree.fromstring(svg(tag, figure)).itertext())
            assert "x:y=$\\frac$" in text
            assert "$A_1$-v0" in text


def test_settings_of_matplotlib_are_left_alone(summary):
    before = dict(matplotlib.rcParams)
    svg("x", figures(summary)["CartPole-v1/learning curve"])
    assert dict(matplotlib.rcParams) == before


def test_tensorboard(summary, made, tmp_path):
    path = tmp_path / "events"
    for _ in range(2):  # the second time in place of the first
        write_tensorboard(summary, path)
    page = EventAccumulator(str(path))
    page.Reload()
    assert set(page.Tags()["images"]) == {f"comparison/{tag}" for tag in made}
    image = page.Images("comparison/CartPole-v1/learning curve")
    height, width, _ = pixels(made["CartPole-v1/learning curve"]).shape
    assert [(event.height, event.width) for event in image] == [(height, width)]
    (text,) = page.Tensors("comparison/report/text_summary")
    assert summary["command"] in text.tensor_proto.string_val[0].decode()
    for label, name in formats.slugs(PLAYERS).items():
        curves = EventAccumulator(str(path / name))
        curves.Reload()
        drawn = summary["environments"]["Acrobot-v1"]["agents"][label]["curve"]["steps"]
        events = curves.Scalars("comparison/Acrobot-v1/return")
        assert [event.step for event in events] == drawn["x"]
        assert [event.value for event in events] == pytest.approx(drawn["iqm"])


def test_pictures_are_not_blank(made):
    for figure in made.values():
        assert pixels(figure).std() > 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (600, "600"),
        (999.4, "999"),
        (1000, "1k"),
        (10_240, "10.2k"),
        (999_600, "1M"),
        (1_250_000, "1.25M"),
        (2e9, "2G"),
    ],
)
def test_compact(value, text):
    assert formats.compact(value) == text


def test_numbers_are_written_alike():
    assert [formats.decimals(values) for values in ([500.0, -3.0], [-83.3], [0.7412, 0.1], [1950.0], [5.5], [])] == [
        1,
        1,
        3,
        0,
        2,
        3,
    ]
    assert formats.fixed(1)(-0.04) == "0.0"
    assert formats.fixed(0)(12345.6) == "12,346"
    assert formats.ranges([4, 0, 1, 2, 9, 2]) == "0-2, 4, 9"


def test_names_of_files_differ():
    names = ["A/B-v0", "A-B-v0", "a-b-V0", "../..", "/", "é:x=1,y"]
    found = formats.slugs(names)
    assert len({name.lower() for name in found.values()}) == len(names)
    assert not any("/" in name or name.startswith(".") for name in found.values())
