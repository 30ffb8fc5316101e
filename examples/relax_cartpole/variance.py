"""How much of the policy gradient's variance each control variate takes away, on the same episodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from examples.relax_cartpole.gradients import ESTIMATORS, HIDDEN, GradientEstimator, Settings
from examples.relax_cartpole.training import follow, make_env, play
from gumbel_rl.critics import mlp

# Where to look: after so many episodes of training, on as many fresh ones with the policy held still.
CHECKPOINTS = (50, 100, 200, 300)
FRESH = 100


class VarianceJob(NamedTuple):
    """One training along which variances are measured; settings of `relax` and of `score-function`."""

    settings: tuple[Settings, ...]
    seed: int


def measure_variances(job: VarianceJob) -> dict[str, Any]:
    """Variance of the gradient of one episode, the trace of its covariance, at every checkpoint.

    The policy follows RELAX. The value learns from the same episodes, with the settings tuned for it. `none` is the
    score function without a baseline.

    Returns:
        For each of `relax`, `score-function` and `none` a list, one number a checkpoint.
    """
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    env = make_env(job.seed)
    policy = mlp([4, *HIDDEN, 2], nn.ReLU)
    optimizer = torch.optim.Adam(policy.parameters(), lr=job.settings[0].learning_rate)
    critics: dict[str, GradientEstimator] = {
        name: ESTIMATORS[name](4, 2, settings) for name, settings in zip(ESTIMATORS, job.settings, strict=True)
    }
    nothing = ESTIMATORS["score-function"](4, 2, Settings(0.0, 0.0, 0.0))
    found: dict[str, list[float]] = {name: [] for name in (*ESTIMATORS, "none")}
    for number in range(1, CHECKPOINTS[-1] + 1):
        episode, _ = play(env, policy)
        for name, critic in critics.items():
            gradient = critic.gradient(policy, episode)
            critic.learn(episode, gradient)
            if name == "relax":
                direction = gradient
        follow(policy, optimizer, direction, episode.observations)
        if number in CHECKPOINTS:
            fresh = [play(env, policy)[0] for _ in range(FRESH)]
            for name, critic in {**critics, "none": nothing}.items():
                estimates = torch.stack([flat(critic.gradient(policy, one)) for one in fresh])
                found[name].append(float(f"{estimates.var(0).sum():.4g}"))
    env.close()
    return dict(found)


def flat(gradient: tuple[Tensor, ...]) -> Tensor:
    """All entries of a gradient as one vector."""
    return torch.cat([part.detach().flatten() for part in gradient])
