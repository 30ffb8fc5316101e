"""Critics: value functions of a state and a discrete action, built so that their slope at an action is known.

A critic is a module on state features `[B, F]`. `critic.at(features)` runs the network once and returns the objective
`f(z)` of an estimator, which takes actions `[*, B, N]` with any leading sample dimensions to values `[*, B]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from gumbel_rl.actions import ActionFactors


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Fully connected layers `widths[0] -> ... -> widths[-1]`, with `activation` between them, not after the last."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), activation()]
    return nn.Sequential(*layers[:-1])


class Critic(nn.Module, ABC):
    """Base class of the critics.

    Attributes:
        multilinear: Whether the value is linear in each factor's block, so that its expectation under independent
            factors is its value at the probabilities, and its slope at an action is a difference of true values.
    """

    multilinear: ClassVar[bool]

    @abstractmethod
    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """The value as a function of the action alone, for features `[B, F]`."""

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Values `[*, B]` of actions `[*, B, N]` in states with features `[B, F]`."""
        return self.at(features)(actions)


class ActionLinear(Critic):
    """`Q(s, z) = <z, q(s)>`, one output of the network for each choice.

    Args:
        features_dim: `F`.
        factors: The action's factors. With more than one, the value is a sum over factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
    """

    multilinear = True

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        self.net = mlp([features_dim, *net_arch, factors.width], activation)

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        values = self.net(features)
        return lambda actions: (actions * values).sum(-1)


class Additive(Critic):
    """`Q(s, z) = V(s) + sum_d <z_d, a_d(s)>`, a state value and an advantage head for each factor.

    With `reference` probabilities each head is centred, `sum_k p_dk a_dk = 0`, so that `V` is the value of that policy.
    For independent factors and that policy, fitting the heads to sampled advantages by least squares loses nothing: the
    fit is the conditional expectation factor by factor, which is all that the policy gradient depends on.

    The network's first output is the value in units of its own, `V = value_mean + value_std * output`. In units of the
    returns seen so far its loss does not drown that of the advantages, whatever the scale of the rewards.

    Args:
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers, shared by the value and the heads.
        activation: Between the layers.
    """

    multilinear = True
    value_mean: Tensor
    value_std: Tensor

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        self.factors = factors
        self.net = mlp([features_dim, *net_arch, 1 + factors.width], activation)
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))

    def heads(self, features: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """State values `[B]` and advantages `[B, N]`, centred under `reference` `[B, N]` if it is given."""
        output, advantages = self.net(features).split([1, self.factors.width], dim=-1)
        value = self.value_mean + self.value_std * output.squeeze(-1)
        return value, advantages if reference is None else centre(advantages, reference, self.factors)

    @torch.no_grad()
    def set_value_scale(self, mean: Tensor, std: Tensor) -> None:
        """Change the units of the value's output and leave the value as it is (PopArt, van Hasselt et al. 2016).

        Args:
            mean: New `value_mean`, a scalar.
            std: New `value_std`, a positive scalar.
        """
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        last.weight[0] *= self.value_std / std
        last.bias[0] = (self.value_std * last.bias[0] + self.value_mean - mean) / std
        self.value_mean.copy_(mean)
        self.value_std.copy_(std)

    def at(self, features: Tensor, reference: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        value, advantages = self.heads(features, reference)
        return lambda actions: value + (actions * advantages).sum(-1)


def centre(advantages: Tensor, probs: Tensor, factors: ActionFactors) -> Tensor:
    """Subtract from each factor's block of `advantages` `[*, N]` its mean under `probs` `[*, N]`."""
    blocks = factors.pad(advantages, 0.0)
    means = (blocks * factors.pad(probs, 0.0)).sum(-1, keepdim=True)
    return factors.flatten(blocks - means)


class MLPCritic(Critic):
    """`Q(s, z) = MLP([features, z])`, the action as an input.

    Able to represent any value at the one-hots, but data at the one-hots leave its slope between them arbitrary: a
    pathwise estimator through it may follow a gradient that means nothing.

    Args:
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
    """

    multilinear = False

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        self.net = mlp([features_dim + factors.width, *net_arch, 1], activation)

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        def value(actions: Tensor) -> Tensor:
            expanded = features.expand(*actions.shape[:-1], -1)
            result: Tensor = self.net(torch.cat([expanded, actions], -1)).squeeze(-1)
            return result

        return value


CRITICS: dict[str, type[Critic]] = {"action-linear": ActionLinear, "additive": Additive, "mlp": MLPCritic}
"""Every critic by its id."""
