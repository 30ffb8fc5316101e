"""What a Gumbel-softmax looks like at several temperatures: its expectation, and single samples of it.

    python benchmarks/temperature_figure.py                # a few seconds; writes docs/assets/temperature-samples.svg
    python benchmarks/temperature_figure.py --seed 3 --out /somewhere/else.svg

Columns are temperatures, the categorical distribution itself first. A row of samples shows *one* draw of noise at every
temperature, so that a column differs from its neighbour by the temperature alone; the argmax is the same along a row.
The expectation is a mean over a million draws, the same for all temperatures, and its standard error is below 0.0005
(an entry lies between 0 and 1, so that its standard deviation is at most 0.5). The figure is the same text whenever it
is made with the same seed on the same version of torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from agents.compare.appearance import COLOURS, INK, STYLE, WIDTH
from agents.compare.figures import svg
from gumbel_rl.gumbel import gumbel_max, gumbel_noise, gumbel_softmax

OUT = Path(__file__).resolve().parent.parent / "docs" / "assets" / "temperature-samples.svg"
PROBS = (0.1, 0.3, 0.05, 0.4, 0.15)
TEMPERATURES = (0.1, 0.5, 1.0, 10.0)
DRAWS = 1_000_000
SAMPLES = 3


def expectation(logits: Tensor, temperature: float, draws: int, seed: int) -> Tensor:
    """Mean of the relaxed sample `[K]` over so many draws, of the same noise whatever the temperature."""
    generator = torch.Generator().manual_seed(seed)
    noise = gumbel_noise((draws, len(logits)), generator=generator)
    return gumbel_softmax(logits, noise, temperature).mean(0, dtype=torch.float64)


def distinct_noise(logits: Tensor, samples: int, seed: int) -> Tensor:
    """The first noise `[samples, K]` of a seed that leads to different choices: equal ones would show less."""
    generator = torch.Generator().manual_seed(seed)
    noise = gumbel_noise((1000, len(logits)), generator=generator)
    choices = gumbel_max(logits, noise).argmax(-1).tolist()
    first = [choices.index(choice) for choice in dict.fromkeys(choices)]
    return noise[first[:samples]]


def draw(seed: int = 0, draws: int = DRAWS) -> Figure:
    """The figure."""
    probs = torch.tensor(PROBS)
    logits = probs.log()
    noise = distinct_noise(logits, SAMPLES, seed)
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    grid = figure.subplots(1 + SAMPLES, 1 + len(TEMPERATURES), sharex=True, sharey=True)
    for column, temperature in enumerate((None, *TEMPERATURES)):
        mean = probs if temperature is None else expectation(logits, temperature, draws, seed)
        exact = gumbel_max(logits, noise)
        samples = exact if temperature is None else gumbel_softmax(logits, noise, temperature)
        grid[0, column].set_title("categorical" if temperature is None else f"τ = {temperature:g}")
        bars(grid[0, column], mean, COLOURS[0], reference=probs)
        for row, sample in enumerate(samples, start=1):
            bars(grid[row, column], sample, COLOURS[1])
    grid[0, 0].set_ylabel("expectation")
    for row in range(1, 1 + SAMPLES):
        grid[row, 0].set_ylabel(f"sample {row}")
    figure.supxlabel("class; the dots are the class probabilities", fontsize=9.5)
    return figure


def bars(axes: Axes, values: Tensor, colour: str, reference: Tensor | None = None) -> None:
    places = range(1, len(values) + 1)
    axes.bar(places, values.tolist(), color=colour, width=0.75)
    if reference is not None:
        axes.plot(places, reference.tolist(), ".", color=INK, markersize=4)
    axes.set(ylim=(0, 1.04), yticks=(0, 0.5, 1), yticklabels=("0", ".5", "1"), xticks=list(places))
    axes.tick_params(length=0)
    axes.grid(axis="x", visible=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of all noise")
    parser.add_argument("--out", type=Path, default=OUT, help="the SVG to write")
    arguments = parser.parse_args()
    if not arguments.out.parent.is_dir():
        parser.error(f"--out: there is no directory {arguments.out.parent}")
    with matplotlib.rc_context(STYLE):
        text = svg("Gumbel-softmax by temperature", draw(arguments.seed))
    arguments.out.write_text(text, encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
