"""Critics that are linear in each factor: their slope at an action is a difference of values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gumbel_rl.actions import ActionFactors
from gumbel_rl.critics.base import Critic


class ActionLinear(Critic):
    """`Q(s, z) = <z, q(s)>`, one output of the network for each choice: with several factors a sum over them."""

    multilinear = True

    def _outputs(self) -> int:
        return self.factors.width

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
        layer_norm: LayerNorm after each hidden layer, before the activation.
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
        *,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(features_dim, factors, net_arch, activation, layer_norm=layer_norm)
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))

    def _outputs(self) -> int:
        return 1 + self.factors.width

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


class Interacting(Critic):
    """A state value, one head for each factor, and an interaction of factors that a subclass makes of further outputs.

    With one factor there is no interaction, and the value is that of `Additive`.
    """

    multilinear = True

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
        with torch.no_grad():
            # Interactions begin small: there are many pairs, and what they add up to would drown the heads.
            for parameter in self.net[-1].parameters():
                parameter[1 + factors.width :] *= 0.1

    def _outputs(self) -> int:
        return 1 + self.factors.width + self._interaction_outputs()

    @abstractmethod
    def _interaction_outputs(self) -> int:
        """How many outputs of the network the interaction is made of; 0 with one factor."""

    @abstractmethod
    def _interaction(self, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        """The interaction as a function of the action, for outputs `[B, _interaction_outputs()]`."""

    def at(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        sizes = [1, self.factors.width, self._interaction_outputs()]
        value, heads, outputs = self.net(features).split(sizes, -1)
        if not sizes[-1]:
            return lambda actions: value.squeeze(-1) + (actions * heads).sum(-1)
        interaction = self._interaction(outputs)
        return lambda actions: value.squeeze(-1) + (actions * heads).sum(-1) + interaction(actions)


class Multilinear(Interacting):
    """`Q(s, z) = V(s) + sum_d <z_d, a_d(s)> + sum_{c<d} <u_c, u_d>_±`, heads and the interactions of pairs of factors.

    `u_d = sum_k z_dk w_dk(s)` is the embedding, of `rank` numbers, of what factor `d` chose. In the product of two
    embeddings every other term counts negatively, without which no factor could work against itself in another. The
    sum over all pairs takes time linear in the number of factors: `((sum_d u_d)^2 - sum_d u_d^2) / 2`.

    Args:
        features_dim: `F`.
        factors: The action's factors. With one there are no interactions, and the value is that of `Additive`.
        net_arch: Widths of the hidden layers, shared by all outputs.
        activation: Between the layers.
        rank: Numbers of an embedding.
        layer_norm: LayerNorm after each hidden layer, before the activation.

    Raises:
        ValueError: `rank` is below 1.
    """

    half_signs: Tensor

    def __init__(
        self,
        features_dim: int,
        factors: ActionFactors,
        net_arch: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        rank: int = 8,
        *,
        layer_norm: bool = False,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.rank = rank if len(factors.sizes) > 1 else 0  # before the network, whose width depends on it
        super().__init__(features_dim, factors, net_arch, activation, layer_norm=layer_norm)
        self.register_buffer("half_signs", torch.tensor([0.5, -0.5]).repeat(rank)[: self.rank], persistent=False)

    def _interaction_outputs(self) -> int:
        return self.rank * self.factors.width

    def _interaction(self, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        embeddings = outputs.unflatten(-1, (self.rank, self.factors.width))
        # Sums over few entries are several times quicker as products with a vector.
        ones = outputs.new_ones(self.factors.max_size)

        def interaction(actions: Tensor) -> Tensor:
            chosen = self.factors.pad(actions.unsqueeze(-2) * embeddings, 0.0) @ ones  # u_d, [*, B, rank, D]
            return (chosen.sum(-1).square() - chosen.square().sum(-1)) @ self.half_signs

        return interaction


class Chain(Interacting):
    """`Q(s, z) = V(s) + sum_d <z_d, a_d(s)> + sum_d <z_d, T_d(s) z_{d+1}>`, heads and tables of neighbouring factors.

    A table `T_d` `[n_d, n_{d+1}]` says what any two choices of factors next to each other in the action space are worth
    together. Where only these interact nothing is lost, where the low rank of `Multilinear` would have to be some
    `D (K - 1)`; and the value is linear in the outputs, which are learnt the quicker for it. The network has `K^2`
    outputs for each pair.

    Args:
        features_dim: `F`.
        factors: The action's factors. With one there are no interactions, and the value is that of `Additive`.
        net_arch: Widths of the hidden layers, shared by all outputs.
        activation: Between the layers.
        layer_norm: LayerNorm after each hidden layer, before the activation.
    """

    def _interaction_outputs(self) -> int:
        # All tables are as large as the largest.
        return (len(self.factors.sizes) - 1) * self.factors.max_size**2

    def _interaction(self, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        def interaction(actions: Tensor) -> Tensor:
            blocks = self.factors.pad(actions, 0.0)
            # One product of long vectors is quicker than one with a small matrix for each pair.
            pairs = blocks[..., :-1, :, None] * blocks[..., 1:, None, :]  # [*, B, D-1, K, K]
            return (pairs.flatten(-3) * outputs).sum(-1)

        return interaction
