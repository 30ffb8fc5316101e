"""Rewards that are sums over neighbouring factors of an action, and the best action by dynamic programming.

Shapes: `C` contexts, `D >= 2` factors of `K` choices each, `n` sub-environments.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INTERACTION = 0.75
"""Share of the tables' variance in the interactions of neighbours; the rest is each factor's own."""


def draw_allowed(
    generator: np.random.Generator, contexts: int, factors: int, choices: int, masked: bool
) -> NDArray[np.bool_]:
    """Whether a choice is allowed, `[C, D, K]`: each with probability 2/3 and at least one of every factor if masked.

    In the first factor two consecutive choices are always allowed, one of them even and one odd.
    """
    shape = (contexts, factors, choices)
    if not masked:
        return np.ones(shape, dtype=np.bool_)
    # One of K is spared, so that a third of all takes a little more of the others.
    allowed = generator.random(shape) >= choices / (3 * (choices - 1))
    np.put_along_axis(allowed, generator.integers(choices, size=(contexts, factors, 1)), True, -1)
    even = generator.integers(choices - 1, size=(contexts, 1))
    np.put_along_axis(allowed[:, 0], np.concatenate([even, even + 1], -1), True, -1)
    return allowed


class Chain:
    """Rewards `r_c(a) = first_c(a_1) + sum_{d<D} pairs_{c,d}(a_d, a_{d+1})` with random tables.

    The tables are main effects of every factor plus interactions of neighbours: independent normals, less their means
    under independent and uniform allowed choices. So every main effect has mean 0, every interaction has mean 0 over
    either of its factors, the mean of `r_c` is 0, and `E[r_c | a_d]` is the main effect of factor `d`.

    Args:
        generator: Source of the tables.
        allowed: Whether a choice is allowed, `[C, D, K]`, at least one of every factor.

    Attributes:
        first: Main effects of the first factor, `[C, K]` float64.
        pairs: `[C, D-1, K, K]` float64: interactions, and the main effects of a pair's second factor. Entries of
            forbidden choices mean nothing, here and in `first`.
        head: The best reward given the first two choices, `[C, K, K]`; `-inf` if one of them is forbidden.
        uniform: Probabilities of uniform allowed choices, `[C, D, K]`.
    """

    def __init__(self, generator: np.random.Generator, allowed: NDArray[np.bool_]) -> None:
        self.contexts, self.factors, self.choices = allowed.shape
        self.uniform: NDArray[np.float64] = allowed / allowed.sum(-1, keepdims=True)
        own = np.sqrt(1 - INTERACTION) * generator.standard_normal(allowed.shape)
        own -= (own * self.uniform).sum(-1, keepdims=True)
        shape = (self.contexts, self.factors - 1, self.choices, self.choices)
        pairs = np.sqrt(INTERACTION) * generator.standard_normal(shape)
        pairs -= pairs @ self.uniform[:, 1:, :, None]
        pairs -= self.uniform[:, :-1, None, :] @ pairs
        self.first: NDArray[np.float64] = own[:, 0]
        self.pairs: NDArray[np.float64] = pairs + own[:, 1:, None, :]
        self._eliminate(np.where(allowed, 0.0, -np.inf))

    def _eliminate(self, barred: NDArray[np.float64]) -> None:
        """Maximise over all factors but the first two, from the last one backwards, in `O(C D K^2)`.

        With `m_D = 0` and `m_d(a) = max_b pairs_d(a, b) + m_{d+1}(b)`, the head is `first(a) + pairs_1(a, b) + m_2(b)`.
        `_follow[d]`, `[C, K]`, is the maximising `b`.
        """
        self._follow = np.zeros((self.factors - 1, self.contexts, self.choices), dtype=np.int64)
        rest = barred[:, -1]
        for d in range(self.factors - 2, 0, -1):
            value = self.pairs[:, d] + rest[:, None, :]
            self._follow[d] = value.argmax(-1)
            rest = value.max(-1) + barred[:, d]
        self.head: NDArray[np.float64] = (self.first + barred[:, 0])[:, :, None] + self.pairs[:, 0] + rest[:, None, :]

    def rescale(self, scale: NDArray[np.float64]) -> None:
        """Multiply the rewards of each context with a positive number, `[C]`."""
        self.first = self.first * scale[:, None]
        self.pairs = self.pairs * scale[:, None, None, None]
        self.head = self.head * scale[:, None, None]

    def rewards(self, context: NDArray[np.int64], action: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rewards `[n]` of allowed actions `[n, D]` in contexts `[n]`, in time and memory `O(n D)`."""
        links = np.arange(self.factors - 1)
        linked = self.pairs[context[:, None], links, action[:, :-1], action[:, 1:]]
        total: NDArray[np.float64] = self.first[context, action[:, 0]] + linked.sum(-1)
        return total

    def main_effects(self) -> NDArray[np.float64]:
        """`E[r_c(a) | a_d]` under uniform allowed choices, `[C, D, K]`; up to a constant the additive model's fit."""
        effects = np.zeros(self.uniform.shape)
        effects[:, 0] = self.first
        # A pair has mean 0 over its second factor.
        effects[:, 1:] = (self.uniform[:, :-1, None, :] @ self.pairs)[..., 0, :]
        return effects

    def complete(self, head: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions `[T, C, D]` with the first two choices as given and the best others.

        Args:
            head: The first two choices as positions in `K * K`, `[T, C]`.
        """
        actions = np.zeros((*head.shape, self.factors), dtype=np.int64)
        actions[..., 0], actions[..., 1] = np.divmod(head, self.choices)
        for d in range(1, self.factors - 1):
            actions[..., d + 1] = self._follow[d, np.arange(self.contexts), actions[..., d]]
        return actions
