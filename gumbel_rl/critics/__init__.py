"""Critics: value functions of a state and a discrete action, built so that their slope at an action is known.

A critic is a module on state features `[B, F]`. `critic.at(features)` runs the network once and returns the objective
`f(z)` of an estimator, which takes actions `[*, B, N]` with any leading sample dimensions to values `[*, B]`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from gumbel_rl.actions import ActionFactors
from gumbel_rl.critics.action_input import InterpolatedMLP, MLPCritic, OrdinalMLP
from gumbel_rl.critics.base import Critic, mlp
from gumbel_rl.critics.multilinear import ActionLinear, Additive, Chain, Multilinear, centre

CRITICS: dict[str, type[Critic]] = {
    "action-linear": ActionLinear,
    "additive": Additive,
    "multilinear": Multilinear,
    "chain": Chain,
    "interpolated": InterpolatedMLP,
    "mlp": MLPCritic,
    "ordinal": OrdinalMLP,
}
"""Every critic by its id."""


def make_critic(
    critic_id: str,
    features_dim: int,
    factors: ActionFactors,
    net_arch: Sequence[int] = (64, 64),
    activation: type[nn.Module] = nn.Tanh,
    **options: Any,
) -> Critic:
    """Make a critic by its id.

    Args:
        critic_id: A key of `CRITICS`.
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
        **options: Further arguments of the critic's class, for example `rank=8, layer_norm=True`.

    Raises:
        ValueError: An unknown id (the message names the nearest), or a value the critic refuses.
        TypeError: An option the critic does not have.
    """
    if critic_id not in list(CRITICS):  # a list, which can be asked about what has no hash
        near = difflib.get_close_matches(str(critic_id), CRITICS, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown critic {critic_id!r}{hint}; known are {', '.join(CRITICS)}")
    cls = CRITICS[critic_id]
    allowed = list(inspect.signature(cls).parameters)[4:]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise TypeError(f"critic {critic_id!r} has no option {unknown[0]!r}; it takes {', '.join(allowed)}")
    return cls(features_dim, factors, net_arch, activation, **options)


__all__ = [
    "CRITICS",
    "ActionLinear",
    "Additive",
    "Chain",
    "Critic",
    "InterpolatedMLP",
    "MLPCritic",
    "Multilinear",
    "OrdinalMLP",
    "centre",
    "make_critic",
    "mlp",
]
