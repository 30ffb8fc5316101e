"""`result.json`: what came of a run."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run; the fields are the keys of `result.json`."""

    agent: str
    env: str
    estimator: str | None
    """Null for agents that have none."""
    seed: int
    timesteps: int
    """Environment steps taken, which may overshoot what was asked for by a part of an update."""
    train_seconds: float
    """Without evaluations, checkpoints and start-up."""
    eval_episodes: int
    """Episodes of the final evaluation, on seeds that the run used nowhere else."""
    eval_return_mean: float
    """Of the final model taking the likeliest action."""
    eval_return_std: float
    """Over episodes."""
    eval_return_stochastic_mean: float
    """The same with actions drawn from the policy (for DQN: with its last share of random actions)."""
    eval_return_stochastic_std: float
    eval_length_mean: float
    """Steps an episode, taking the likeliest action."""
    best_periodic_mean: float | None
    """Highest mean of a periodic evaluation, that of `best_model.zip`."""
    threshold: float | None
    steps_to_threshold: int | None
    """Step of the first periodic evaluation over at least 20 episodes whose mean reached the threshold."""
    seconds_to_threshold: float | None
    """Seconds of training until then."""
    device: str
    threads: int
    versions: dict[str, str]
    machine: dict[str, str | int | float | None]
    load: float | None
    """Of the machine in the last minute of the run: processes that wanted a core, this one among them."""

    def to_json(self) -> str:
        """The content of `result.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    import gymnasium
    import numpy
    import stable_baselines3
    import torch

    import gumbel_rl

    modules = (gumbel_rl, stable_baselines3, torch, gymnasium, numpy)
    return {"python": platform.python_version()} | {module.__name__: str(module.__version__) for module in modules}
