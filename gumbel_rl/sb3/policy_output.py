"""What passes between an actor and a critic of Stable-Baselines3: an action tensor, and with it the policy it is from.

Stable-Baselines3's off-policy algorithms take an action tensor from the actor, hand that very tensor to the critic and
differentiate the value. A tensor can carry a pathwise gradient, but not a score-function one, and not an expectation.
So the tensor carries the policy itself, as an attribute: the critic, which is ours too, finds it there and answers with
the estimator's surrogate for the expected value, whatever the estimator. Operations on the tensor lose the attribute,
and then its entries are what counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gumbel_rl.critics import Critic
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator, Exact, PathwiseEstimator

_ATTRIBUTE = "gumbel_rl_policy_output"


@dataclass(frozen=True)
class PolicyOutput:
    """The policy at a batch of observations, and how its expected value is to be estimated.

    Attributes:
        dist: The policy, logits `[B, N]`.
        estimator: Estimator of the expected value's gradient.
        noise: Standard Gumbel noise `[S, B, N]`, the same for all critics, so that they are compared on the same
            actions.
        ent_coef: Weight of the entropy that is added to the value where a gradient is asked for.
    """

    dist: FactoredCategorical
    estimator: Estimator
    noise: Tensor
    ent_coef: float = 0.0

    @classmethod
    def draw(cls, dist: FactoredCategorical, estimator: Estimator, ent_coef: float = 0.0) -> PolicyOutput:
        """An output with fresh noise."""
        return cls(dist, estimator, dist.noise((estimator.samples,)), ent_coef)

    def value(self, critic: Critic, features: Tensor) -> Tensor:
        """Expected value `[B]` under the critic, for features `[B, F]`.

        With gradients enabled, a surrogate with the estimator's gradient towards the policy; none flows to the
        features or to the critic, and an estimator that learns makes a step. Without, the best estimate of the value
        that costs no more than the estimator.
        """
        if torch.is_grad_enabled():
            with torch.no_grad():
                objective = critic.at(features)
            with _frozen(critic):
                surrogate = self.estimator(self.dist, objective, self.noise)
                self.estimator.adapt(self.dist, objective, self.noise)
            return surrogate + self.ent_coef * self.dist.entropy() if self.ent_coef else surrogate
        objective = critic.at(features)
        if critic.multilinear:
            return objective(self.dist.probs)
        if isinstance(self.estimator, Exact):
            return self.estimator(self.dist, objective)
        # Hard samples whatever the estimator: at the vertices the critic knows what it says.
        return objective(self.dist.sample(noise=self.noise)).mean(0)

    def tensor(self) -> Tensor:
        """The action tensor for Stable-Baselines3, `[B, N]` in -1..1, with this output attached.

        Its entries are the estimator's own action where that has a pathwise gradient, else a sample.
        """
        noise = self.noise[0]
        if isinstance(self.estimator, PathwiseEstimator):
            actions = self.estimator.relax(self.dist, noise)
        else:
            actions = self.dist.sample(noise=noise)
        scaled = 2.0 * actions - 1.0
        setattr(scaled, _ATTRIBUTE, self)
        return scaled


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """What is computed inside has no gradient towards the module's parameters, nor the cost of one."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def attached_output(actions: Tensor) -> PolicyOutput | None:
    """The policy that came with an action tensor, if one did."""
    return getattr(actions, _ATTRIBUTE, None)
