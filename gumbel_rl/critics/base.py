"""The contract of a critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from gumbel_rl.actions import ActionFactors


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.Tanh, layer_norm: bool = False) -> nn.Sequential:
    """Fully connected layers `widths[0] -> ... -> widths[-1]`, with `activation` between them, not after the last.

    With `layer_norm` what enters an activation is normalised over its layer first (Ba et al. 2016).
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[:-1]):
        layers += [nn.Linear(width_in, width_out), *([nn.LayerNorm(width_out)] if layer_norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Critic(nn.Module, ABC):
    """Base class of the critics: a network, and what is made of its outputs and the action.

    What a critic has beyond these arguments are its options.

    Args:
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
        layer_norm: LayerNorm after each hidden layer, before the activation.
    """

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.features_dim = features_dim
        self.factors = factors
        self.net = mlp([features_dim + self._inputs(), *net_arch, self._outputs()], activation, layer_norm)

    def _inputs(self) -> int:
        """How many inputs the network has besides the features."""
        return 0

    def _outputs(self) -> int:
        """How many outputs the network has."""
        return 1

    @property
    @abstractmethod
    def multilinear(self) -> bool:
        """Whether the value is linear in each factor's block.

        Then its expectation under independent factors is its value at the probabilities, and its slope at an action is
        a difference of true values.
        """

    @abstractmethod
    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """The value as a function of the action alone, for features `[B, F]`."""

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Values `[*, B]` of actions `[*, B, N]` in states with features `[B, F]`."""
        return self.at(features)(actions)

    def regression_actions(self, actions: Tensor) -> Tensor:
        """The actions `[B, N]` to fit the value at, in place of the one-hots `[B, N]` that were taken."""
        return actions
