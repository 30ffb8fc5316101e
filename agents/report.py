"""The table that a finished run ends with."""

from __future__ import annotations

import json
import shlex

from rich.text import Text

from agents.run_directory import RunDirectory


def report(run: RunDirectory) -> Text:
    """What came of a run and where it lies; to be printed without wrapping, so that the command can be copied."""
    result = json.loads(run.result.read_text(encoding="utf-8"))
    mean, std, episodes = result["eval_return_mean"], result["eval_return_std"], result["eval_episodes"]
    rows = {
        "return": f"{mean:.1f} ± {std:.1f} over {episodes} episodes, likeliest actions",
        "": f"{result['eval_return_stochastic_mean']:.1f} ± {result['eval_return_stochastic_std']:.1f} drawing actions",
    }
    if result["threshold"] is not None:
        reached, seconds = result["steps_to_threshold"], result["seconds_to_threshold"]
        when = "not reached" if reached is None else f"reached after {reached:,} steps, {seconds:.1f} s of training"
        rows["threshold"] = f"{result['threshold']:g}, {when}"
    rows["trained"] = f"{result['timesteps']:,} steps in {result['train_seconds']:.1f} s"
    rows["run directory"] = str(run.path)
    rows["curves"] = f"tensorboard --logdir {shlex.quote(str(run.path))}"
    return Text("\n").join(Text.assemble((f"{label:<15}", "bold"), text) for label, text in rows.items())
