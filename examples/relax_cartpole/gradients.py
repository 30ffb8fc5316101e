"""Two estimates of a policy gradient from one episode: RELAX, and the score function with a value baseline.

Shapes: `T` steps of an episode, `F` features of an observation, `K` actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gumbel_rl.critics import mlp
from gumbel_rl.gumbel import log_softmax, posterior_gumbel, softmax

HIDDEN = (10, 10)


@dataclass(frozen=True)
class Settings:
    """What is tuned, the same for both gradients.

    Attributes:
        learning_rate: Of the policy.
        critic_learning_rate: Of the control variate, or of the value.
        critic_scale: What the output of that network is multiplied by: returns are large numbers, and a network that
            has to grow to them takes many episodes.
    """

    learning_rate: float
    critic_learning_rate: float
    critic_scale: float


class Episode(NamedTuple):
    """What one episode leaves for the update.

    Attributes:
        observations: `[T, F]`.
        actions: One-hot `[T, K]`, `onehot(argmax(log pi + noise))`.
        noise: The standard Gumbel noise `[T, K]` that the actions were drawn with.
        returns: Discounted sums of the rewards from each step on, `[T]`.
    """

    observations: Tensor
    actions: Tensor
    noise: Tensor
    returns: Tensor


Gradient = tuple[Tensor, ...]


class GradientEstimator(Protocol):
    """A way to estimate the gradient of the expected return with respect to a policy's parameters."""

    def gradient(self, policy: nn.Module, episode: Episode) -> Gradient:
        """The estimate, a tensor for each parameter: the direction in which the return grows."""

    def learn(self, episode: Episode, gradient: Gradient) -> None:
        """One step of the estimator's own network; before the policy changes, on what `gradient` returned."""


class Relax:
    """RELAX (Grathwohl et al. 2018, section 3.3): a relaxed, learnt control variate that knows state and action.

    With `z = log pi + g` the perturbed log-probabilities, `a = onehot(argmax z)` the action taken, `z~` an independent
    draw of `z` given `a`, and `c(s, z)` a network on the state and `softmax(z / temperature)`, the gradient is

    `sum_t (R_t - c(s_t, z~_t)) d log pi(a_t|s_t) + d c(s_t, z_t) - d c(s_t, z~_t)`,

    `z` and `z~` being differentiated at fixed noise. Network and temperature descend the squared norm of that gradient,
    the variance of a single sample plus what they cannot change. In the paper's own experiment `z~` came from "a
    slightly biased sampler"; here it has the exact conditional law, so that the gradient is unbiased whatever `c` is.

    Args:
        features: `F`.
        choices: `K`.
        settings: Learning rate and scale of the network.
        hidden: Widths of its hidden layers.
    """

    def __init__(self, features: int, choices: int, settings: Settings, hidden: Sequence[int] = HIDDEN) -> None:
        self.net = mlp([features + choices, *hidden, 1], nn.ReLU)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.scale = settings.critic_scale
        self.parameters = [*self.net.parameters(), self.log_temperature]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.critic_learning_rate)

    def control_variate(self, observations: Tensor, z: Tensor) -> Tensor:
        """`c`: observations `[T, F]` and perturbed log-probabilities `[T, K]` to values `[T]`."""
        relaxed = softmax(z / self.log_temperature.exp())
        says: Tensor = self.net(torch.cat([observations, relaxed], -1)).squeeze(-1)
        return self.scale * says

    def gradient(self, policy: nn.Module, episode: Episode) -> Gradient:
        log_pi = log_softmax(policy(episode.observations))
        log_pi_a = (log_pi * episode.actions).sum(-1)
        c = self.control_variate(episode.observations, log_pi + episode.noise)
        # The noise of z~ depends on log_pi: it is differentiated at fixed random numbers, not at fixed values.
        z_tilde = log_pi + posterior_gumbel(log_pi, episode.actions)
        c_tilde = self.control_variate(episode.observations, z_tilde)
        # As weights, R - c~ stands outside the derivative with respect to the policy, but inside the graph that leads
        # to the control variate's own parameters.
        one = torch.ones_like(c)
        return torch.autograd.grad(
            [log_pi_a, c, c_tilde],
            list(policy.parameters()),
            [episode.returns - c_tilde, one, -one],
            create_graph=True,
        )

    def learn(self, episode: Episode, gradient: Gradient) -> None:
        slopes = torch.autograd.grad(squared_norm(gradient), self.parameters)
        for parameter, slope in zip(self.parameters, slopes, strict=True):
            parameter.grad = slope
        self.optimizer.step()


class ScoreFunction:
    """The score function with a learnt state value as its baseline: `sum_t (R_t - V(s_t)) d log pi(a_t|s_t)`.

    The value descends its squared error over the episode, a step an episode. Without bootstrapping this is what the
    RELAX paper calls A2C.

    Args:
        features: `F`.
        choices: `K`; not used, because the value does not know the action.
        settings: Learning rate and scale of the network.
        hidden: Widths of its hidden layers.
    """

    def __init__(self, features: int, choices: int, settings: Settings, hidden: Sequence[int] = HIDDEN) -> None:
        self.net = mlp([features, *hidden, 1], nn.ReLU)
        self.scale = settings.critic_scale
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.critic_learning_rate)

    def value(self, observations: Tensor) -> Tensor:
        """`V`: observations `[T, F]` to values `[T]`."""
        says: Tensor = self.net(observations).squeeze(-1)
        return self.scale * says

    def gradient(self, policy: nn.Module, episode: Episode) -> Gradient:
        log_pi_a = (log_softmax(policy(episode.observations)) * episode.actions).sum(-1)
        advantage = episode.returns - self.value(episode.observations).detach()
        return torch.autograd.grad(log_pi_a, list(policy.parameters()), advantage)

    def learn(self, episode: Episode, gradient: Gradient) -> None:
        error = (episode.returns - self.value(episode.observations)).square().sum()
        self.optimizer.zero_grad()
        error.backward()
        self.optimizer.step()


def squared_norm(gradient: Gradient) -> Tensor:
    """Sum of the squares of all entries, a scalar."""
    return torch.stack([part.square().sum() for part in gradient]).sum()


ESTIMATORS: dict[str, type[Relax] | type[ScoreFunction]] = {"relax": Relax, "score-function": ScoreFunction}


def discounted_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """`R_t = sum_k gamma^k r_(t+k)` for every step of an episode."""
    returns = []
    running = 0.0
    for reward in reversed(rewards):
        running = reward + gamma * running
        returns.append(running)
    return returns[::-1]
