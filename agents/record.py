"""Record episodes of a trained agent as mp4 or gif.

Example:
    python -m agents.record runs/CartPole-v1/gumbel-ac/20250101-120000-seed0 --out cartpole.gif
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from agents.command_line import hint, option, parse, path, run_command
from agents.conversion import Count, Seed
from agents.errors import UserError
from agents.evaluate import Which

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from stable_baselines3.common.type_aliases import PolicyPredictor
    from stable_baselines3.common.vec_env import VecEnv

    from agents.run_directory import RunDirectory

SUFFIXES = (".mp4", ".gif")
# Of a video, where the environment does not say.
FRAMES_A_SECOND = 30


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    run: Annotated[Path, tyro.conf.Positional, path("RUN_DIR")]
    """Directory of a run."""
    out: Annotated[Path | None, path("FILE"), hint("(default: RUN_DIR/video.mp4)")] = None
    """The video, .mp4 or .gif."""
    episodes: Annotated[int, option(Count, "N")] = 1
    """Episodes, one after the other."""
    stochastic: bool = False
    """Draw actions from the policy instead of taking the likeliest."""
    seed: Annotated[int | None, option(Seed, "N"), hint("(default: that of the run's own final evaluation)")] = None
    """Seed of the episodes."""
    model: Annotated[str, option(Which, "WHICH")] = "final"
    """Which model of the run: final, best (in the periodic evaluations) or checkpoint (the last)."""
    device: Annotated[str, option(str, "DEVICE")] = "cpu"
    """Torch device."""


def record(
    run: RunDirectory,
    out: Path | None = None,
    *,
    episodes: int = 1,
    stochastic: bool = False,
    seed: int | None = None,
    which: str = "final",
    device: str = "cpu",
) -> Path:
    """Write a video of a run's agent; returns its path.

    Raises:
        UserError: The run cannot be read, the environment cannot be rendered, or the file cannot be written.
    """
    out = run.path / "video.mp4" if out is None else out
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out} must end in {' or '.join(SUFFIXES)}")

    from agents.environments import render_modes
    from agents.saving import open_run
    from agents.scoring import player, seed_everything
    from agents.seeds import Purpose, episode_seed

    # Frames are drawn in memory; without a desktop, SDL complains about the lack of one.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    config = replace(run.read_config(), engine="dummy")
    modes = render_modes(config)
    if "rgb_array" not in modes:
        raise UserError(f"{config.env} cannot be recorded: it renders {', '.join(modes) or 'nothing'}, not rgb_array")
    seed = episode_seed(Purpose.FINAL, config.seed) if seed is None else seed
    model, env = open_run(run, config, 1, which=which, device=device, seed=seed, render_mode="rgb_array")
    seed_everything(model, seed)
    try:
        fps: Any = env.metadata.get("render_fps") or FRAMES_A_SECOND
        write_video(out, fps, frames(player(model, env), env, episodes, deterministic=not stochastic))
    finally:
        env.close()
    return out


def frames(model: PolicyPredictor, env: VecEnv, episodes: int, *, deterministic: bool) -> Iterator[NDArray[np.uint8]]:
    """Images `[height, width, 3]` of episodes played in a single environment, which renders arrays."""
    observation: Any = env.reset()
    while episodes:
        (frame,) = env.get_images()
        assert frame is not None  # it renders arrays
        yield frame
        actions, _ = model.predict(observation, deterministic=deterministic)
        observation, _, (done,), _ = env.step(actions)
        episodes -= int(done)


def write_video(path: Path, fps: float, images: Iterator[NDArray[np.uint8]]) -> None:
    """Write images of one size as a video, as they come.

    Raises:
        UserError: The file cannot be written.
    """
    import imageio.v2

    # GIF counts in milliseconds, and most codecs want even sides.
    options: dict[str, Any] = (
        {"duration": 1000 / fps, "loop": 0} if path.suffix == ".gif" else {"fps": fps, "macro_block_size": 1}
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        video: Any
        with imageio.v2.get_writer(path, **options) as video:
            for image in images:
                height, width, _ = image.shape
                video.append_data(image[: height - height % 2, : width - width % 2])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def main(argv: list[str] | None = None) -> None:
    """Record as the command line says."""
    options = parse(Options, argv, prog="python -m agents.record", description=__doc__ or "")

    from agents.run_directory import RunDirectory

    out = record(
        RunDirectory(options.run),
        options.out,
        episodes=options.episodes,
        stochastic=options.stochastic,
        seed=options.seed,
        which=options.model,
        device=options.device,
    )
    print(f"video: {out}")


if __name__ == "__main__":
    run_command(main)
