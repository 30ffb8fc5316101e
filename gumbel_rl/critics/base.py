"""The contract of a critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn


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

    multilinear: bool

    @abstractmethod
    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """The value as a function of the action alone, for features `[B, F]`."""

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Values `[*, B]` of actions `[*, B, N]` in states with features `[B, F]`."""
        return self.at(features)(actions)

    def regression_actions(self, actions: Tensor) -> Tensor:
        """The actions `[B, N]` to fit the value at, in place of the one-hots `[B, N]` that were taken."""
        return actions
