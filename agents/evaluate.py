"""Evaluate a trained agent: the likeliest actions, and actions drawn from the policy.

Example:
    python -m agents.evaluate runs/CartPole-v1/gumbel-ac/20250101-120000-seed0 --episodes 100
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from agents.command_line import hint, option, parse, path, run_command
from agents.conversion import Count, Seed

if TYPE_CHECKING:
    from agents.run_directory import RunDirectory
    from agents.scoring import Score

Which = Literal["final", "best", "checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    run: Annotated[Path, tyro.conf.Positional, path("RUN_DIR")]
    """Directory of a run."""
    episodes: Annotated[int, option(Count, "N")] = 100
    """Episodes of each kind."""
    seed: Annotated[int | None, option(Seed, "N"), hint("(default: that of the run's own final evaluation)")] = None
    """Seed of the episodes."""
    model: Annotated[str, option(Which, "WHICH")] = "final"
    """Which model of the run: final, best (in the periodic evaluations) or checkpoint (the last)."""
    device: Annotated[str, option(str, "DEVICE")] = "cpu"
    """Torch device."""
    video: bool = False
    """Record an episode as well, as `python -m agents.record` does."""


def evaluate(
    run: RunDirectory, episodes: int = 100, *, seed: int | None = None, which: str = "final", device: str = "cpu"
) -> dict[str, Score]:
    """Play a run's agent, `deterministic` and `stochastic`.

    With the defaults, and the run's number of episodes, these are the episodes of its `result.json`.

    Raises:
        UserError: The run or its model cannot be read.
    """
    from agents.saving import open_run
    from agents.scoring import environments_for, play
    from agents.seeds import Purpose, episode_seed

    config = run.read_config()
    seed = episode_seed(Purpose.FINAL, config.seed) if seed is None else seed
    model, env = open_run(run, config, environments_for(episodes, config), which=which, device=device, seed=seed)
    try:
        return {
            name: play(model, env, episodes, deterministic=name == "deterministic", seed=seed)
            for name in ("deterministic", "stochastic")
        }
    finally:
        env.close()


def main(argv: list[str] | None = None) -> None:
    """Evaluate as the command line says."""
    options = parse(Options, argv, prog="python -m agents.evaluate", description=__doc__ or "")

    from rich.console import Console
    from rich.table import Table

    from agents.run_directory import RunDirectory

    directory = RunDirectory(options.run)
    scores = evaluate(directory, options.episodes, seed=options.seed, which=options.model, device=options.device)
    table = Table(
        "actions", "return", "lowest", "highest", "steps an episode", box=None, header_style="bold", pad_edge=False
    )
    for name, score in scores.items():
        table.add_row(
            name,
            f"{score.mean:.2f} ± {score.std:.2f}",
            f"{score.returns.min():.2f}",
            f"{score.returns.max():.2f}",
            f"{score.lengths.mean():.1f}",
        )
    Console().print(table)
    if options.video:
        from agents.record import record

        print(f"video: {record(directory, which=options.model, device=options.device)}")


if __name__ == "__main__":
    run_command(main)
