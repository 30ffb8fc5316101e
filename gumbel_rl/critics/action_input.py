"""Critics that take the action as an input of the network: able to represent any value, and their slope needs care."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gumbel_rl.actions import ActionFactors
from gumbel_rl.critics.base import Critic


class ActionInput(Critic):
    """Base class of the critics whose network has the action, or what is made of it, among its inputs."""

    def _inputs(self) -> int:
        return self.factors.width

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
        return F.linear(features, self._first_layer.weight[:, : self.features_dim], self._first_layer.bias)

    def _embed(self, actions: Tensor) -> Tensor:
        return F.linear(actions, self._first_layer.weight[:, self.features_dim :])

    def _rest(self, hidden: Tensor) -> Tensor:
        value: Tensor = self.net[1:](hidden).squeeze(-1)
        return value


class MLPCritic(ActionInput):
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
        layer_norm: LayerNorm after each hidden layer, before the activation.
    """

    multilinear = False

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        interpolated_learning: bool = False,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(features_dim, factors, net_arch, activation, layer_norm=layer_norm)
        self.interpolated_learning = interpolated_learning

    def regression_actions(self, actions: Tensor) -> Tensor:
        if not self.interpolated_learning:
            return actions
        # Normalised exponential variables are uniform on the simplex.
        blocks = self.factors.pad(torch.empty_like(actions).exponential_(), 0.0)
        uniform = self.factors.flatten(blocks / blocks.sum(-1, keepdim=True))
        return torch.lerp(actions, uniform, torch.rand_like(actions[..., :1]))


class InterpolatedMLP(ActionInput):
    """An MLP of the action at the one-hots, and a straight line from one-hot to one-hot between them.

    `Q(s, z) = MLP(s, v) + sum_d sum_k (z_dk - v_dk) MLP(s, [k, v_-d])` with `v` the vertex nearest to `z`: the value of
    every swap of a single factor's choice. Its slope at an action is therefore made of true values, factor by factor,
    whatever the others do. With one factor it is `sum_k z_k MLP(s, k)`, linear. It costs `N + 1` evaluations where a
    slope is asked for, in one batch, and one where none is.
    """

    @property
    def multilinear(self) -> bool:
        return len(self.factors.sizes) == 1

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        state = self._first(features)
        columns = self._first_layer.weight[:, self.features_dim :].t()  # [N, H]

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


class OrdinalMLP(ActionInput):
    """`Q(s, z) = MLP([features, x])` with `x_d = <z_d, support_d>`, for choices that are ordered: steps, levels, bins.

    `support_d` is evenly spaced from -1 for a factor's first choice to 1 for its last, and 0 for an only choice. The
    network sees one number for each factor, so that neighbouring choices share what is learnt of them, and between the
    one-hots it is a smooth function of the expected choice. Its slope at an action says which way along the order the
    value rises, and how fast just there: of differences to other choices it knows as much as the network is smooth. The
    integer reparameterisation of Fan and Wang (2021).

    There is no interpolated learning here: between two choices that are not neighbours lie others, at whose numbers the
    network would be fitted to a value that is not theirs.

    Args:
        features_dim: `F`.
        factors: The action's factors.
        net_arch: Widths of the hidden layers.
        activation: Between the layers.
        layer_norm: LayerNorm after each hidden layer, before the activation.
    """

    multilinear = False
    support: Tensor

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(features_dim, factors, net_arch, activation, layer_norm=layer_norm)
        blocks = [torch.linspace(-1.0, 1.0, n) if n > 1 else torch.zeros(1) for n in factors.sizes]
        self.register_buffer("support", torch.cat(blocks), persistent=False)  # [N]

    def _inputs(self) -> int:
        return len(self.factors.sizes)

    def _embed(self, actions: Tensor) -> Tensor:
        return super()._embed(self.factors.pad(actions * self.support, 0.0).sum(-1))
