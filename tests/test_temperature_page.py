"""The documentation's interactive page and figure: what a reader sees and does, in a real browser."""

from __future__ import annotations

import re
import runpy
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import FALSE_ALARM, assert_frequencies, assert_plausible
from scipy import stats

from gumbel_rl.gumbel import gumbel_noise, gumbel_softmax

ROOT = Path(__file__).resolve().parent.parent
PROBS = [0.1, 0.3, 0.05, 0.4, 0.15]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A browser on a machine without a way out; nothing here is to be fetched anyway.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
# The page's random numbers: mulberry32 with a fixed seed in place of Math.random.
SEEDED = """
let state;
window.reseed = () => { state = 20240613; };
window.reseed();
Math.random = () => {
  state = (state + 0x6D2B79F5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the page's site, served from this machine: the real theme, and the pages that this one links to."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("page")
    docs = folder / "docs"
    shutil.copytree(ROOT / "docs" / "assets", docs / "assets")
    shutil.copy(ROOT / "docs" / "temperature.md", docs)
    (docs / "index.md").write_text("# Start\n\n[To the temperature](temperature.md)\n", encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "site")))
    address = f"http://127.0.0.1:{server.server_port}/"
    # An address of the site switches the theme's navigation without reloads on.
    changes = {"docs_dir": str(docs), "site_dir": str(folder / "site"), "site_url": address}
    build(load_config(str(ROOT / "mkdocs.yml"), **changes, nav=None, plugins=["search"], validation={}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = "the page is tested in a browser, driven by Playwright: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("the page is tested in Chromium, and there is none here: apt-get install chromium, say")
    with playwright.sync_playwright() as session:
        try:
            chromium = session.chromium.launch(executable_path=executable, args=QUIET)
        except playwright.Error as error:
            pytest.skip(f"{executable} cannot be started here: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, site: str, **options: Any) -> Iterator[Any]:
    """The page, opened; it is a failure to log an error or to ask for anything from elsewhere."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000}, **options)
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda asked: None if asked.url.startswith((site, "data:")) else complaints.append(asked.url))
    tab.add_init_script(SEEDED)
    tab.goto(f"{site}temperature/")
    tab.locator("#relaxed .bar").first.wait_for()
    yield tab
    tab.close()
    assert not complaints


@pytest.fixture(scope="module")
def tab(browser: Any, site: str) -> Iterator[Any]:
    with opened(browser, site) as tab:
        yield tab


@pytest.fixture
def page(tab: Any) -> Any:
    """The page as if opened anew, which would take a second each time."""
    tab.evaluate(
        """() => {
          window.reseed();
          document.querySelector("gumbel-softmax-demo").replaceWith(document.createElement("gumbel-softmax-demo"));
        }"""
    )
    return tab


def values(page: Any, figure: str) -> np.ndarray:
    """What the bars of a figure stand for."""
    return np.array(page.locator(f"#{figure} .column").evaluate_all("all => all.map((c) => Number(c.dataset.value))"))


def heights(page: Any, figure: str) -> np.ndarray:
    """How tall the bars of a figure are drawn, as shares of the room for them."""
    measure = "all => all.map((t) => t.querySelector('.bar').getBoundingClientRect().height / t.clientHeight)"
    return np.array(page.locator(f"#{figure} .track").evaluate_all(measure))


def set_slider(page: Any, name: str, value: float) -> None:
    """Move a slider as far as its steps allow."""
    page.get_by_role("slider", name=name).fill(f"{value:g}")


def set_temperature(page: Any, temperature: float) -> None:
    set_slider(page, "Temperature", round(20 * np.log10(temperature)) / 20)


def draw(page: Any, thousands: int) -> None:
    button = page.get_by_role("button", name="Re-sample 1,000 times")
    for _ in range(thousands):
        button.click()


def counts(page: Any) -> np.ndarray:
    shown = page.locator("#draws").inner_text()
    (number,) = re.findall(r"^([\d,]+) draws?", shown)
    return np.rint(values(page, "frequencies") * int(number.replace(",", ""))).astype(int)


FIGURES = ("relaxed", "hard", "mean", "frequencies")


def test_bars_sum_to_one_and_are_drawn_as_tall_as_they_say(page):
    for temperature in (0.05, 0.5, 1.0, 20.0):
        set_temperature(page, temperature)
        for figure in FIGURES:
            assert values(page, figure).sum() == pytest.approx(1.0, abs=1e-9)
            assert heights(page, figure) == pytest.approx(values(page, figure), abs=0.01)
            shown = [float(text) for text in page.locator(f"#{figure} .value").all_inner_texts()]
            assert shown == pytest.approx(values(page, figure), abs=0.0051)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_the_relaxed_sample_is_the_formula_of_its_noise(page, temperature):
    set_temperature(page, temperature)
    noise = np.array(page.evaluate("[...document.querySelector('gumbel-softmax-demo').noise]"))[:5]
    scores = np.log(PROBS) + noise
    expected = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
    assert values(page, "relaxed") == pytest.approx(expected, abs=1e-9)
    assert values(page, "hard").tolist() == np.eye(5)[scores.argmax()].tolist()


def test_the_noise_is_gumbel(page):
    noise = page.evaluate("[...document.querySelector('gumbel-softmax-demo').meanNoise]")
    assert len(noise) == 32_000
    assert_plausible(float(stats.kstest(noise, stats.gumbel_r.cdf).pvalue))


def test_cold_samples_are_one_hots_and_hot_ones_uniform(page):
    set_temperature(page, 0.05)
    weights = []
    for _ in range(20):
        page.get_by_role("button", name="Re-sample", exact=True).click()
        relaxed, hard = values(page, "relaxed"), values(page, "hard")
        assert relaxed.argmax() == hard.argmax()
        assert sorted(hard) == [0, 0, 0, 0, 1]
        weights.append(relaxed.max())
    assert np.median(weights) > 0.999
    weight = weights[-1]
    for temperature in (0.1, 0.5, 1.0, 5.0, 20.0):
        set_temperature(page, temperature)
        assert values(page, "relaxed").argmax() == hard.argmax()
        assert values(page, "relaxed").max() < weight
        weight = values(page, "relaxed").max()
    assert values(page, "relaxed") == pytest.approx([0.2] * 5, abs=0.1)


def test_the_temperature_leaves_one_hots_alone(page):
    draw(page, 1)
    before = values(page, "hard").tolist(), counts(page).tolist()
    for temperature in (0.05, 20.0):
        set_temperature(page, temperature)
        assert (values(page, "hard").tolist(), counts(page).tolist()) == before


def test_a_new_sample_is_another_one(page):
    seen = set()
    for number in range(2, 12):
        page.get_by_role("button", name="Re-sample", exact=True).click()
        seen.add(tuple(values(page, "relaxed")))
        choice = "ABCDE"[int(values(page, "hard").argmax())]
        assert page.get_by_role("status").inner_text() == f"Draw {number} is class {choice}."
    assert len(seen) == 10
    assert counts(page).sum() == 11


def test_frequencies_follow_the_probabilities(page):
    draw(page, 20)
    before = counts(page)
    assert before.sum() == 20_001
    assert_plausible(float(stats.chisquare(before, 20_001 * np.array(PROBS)).pvalue))
    set_slider(page, "class B", 0.65)
    assert counts(page).sum() == 1  # what was drawn from other probabilities counts no more
    probs = page.evaluate("document.querySelector('gumbel-softmax-demo').probs")
    assert probs == pytest.approx([0.05, 0.65, 0.025, 0.2, 0.075])  # the others keep their proportions
    draw(page, 20)
    assert_plausible(float(stats.chisquare(counts(page), 20_001 * np.array(probs)).pvalue))
    assert stats.chisquare(counts(page), 20_001 * np.array(PROBS)).pvalue < FALSE_ALARM


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_the_expectation_is_the_library_s(page, temperature):
    set_temperature(page, temperature)
    noise = gumbel_noise((200_000, 5), generator=torch.Generator().manual_seed(0))
    relaxed = gumbel_softmax(torch.tensor(PROBS).log(), noise, temperature).double().numpy()
    shown = page.evaluate("[...document.querySelector('gumbel-softmax-demo').meanNoise]")
    own = torch.tensor(shown, dtype=torch.float64).reshape(4000, 8)[:, :5]
    mean = gumbel_softmax(torch.tensor(PROBS, dtype=torch.float64).log(), own, temperature).mean(0)
    assert values(page, "mean") == pytest.approx(mean.numpy(), abs=1e-9)
    error = relaxed.std(0) * np.sqrt(1 / 4000 + 1 / 200_000)
    bound = stats.norm.isf(FALSE_ALARM / 2 / 5) * error + 1e-6
    assert (np.abs(values(page, "mean") - relaxed.mean(0)) <= bound).all()


def test_classes_come_and_go(page):
    add, remove = (page.get_by_role("button", name=name) for name in ("Add a class", "Remove the last"))
    for classes in (6, 7, 8):
        assert add.is_enabled()
        add.click()
        probs = [float(slider.input_value()) for slider in page.get_by_role("slider", name="class").all()]
        assert len(probs) == classes
        assert probs[-1] == pytest.approx(1 / classes, abs=0.0051)
        assert page.locator("#classes .share").all_inner_texts() == [f"{p:.2f}" for p in probs]
    assert add.is_disabled()
    draw(page, 1)
    assert counts(page).min() > 0
    box = page.locator("#relaxed").bounding_box()
    last = page.locator("#relaxed .column").last.bounding_box()
    assert last["x"] + last["width"] <= box["x"] + box["width"] + 1
    for _ in range(6):
        remove.click()
    assert remove.is_disabled()
    # The first two are left, in the proportion they had at first.
    probs = page.evaluate("document.querySelector('gumbel-softmax-demo').probs")
    assert probs == pytest.approx([0.25, 0.75])
    assert all(len(values(page, figure)) == 2 for figure in FIGURES)


def test_certain_and_impossible_classes(page):
    set_slider(page, "class A", 1)
    for temperature in (0.05, 20.0):
        set_temperature(page, temperature)
        assert all(values(page, figure).tolist() == [1, 0, 0, 0, 0] for figure in FIGURES)
    set_slider(page, "class A", 0.2)  # the others have no proportions left
    assert page.evaluate("document.querySelector('gumbel-softmax-demo').probs") == pytest.approx([0.2] * 5)
    set_slider(page, "class A", 0)
    draw(page, 1)
    assert counts(page)[0] == 0


def test_everything_is_named_and_can_be_done_with_the_keyboard(page):
    page.get_by_role("slider", name="Temperature τ").focus()
    for key, shown in (("ArrowRight", "1.1"), ("ArrowLeft", "1.0"), ("End", "20"), ("Home", "0.050")):
        page.keyboard.press(key)
        assert page.locator("#shown").inner_text() == shown
        assert page.get_by_role("slider", name="Temperature").get_attribute("aria-valuetext") == shown
    for name in "ABCDE":
        page.keyboard.press("Tab")
        before = float(page.get_by_role("slider", name=f"Probability of class {name}").input_value())
        page.keyboard.press("ArrowRight")
        slider = page.get_by_role("slider", name=f"Probability of class {name}")
        assert float(slider.input_value()) == pytest.approx(before + 0.01)
    for button in ("Add a class", "Remove the last", "Re-sample"):
        page.keyboard.press("Tab")
        focused = "document.querySelector('gumbel-softmax-demo').shadowRoot.activeElement.textContent"
        assert page.evaluate(focused) == button
    before = values(page, "relaxed").tolist()
    page.keyboard.press("Enter")
    assert values(page, "relaxed").tolist() != before
    label = page.get_by_role("img", name="Relaxed sample: A ").get_attribute("aria-label")
    assert label is not None
    assert [float(number) for number in re.findall(r"\d\.\d\d", label)] == pytest.approx(
        values(page, "relaxed"), abs=0.0051
    )


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(...)` (WCAG 2)."""
    channels = np.array([float(number) for number in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_stand_out_in_both_themes(browser, site, scheme):
    with opened(browser, site, color_scheme=scheme) as page:
        ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (ground < 0.2) == (scheme == "dark")
        for figure in ("relaxed", "mean"):
            bar = page.locator(f"#{figure} .bar").first
            ink = luminance(bar.evaluate("bar => getComputedStyle(bar).backgroundColor"))
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 3  # WCAG's minimum for graphics


def test_it_lives_through_navigation_without_reloads(browser, site):
    with opened(browser, site) as page:
        page.goto(site)
        page.evaluate("window.loadedOnce = true")
        for _ in range(2):
            page.get_by_role("link", name="To the temperature").click()
            page.locator("#relaxed .bar").first.wait_for()
            assert values(page, "relaxed").sum() == pytest.approx(1.0)
            page.go_back()
            page.get_by_role("link", name="To the temperature").wait_for()
        assert page.evaluate("window.loadedOnce")


def test_without_scripts_a_sentence_says_so(browser, site):
    tab = browser.new_page(java_script_enabled=False)
    tab.goto(f"{site}temperature/")
    assert tab.get_by_text("This needs JavaScript").is_visible()
    tab.close()


def test_the_figure_shows_what_it_says():
    figure = runpy.run_path(str(ROOT / "benchmarks" / "temperature_figure.py"))
    probs = torch.tensor(figure["PROBS"])
    assert figure["TEMPERATURES"] == (0.1, 0.5, 1.0, 10.0)
    drawn = figure["draw"](seed=0, draws=50_000)
    bars = [[[bar.get_height() for bar in axes.patches] for axes in row] for row in np.array(drawn.axes).reshape(4, 5)]
    expectation, samples = torch.tensor(bars[0]), torch.tensor(bars[1:])
    assert torch.tensor(bars).sum(-1).flatten().tolist() == pytest.approx([1.0] * 20)
    assert expectation[0].tolist() == pytest.approx(probs.tolist())
    # The page's words, with the noise of fewer draws allowed for: five standard errors are at most 0.011.
    distance = (expectation - probs).abs().amax(-1)
    assert distance[1] < 0.001 + 0.011
    assert bool((distance.diff()[1:] > 0).all())
    assert expectation[-1].tolist() == pytest.approx([0.2] * 5, abs=0.03)
    assert (samples.argmax(-1) == samples.argmax(-1)[:, :1]).all()  # one draw of noise along a row
    assert len(samples[:, 0].argmax(-1).unique()) == 3
    assert bool((samples.amax(-1).diff(dim=-1) <= 0).all())  # flatter and flatter


def test_frequencies_of_seeded_numbers_are_those_of_a_fair_generator():
    # The replacement of Math.random is part of what is measured above: it has to be uniform itself.
    state, draws = 20240613, []
    for _ in range(20_000):
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = ((state ^ (state >> 15)) * (1 | state)) & 0xFFFFFFFF
        t = (t + ((t ^ (t >> 7)) * (61 | t)) & 0xFFFFFFFF) ^ t
        draws.append(((t ^ (t >> 14)) & 0xFFFFFFFF) / 2**32)
    tenths = torch.nn.functional.one_hot(torch.tensor(draws).mul(10).long(), 10)
    assert_frequencies(tenths, torch.full((10,), 0.1))
