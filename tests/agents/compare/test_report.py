"""Reports, each on a made-up comparison: every number looked for is read from the comparison itself."""

from __future__ import annotations

import copy
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from synthetic_comparison import Player, Task, comparison

from agents.compare import appearance, markdown, tables, webpage
from agents.compare.entries import aggregates, improvement
from agents.compare.figures import figures
from agents.compare.report import console_table, write_report

PLAYERS = {
    "gumbel-ac": Player(skill=1.0, spread=0.02, settings={"eval_episodes": 77, "net_arch": [8], "note": "a | b"}),
    "reinforce:baseline=none": Player(skill=0.7, timesteps=150_000, seconds=0.4),
    "ppo": Player(skill=0.97, spread=0.03, seconds=14.7),
}
LOST = {
    "failed": [
        {"env": "CartPole-v1", "agent": "ppo", "seed": seed, "reason": "RuntimeError: <b>out</b> of | memory *now*"}
        for seed in (5, 6, 9)
    ],
    "missing": [{"env": "Acrobot-v1", "agent": "gumbel-ac", "seed": 7}],
    "not_applicable": [{"env": "Acrobot-v1", "agent": "sac", "reason": "has no Box actions"}],
}


@pytest.fixture(scope="module")
def summary():
    tasks = {"CartPole-v1": Task(), "Acrobot-v1": Task(-100, -497, -500, -72), "Rooms/A-v0": Task(None, 0.1, 0, 1)}
    return comparison(tasks, PLAYERS, **LOST)


@pytest.fixture(scope="module")
def written(summary, tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    write_report(summary, path)
    return path


def read_tables(page: str) -> list[list[list[str]]]:
    """The tables of a page as GitHub would read them, cell by cell."""
    found: list[list[list[str]]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            found[-1][-1].append("".join(child.content for child in tokens[i + 1].children))
    return found


def table_with(page: str, *columns: str) -> list[dict[str, str]]:
    """The rows of the only table that has these columns."""
    (table,) = [table for table in read_tables(page) if set(columns) <= set(table[0])]
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def of_environment(page: str, name: str) -> str:
    (section,) = [part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(f"{name}\n")]
    return section


def test_results_are_those_of_the_summary(summary, written):
    rows = table_with(of_environment((written / "report.md").read_text(), "CartPole-v1"), "steps to threshold")
    agents = summary["environments"]["CartPole-v1"]["agents"]
    order = sorted(agents, key=lambda label: agents[label]["return"]["iqm"][0], reverse=True)
    assert [row["agent"] for row in rows] == order
    for row in rows:
        agent = agents[row["agent"]]
        value, low, high = agent["return"]["iqm"]
        assert row["return, IQM [95 %]"] == f"{value:.1f} [{low:.1f}, {high:.1f}]"
        assert (row["median"], row["worst"]) == (f"{agent['return']['median'][0]:.1f}", f"{agent['return']['min']:.1f}")
        assert row["solved"] == f"{agent['solved']['count']} of 5"
        assert row["reached"] == f"{agent['steps_to_threshold']['reached']} of 5"
    marked = {row["agent"]: row["steps"] for row in rows}
    assert marked == {"gumbel-ac": "50k", "ppo": "50k", "reinforce:baseline=none": "150k †"}
    seeds = {row["agent"]: row["seeds"] for row in rows}
    assert seeds == {"gumbel-ac": "5", "ppo": "5 of 8", "reinforce:baseline=none": "5"}


def test_censored_times(summary):
    entry = copy.deepcopy(summary)
    agents = entry["environments"]["CartPole-v1"]["agents"]
    agents["gumbel-ac"]["steps_to_threshold"] = {"median": [10_240, 9_000, 1_250_000], "reached": 5}
    agents["gumbel-ac"]["seconds_to_threshold"] = {"median": [0.584, 0.4, 64.2], "reached": 5}
    agents["ppo"]["steps_to_threshold"] = {"median": [40_000, 30_000, None], "reached": 3}
    agents["ppo"]["seconds_to_threshold"] = {"median": [None, 12.34, None], "reached": 2}
    for unit in ("steps", "seconds"):
        agents["reinforce:baseline=none"][f"{unit}_to_threshold"] = {"median": [None, None, None], "reached": 0}
    page = of_environment(markdown.render(entry, {}), "CartPole-v1")
    rows = {row["agent"]: row for row in table_with(page, "steps to threshold")}
    assert rows["gumbel-ac"]["steps to threshold"] == "10.2k [9k, 1.25M]"
    assert rows["gumbel-ac"]["seconds to threshold"] == "0.58 [0.40, 64.2]"
    assert rows["ppo"]["steps to threshold"] == "40k [30k, ∞)"
    assert rows["ppo"]["seconds to threshold"] == "not reached by half [12.3, ∞)"
    assert rows["reinforce:baseline=none"]["steps to threshold"] == "never reached"


def test_improvement_and_what_it_tells_apart(summary):
    entry = copy.deepcopy(summary)
    chances = entry["environments"]["CartPole-v1"]["improvement"]
    best, *_, worst = tables.ranked(entry["environments"]["CartPole-v1"])
    (middle,) = set(PLAYERS) - {best, worst}
    chances[best] |= {middle: [0.61, 0.49, 0.73], worst: [0.93, 0.81, 0.99]}
    page = of_environment(markdown.render(entry, {}), "CartPole-v1")
    assert (
        f"`{best}`. It beats `{worst}` more often than not. These seeds do not tell it apart from `{middle}`." in page
    )
    row = next(row for row in table_with(page, "beats") if row["beats"] == best)
    assert (row[middle], row[worst], row[best]) == ("0.61 [0.49, 0.73]", "0.93 [0.81, 0.99]", "")
    assert "**0.93 [0.81, 0.99]**" in page
    assert "**0.61 [0.49, 0.73]**" not in page


def test_whoever_has_the_highest_iqm_may_be_beaten():
    """22 runs of 100 and 8 of 500 have an IQM of 125, and lose 22 of 30 pairs to runs of about 110."""
    scores = {"steady": [np.linspace(108, 112, 30)], "lucky": [np.asarray([100.0] * 22 + [500.0] * 8)]}
    entry = comparison({"CartPole-v1": Task()}, {"steady": Player(), "lucky": Player(), "poor": Player(skill=0.05)})
    environment = entry["environments"]["CartPole-v1"]
    for label, found in aggregates(scores, ("iqm", "mean")).items():
        environment["agents"][label]["return"] |= found
    environment["improvement"]["lucky"] = improvement(scores)["lucky"] | {"poor": [0.5, 0.4, 0.6]}
    page = of_environment(markdown.render(entry, {}), "CartPole-v1")
    assert "The highest IQM is that of `lucky`. These seeds do not tell it apart from `poor`. " in page
    assert "It is beaten by `steady`: more often than not, a run of that one returns more" in page
    assert "It beats" not in page


def test_without_threshold_nothing_is_said_of_solving(written):
    section = of_environment((written / "report.md").read_text(), "Rooms/A-v0")
    (results,) = [table for table in read_tables(section) if "worst" in table[0]]
    assert not any("threshold" in name or "solved" in name or "reached" in name for name in results[0])
    assert "No threshold is known" in section
    assert "share-at-the-threshold" not in section


def test_across(summary, written):
    rows = table_with((written / "report.md").read_text(), "agent", "optimality gap [95 %]")
    agents = summary["across"]["agents"]
    # It was trained three times as long as the others.
    names = [row["agent"].removesuffix(" †") for row in rows if row["agent"].endswith(" †")]
    assert names == ["reinforce:baseline=none"]
    assert {row["agent"].removesuffix(" †") for row in rows} == set(agents)
    for row in rows:
        value, low, high = agents[row["agent"].removesuffix(" †")]["optimality_gap"]
        assert row["optimality gap [95 %]"] == f"{value:.2f} [{low:.2f}, {high:.2f}]"


def test_across_names_who_is_left_out_and_how_many_seeds_there_are(summary):
    entry = copy.deepcopy(summary)
    entry["across"]["environments"] = {"CartPole-v1": {"seeds": [4, 20]}, "Acrobot-v1": {"seeds": [5, 5]}}
    entry["across"]["left_out"] = [{"agent": "a2c", "reason": "no runs on Acrobot-v1"}]
    page = of_environment(markdown.render(entry, {}), "All environments")
    assert "with results on `CartPole-v1` (4 to 20 seeds) and `Acrobot-v1` (5 seeds)." in page
    assert "Left out: `a2c` (no runs on Acrobot-v1)." in page
    assert "† took a number of steps more than 5 % off the usual" in page
    entry["across"] |= {"agents": {}, "improvement": {}, "profiles": {"thresholds": [], "agents": {}}}
    for environment in entry["across"]["environments"].values():
        environment["seeds"] = None
    page = of_environment(markdown.render(entry, {}), "All environments")
    assert "with results on `CartPole-v1` and `Acrobot-v1`." in page
    assert "No agent has results on all of these." in page
    assert not any("all environments" in tag for tag in figures(entry))


def test_steps_are_those_taken_and_an_overshoot_is_marked(summary):
    entry = copy.deepcopy(summary)
    agents = entry["environments"]["CartPole-v1"]["agents"]
    for label, overshoot in (("ppo", (0, 4_000, 20_000, 65_536 - 50_000, 16_000)), ("gumbel-ac", (2_400,) * 5)):
        for run, more in zip(agents[label]["runs"], overshoot, strict=True):
            run["timesteps"] = 50_000 + more
    for run in agents["reinforce:baseline=none"]["runs"]:
        run["timesteps"] = 50_000
    page = of_environment(markdown.render(entry, {}), "CartPole-v1")
    steps = {row["agent"]: row["steps"] for row in table_with(page, "steps to threshold")}
    assert steps == {"gumbel-ac": "52.4k", "ppo": "65.5k †", "reinforce:baseline=none": "50k"}
    assert "† took a number of steps more than 5 % off the usual 50k of this table" in page
    for run in agents["ppo"]["runs"]:
        run["timesteps"] = 50_000
    page = of_environment(markdown.render(entry, {}), "CartPole-v1")
    assert "†" not in page


def test_what_was_not_measured_is_not_called_never(summary):
    entry = copy.deepcopy(summary)
    agents = entry["environments"]["CartPole-v1"]["agents"]
    agents["ppo"] |= {"steps_to_threshold": None, "seconds_to_threshold": None, "curve": None}
    page = of_environment(markdown.render(entry, {}), "CartPole-v1")
    rows = {row["agent"]: row for row in table_with(page, "steps to threshold")}
    names = ("reached", "steps to threshold", "seconds to threshold")
    assert [rows["ppo"][name] for name in names] == ["–"] * 3
    assert rows["gumbel-ac"]["reached"] == "5 of 5"
    assert "–: not measured, for want of periodic evaluations of 20 episodes or more." in page
    assert "not measured" not in markdown.render(summary, {})
    drawn = figures(entry)
    (legend,) = drawn["CartPole-v1/share at the threshold"].legends
    assert "ppo" not in [text.get_text() for text in legend.get_texts()]
    for label in ("gumbel-ac", "reinforce:baseline=none"):
        agents[label] |= {"steps_to_threshold": None, "seconds_to_threshold": None}
    assert "CartPole-v1/share at the threshold" not in figures(entry)


def test_a_curve_of_some_seeds_says_so(summary):
    entry = copy.deepcopy(summary)
    nothing = {"steps": [], "seconds": [], "returns": []}
    entry["environments"]["CartPole-v1"]["agents"]["ppo"]["runs"][2]["curve"] = nothing
    page = markdown.render(entry, {})
    assert page.count("The learning curve of `ppo` is that of 4 of its 5 seeds: ") == 1
    assert "learning curve of" not in markdown.render(summary, {})


def test_the_page_tells_what_the_statistics_are():
    page = " ".join(markdown.render(comparison({"CartPole-v1": Task()}, PLAYERS, resamples=4321), {}).split())
    assert "learning curves are percentile intervals of a bootstrap over seeds (4,321 resamples" in page
    assert "those of probabilities of improvement are Brunner and Munzel's (2000)" in page
    assert "Point estimates are those of rliable" in page
    assert "the intervals are this project's own" in page


def test_runs_left_out_are_named_with_reasons(written):
    page = (written / "report.md").read_text()
    head = MarkdownIt("commonmark").render(page[: page.index("\n## ")])
    assert "<code>ppo</code> on <code>CartPole-v1</code>, seeds 5-6, 9: " in head
    assert "RuntimeError: &lt;b&gt;out&lt;/b&gt; of | memory *now*" in head
    assert "<code>gumbel-ac</code> on <code>Acrobot-v1</code>, seed 7: " in head
    assert "<code>sac</code> on <code>Acrobot-v1</code>: has no Box actions" in head


def test_nothing_left_out_nothing_said():
    page = markdown.render(comparison({"CartPole-v1": Task()}, PLAYERS), {})
    assert "> " not in page


def test_origin_and_settings(summary, written):
    page = (written / "report.md").read_text()
    assert "| load during the runs | 0.25 to 2.75, median 1.50 |" in page
    for text in (summary["command"], summary["hardware"]["cpu"], summary["versions"]["torch"], "seeds 0-4"):
        assert text in page
    for environment in summary["environments"].values():
        assert all(agent["command"] in page for agent in environment["agents"].values())
    assert "note: a | b" in page
    assert "mean over 77 fresh episodes" in page


def test_one_label_and_one_seed():
    lone = comparison({"CartPole-v1": Task()}, {"gumbel-ac": Player()}, seeds=1)
    page = markdown.render(lone, {})
    (row,) = table_with(page, "steps to threshold")
    assert (
        row["return, IQM [95 %]"]
        == f"{lone['environments']['CartPole-v1']['agents']['gumbel-ac']['return']['min']:.1f}"
    )
    assert "beats" not in {name for table in read_tables(page) for name in table[0]}
    assert "up to 1 seed an agent" in page


def test_nothing_finished(tmp_path):
    # No run has told of its machine.
    write_report(comparison({}, PLAYERS, across=None, hardware={"load": None}, **LOST), tmp_path)
    assert "No run is finished." in (tmp_path / "report.md").read_text()
    assert "seeds 5-6, 9" in (tmp_path / "report.html").read_text()


class Page(HTMLParser):
    """What a browser would make of a page: addresses it names, scripts, ids, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "action") or (tag == "link" and name == "href"):
                self.fetched.append(value)
            elif name in ("href", "xlink:href"):
                self.links.append(value)
            elif name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), (tag, name)

    def handle_data(self, data):
        self.words += data


def test_html_needs_nothing_else(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.fetched == []
    assert "script" not in page.tags
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert len(page.ids) == len(set(page.ids))
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"https://arxiv.org/abs/2108.13264"}
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert page.tags.count("svg") == len(list((written / "figures").iterdir()))


def test_html_says_what_markdown_says(written):
    """The same tables, cell by cell."""
    cells = [cell for table in read_tables((written / "report.md").read_text()) for row in table for cell in row]
    text = (written / "report.html").read_text()
    shown = [
        html.unescape(re.sub(r"<[^>]*>", "", cell)).replace("\u00a0", " ")
        for cell in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", text)
    ]
    assert shown == cells
    for section in ("All environments", "CartPole-v1", "Rooms/A-v0", "How to read this"):
        assert f">{section}</a></li>" in text


EVIL = ["<script>alert(1)</script>", "a`b``c`", "x|y", "[x](https://example.com)", "$x_1$ **b**", "&lt; ]: # ~~a~~ \\|"]


@pytest.mark.parametrize("name", EVIL)
def test_text_is_shown_as_it_is(name):
    """Whatever stands in the summary, the page has the elements that it has for plain words."""

    def page(name: str) -> tuple[str, Page]:
        entry = comparison({"CartPole-v1": Task()}, {name: Player(settings={name: name}), "ppo": Player()}, date=name)
        entry |= {"command": name, "failed": [{"env": name, "agent": name, "seed": 0, "reason": name}]}
        entry["hardware"]["cpu"] = name
        text = markdown.render(entry, {"CartPole-v1/final return": "figures/x.svg"})
        return text, Page(webpage.render(text, {"figures/x.svg": "<svg ></svg>"}))

    text, shown = page(name)
    _, plain = page("plain")
    assert shown.tags == plain.tags
    assert shown.words.replace("\u00a0", " ").count(name) == plain.words.count("plain") >= 14
    assert name in [row["agent"] for row in table_with(text, "steps to threshold")]


def test_the_same_summary_makes_the_same_files(summary, written, tmp_path):
    write_report(json.loads(json.dumps(summary)), tmp_path)
    files = [path.relative_to(written) for path in written.rglob("*") if "tensorboard" not in path.parts]
    assert len([path for path in files if path.suffix == ".svg"]) == 3 + 6 + 6 + 5
    for path in files:
        assert (tmp_path / path).is_dir() or (tmp_path / path).read_bytes() == (written / path).read_bytes(), path


def test_links_to_figures(written):
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (written / "report.md").read_text())
    assert {(written / link).resolve() for link in links} == {
        path.resolve() for path in (written / "figures").iterdir()
    }


def test_a_failed_write_leaves_the_old_report(written, tmp_path, monkeypatch):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "report.md").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("agents.compare.report._write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(comparison({"CartPole-v1": Task()}, {"ppo": Player()}), tmp_path)
    assert (tmp_path / "report.md").read_bytes() == before
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 20


@pytest.mark.parametrize("width", [80, 120])
def test_console(summary, width):
    """Every number is whole, even where names are folded."""
    entry = copy.deepcopy(summary)
    agents = entry["environments"]["CartPole-v1"]["agents"]
    agents["gumbel-ac"]["steps_to_threshold"] = {"median": [10_240, 9_000, None], "reached": 4}
    agents["gumbel-ac"]["seconds_to_threshold"] = {"median": [0.584, 0.4, None], "reached": 4}
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(console_table(entry))
    text = console.export_text()
    for environment in entry["environments"].values():
        places = 1 if environment["threshold"] is not None else 3
        for agent in environment["agents"].values():
            value, low, high = agent["return"]["iqm"]
            assert f"{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]" in text
    assert "10.2k, 0.58 s" in text
    words = " ".join(text.split())
    assert "failed: ppo on CartPole-v1, seeds 5-6, 9: RuntimeError: <b>out</b> of | memory *now*" in words
    assert "missing: gumbel-ac on Acrobot-v1, seed 7" in words


def test_a_dark_page_recolours_all_but_what_stands_on_colour(written):
    text = (written / "report.html").read_text()
    body = text[text.index("<main>") :]
    assert not any(colour in body for colour in (appearance.INK, appearance.GRID, appearance.PAPER))
    assert all(f"var(--{name})" in body for name in ("ink", "grid", "paper"))
    # Letters in the heat map keep their contrast to cells that keep their colour.
    assert appearance.LIGHT in body
