"""A comparison on TensorBoard: figures, report, and a curve for each agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from agents.compare import markdown
from agents.compare.figures import figures, pixels
from agents.compare.ranking import all_labels
from agents.formats import slugs
from agents.run_directory import write_atomically


def write_tensorboard(summary: Mapping[str, Any], directory: Path, made: Mapping[str, Figure] | None = None) -> None:
    """Write TensorBoard's events, in place of those that the directory holds.

    The figures and the report lie in the directory itself, as images and text `comparison/...`; the interquartile mean
    of every agent lies in a directory of its own below, as the scalar `comparison/<environment>/return`.

    Args:
        summary: The content of `comparison.json`.
        directory: Is replaced as a whole: for nothing but this.
        made: The figures, where they are made already.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    shown = figures(summary) if made is None else made

    def write(path: Path) -> None:
        _page(summary, shown, path)
        for label, name in slugs(all_labels(summary)).items():
            _curves(summary, label, path / name)

    write_atomically(directory, write)


def _page(summary: Mapping[str, Any], shown: Mapping[str, Figure], path: Path) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(path)) as writer:
        writer.add_text("comparison/report", markdown.render(summary, {}))
        for tag, figure in shown.items():
            writer.add_image(f"comparison/{tag}", pixels(figure), dataformats="HWC")


def _curves(summary: Mapping[str, Any], label: str, path: Path) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    environments = summary["environments"].items()
    curves = {
        name: agent["curve"]["steps"]
        for name, environment in environments
        if (agent := environment["agents"].get(label)) and agent["curve"]
    }
    if not curves:
        return
    with SummaryWriter(str(path)) as writer:
        for name, curve in curves.items():
            for step, value in zip(curve["x"], curve["iqm"], strict=True):
                writer.add_scalar(f"comparison/{name}/return", value, round(step))
