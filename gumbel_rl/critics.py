"""Critics: value functions of a state and a discrete action, built so that their slope at an action is known.

A critic is a module on state features `[B, F]`. `critic.at(features)` runs the network once and returns the objective
`f(z)` of an estimator, which takes actions `[*, B, N]` with any leading sample dimensions to values `[*, B]`.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class Multilinear(Critic):
    """`Q(s, z) = V(s) + sum_d <z_d, a_d(s)> + sum_{c<d} <u_c, u_d>_±`, heads and the interactions of all pairs.

    `u_d = sum_k z_dk w_dk(s)` is the embedding, of `rank` numbers, of what factor `d` chose. In the product of two
    embeddings every other term counts negatively, without which no factor could work against itself in another. The
    sum over pairs takes time linear in the number of factors: `((sum_d u_d)^2 - sum_d u_d^2) / 2`.

    Args:
        features_dim: `F`.
        factors: The action's factors. With one there are no interactions, and the value is that of `Additive`.
        net_arch: Widths of the hidden layers, shared by all outputs.
        activation: Between the layers.
        rank: Numbers of an embedding.

    Raises:
        ValueError: `rank` is below 1.
    """

    multilinear = True
    signs: Tensor

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        rank: int = 8,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.factors = factors
        self.rank = rank if len(factors.sizes) > 1 else 0
        self.net = mlp([features_dim, *net_arch, 1 + (1 + self.rank) * factors.width], activation)
        self.register_buffer("signs", torch.tensor([1.0, -1.0]).repeat(rank)[: self.rank], persistent=False)
        with torch.no_grad():
            # Interactions begin small: there are many pairs, and what they add up to would drown the heads.
            for parameter in self.net[-1].parameters():
                parameter[1 + factors.width :] *= 0.1

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        width = self.factors.width
        value, heads, embeddings = self.net(features).split([1, width, self.rank * width], -1)
        embeddings = embeddings.unflatten(-1, (self.rank, width)) if self.rank else None

        def q(actions: Tensor) -> Tensor:
            result: Tensor = value.squeeze(-1) + (actions * heads).sum(-1)
            if embeddings is None:
                return result
            chosen = self.factors.pad(actions.unsqueeze(-2) * embeddings, 0.0).sum(-1)  # u_d, [*, B, rank, D]
            pairs = (chosen.sum(-1).square() - chosen.square().sum(-1)) / 2
            return result + (pairs * self.signs).sum(-1)

        return q


class MLPCritic(Critic):
    """`Q(s, z) = MLP([features, z])`, the action as an input.

    Able to represent any value at the one-hots, but data at the one-hots leave its slope between them arbitrary: a
    pathwise estimator through it may follow a gradient that means nothing. With `interpolated_learning` it is fitted
    to the same targets at points between the action taken and a random one, `(1 - w) z + w u` with `w` uniform in
    `[0, 1]` and `u` uniform on the simplex of each factor (He et al. 2025, section 4).

    Args:
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
        interpolated_learning: Fit the value between the one-hots too.
    """

    multilinear = False

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        interpolated_learning: bool = False,
    ) -> None:
        super().__init__()
        self.factors = factors
        self.interpolated_learning = interpolated_learning
        self.net = mlp([features_dim + factors.width, *net_arch, 1], activation)

    def regression_actions(self, actions: Tensor) -> Tensor:
        if not self.interpolated_learning:
            return actions
        # Normalised exponential variables are uniform on the simplex.
        blocks = self.factors.pad(torch.empty_like(actions).exponential_(), 0.0)
        uniform = self.factors.flatten(blocks / blocks.sum(-1, keepdim=True))
        return torch.lerp(actions, uniform, torch.rand_like(actions[..., :1]))

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        state = self._first(features)
        return lambda actions: self._rest(state + self._embed(actions))

    # The first layer is linear: what it makes of the features is computed once for all actions.

    @property
    def _first_layer(self) -> nn.Linear:
        layer = self.net[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def _first(self, features: Tensor) -> Tensor:
        return F.linear(features, self._first_layer.weight[:, : features.shape[-1]], self._first_layer.bias)

    def _embed(self, actions: Tensor) -> Tensor:
        return F.linear(actions, self._first_layer.weight[:, -self.factors.width :])

    def _rest(self, hidden: Tensor) -> Tensor:
        value: Tensor = self.net[1:](hidden).squeeze(-1)
        return value


class InterpolatedMLP(MLPCritic):
    """An MLP of the action at the one-hots, and a straight line from one-hot to one-hot between them.

    `Q(s, z) = MLP(s, v) + sum_d sum_k (z_dk - v_dk) MLP(s, [k, v_-d])` with `v` the vertex nearest to `z`: the value of
    every swap of a single factor's choice. Its slope at an action is therefore made of true values, factor by factor,
    whatever the others do. With one factor it is `sum_k z_k MLP(s, k)`, linear. It costs `N + 1` evaluations where a
    slope is asked for, in one batch, and one where none is.

    Args:
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
    """

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__(features_dim, factors, net_arch, activation)
        self.multilinear = len(factors.sizes) == 1

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        state = self._first(features)
        columns = self._first_layer.weight[:, -self.factors.width :].t()  # [N, H]

        def q(actions: Tensor) -> Tensor:
            indices = self.factors.indices(actions.detach())
            vertex = self.factors.one_hot(indices, actions.dtype)
            hidden = state + self._embed(vertex)
            value = self._rest(hidden)
            if not actions.requires_grad and torch.equal(vertex, actions):
                return value
            chosen = columns[self.factors.positions(indices)]  # [*, B, D, H]
            swaps = hidden.unsqueeze(-2) - self.factors.repeat(chosen) + columns  # [*, B, N, H]
            return value + ((actions - vertex) * self._rest(swaps)).sum(-1)

        return q


CRITICS: dict[str, type[Critic]] = {
    "action-linear": ActionLinear,
    "additive": Additive,
    "multilinear": Multilinear,
    "interpolated": InterpolatedMLP,
    "mlp": MLPCritic,
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
        **options: Further arguments of the critic's class, for example `rank=8`.

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
        takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
        raise TypeError(f"critic {critic_id!r} has no option {unknown[0]!r}; {takes}")
    return cls(features_dim, factors, net_arch, activation, **options)
