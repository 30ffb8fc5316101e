"""The search spaces: for every agent the same number of dimensions, each of the same number of choices.

An agent that may choose among more settings, or in finer steps, would be tuned better by the same number of trials. So
every space has `DIMENSIONS` dimensions of `CHOICES` choices each, `CHOICES ** DIMENSIONS` points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agents.errors import UserError

DIMENSIONS = 11
CHOICES = 4


class Dimension(NamedTuple):
    """What may be chosen for one hyperparameter; if `ordered`, neighbours are alike, which the search makes use of."""

    choices: tuple[Any, ...]
    ordered: bool = True


Space = Mapping[str, Dimension]

# What every agent has. `learning_rate_end` is the share of the learning rate that is left at the end of the run, on a
# straight line: 1 is a constant rate. `normalization` says what is standardised, `normalize` and `normalize_reward`.
_COMMON: Space = {
    "learning_rate_end": Dimension((0.0, 0.1, 0.3, 1.0)),
    "gamma": Dimension((0.98, 0.99, 0.995, 0.999)),
    "normalization": Dimension(("nothing", "observations", "rewards", "both"), ordered=False),
}
# Widths of the hidden layers.
_NET_ARCH = Dimension(("32-32", "64-64", "128-128", "256-256"))
_BATCH_SIZE = Dimension((32, 64, 128, 256))
_ON_POLICY: Space = {
    **_COMMON,
    "learning_rate": Dimension((3e-4, 1e-3, 3e-3, 1e-2)),
    "n_envs": Dimension((4, 8, 16, 32)),
    "ent_coef": Dimension((0.0, 0.003, 0.01, 0.03)),
}
# `updates_per_step` makes `gradient_steps`, together with `train_freq`.
_OFF_POLICY: Space = {
    **_COMMON,
    "learning_rate": Dimension((1e-4, 3e-4, 1e-3, 3e-3)),
    "batch_size": _BATCH_SIZE,
    "train_freq": Dimension((8, 16, 64, 256)),
    "updates_per_step": Dimension((0.125, 0.25, 0.5, 1.0)),
    "target_update_interval": Dimension((10, 50, 250, 1000)),
    "exploration_fraction": Dimension((0.05, 0.1, 0.2, 0.4)),
}
_GAE_LAMBDA = Dimension((0.8, 0.9, 0.95, 0.98))

_PPO: Space = {
    **_ON_POLICY,
    "n_steps": Dimension((16, 64, 256, 1024)),
    "batch_size": _BATCH_SIZE,
    "gae_lambda": _GAE_LAMBDA,
    "n_epochs": Dimension((4, 8, 12, 20)),
    "clip_range": Dimension((0.1, 0.2, 0.3, 0.4)),
}

SPACES: Mapping[str, Space] = {
    "gumbel-ac": {
        **_ON_POLICY,
        "n_steps": Dimension((16, 32, 64, 128)),
        "batch_size": _BATCH_SIZE,
        "gae_lambda": _GAE_LAMBDA,
        "n_epochs": Dimension((2, 3, 4, 8)),
        "kl_coef": Dimension((1.0, 2.0, 3.0, 5.0)),
    },
    "gumbel-sac": {
        **_COMMON,
        "learning_rate": Dimension((3e-4, 1e-3, 2e-3, 5e-3)),
        "net_arch": _NET_ARCH,
        "batch_size": _BATCH_SIZE,
        "train_freq": Dimension((4, 8, 16, 32)),
        "updates_per_step": Dimension((0.25, 0.5, 1.0, 2.0)),
        "tau": Dimension((0.005, 0.01, 0.02, 0.05)),
        "n_steps": Dimension((1, 2, 3, 5)),
        "target_entropy_ratio": Dimension((0.02, 0.05, 0.15, 0.3)),
    },
    "reinforce": {  # whose batch is an episode of each environment
        **_ON_POLICY,
        "net_arch": _NET_ARCH,
        "baseline": Dimension(("value", "mean", "rloo", "none"), ordered=False),
        "value_epochs": Dimension((1, 2, 5, 10)),
        "value_batch_size": Dimension((128, 256, 512, 1024)),
        "max_grad_norm": Dimension((0.3, 0.5, 1.0, 2.0)),
    },
    "ppo": _PPO,
    "maskable-ppo": _PPO,
    "a2c": {
        **_ON_POLICY,
        "net_arch": _NET_ARCH,
        "n_steps": Dimension((5, 8, 16, 32)),
        "gae_lambda": Dimension((0.9, 0.95, 0.98, 1.0)),
        "vf_coef": Dimension((0.25, 0.4, 0.5, 0.7)),
        "max_grad_norm": Dimension((0.3, 0.5, 1.0, 2.0)),
    },
    "dqn": {**_OFF_POLICY, "net_arch": _NET_ARCH, "exploration_final_eps": Dimension((0.01, 0.02, 0.05, 0.1))},
    "qrdqn": {**_OFF_POLICY, "net_arch": _NET_ARCH, "n_quantiles": Dimension((10, 25, 50, 200))},
}
"""The search space of every agent, by its id. What it does not name stays as the agent is shipped."""


def find_space(agent: str, *, normalizable: bool = True) -> Space:
    """The search space of an agent.

    Args:
        agent: Id in the line-up.
        normalizable: Whether the environment's observations can be standardised; if not, nobody is offered it.

    Raises:
        UserError: It has none.
    """
    if agent not in SPACES:
        raise UserError(f"{agent} has no search space in agents/tune/spaces.py; those with one are {', '.join(SPACES)}")
    space = SPACES[agent]
    return {name: space[name] for name in sorted(space) if normalizable or name != "normalization"}


def to_keys(choices: Mapping[str, Any], n_envs: int) -> dict[str, Any]:
    """The configuration's keys and values that a point of a space stands for.

    Args:
        choices: A choice for every dimension.
        n_envs: Environments stepped together, unless that is one of the dimensions.
    """
    keys = dict(choices)
    rate, end = keys["learning_rate"], keys.pop("learning_rate_end")
    if end != 1.0:
        keys["learning_rate"] = f"linear:{rate:g}:{rate * end:g}"
    if "normalization" in keys:
        what = keys.pop("normalization")
        keys["normalize"] = what in ("observations", "both")
        keys["normalize_reward"] = what in ("rewards", "both")
    if "net_arch" in keys:
        keys["net_arch"] = [int(width) for width in keys["net_arch"].split("-")]
    if "updates_per_step" in keys:
        steps = keys["train_freq"] * n_envs
        keys["gradient_steps"] = max(1, round(keys.pop("updates_per_step") * steps))
    return {key: keys[key] for key in sorted(keys)}


def searched_keys(agent: str) -> set[str]:
    """The configuration's keys that a search of the agent sets."""
    return set(to_keys({name: dimension.choices[0] for name, dimension in find_space(agent).items()}, n_envs=1))
