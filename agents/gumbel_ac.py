"""Agent `gumbel-ac`: an on-policy actor-critic whose actor follows a gradient estimator through an advantage critic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from agents.conversion import Count, Natural, NonNegative, Positive, ScheduleSpec, Share
from agents.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gumbel_rl import GumbelActorCritic


@dataclass(frozen=True, kw_only=True)
class GumbelAC(Hyperparameters):
    """Straight-through Gumbel actor-critic, on-policy (the default); understands action masks."""

    agent: ClassVar[str] = "gumbel-ac"
    masks: ClassVar[bool] = True

    learning_rate: ScheduleSpec = "linear:5e-3:0"
    """Adam's learning rate, a schedule over the run."""
    n_steps: Count = 32
    """Steps of each environment between updates."""
    batch_size: Count = 128
    """Steps of a minibatch, at most."""
    n_epochs: Count = 4
    """Passes over the transitions an update."""
    gamma: Share = 0.99
    """Discount."""
    gae_lambda: Share = 0.98
    """Generalised advantage estimation: 0 trusts the value, 1 the returns."""
    estimator: str = "st-gumbel-softmax"
    """Gradient estimator of the actor, an id of `gumbel_rl.ESTIMATORS`."""
    estimator_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its options, for example `{samples: 4}`."""
    temperature: ScheduleSpec = 1.0
    """Temperature of the estimator, a schedule over environment steps."""
    kl_coef: NonNegative = 3.0
    """Weight of the divergence from the policy that acted, in normalised advantages per nat."""
    ent_coef: NonNegative = 0.01
    """Weight of the entropy, in normalised advantages per nat."""
    vf_coef: NonNegative = 0.5
    """Weight of the value loss beside the advantage loss."""
    max_grad_norm: Positive = 0.5
    """Largest gradient norm, of the actor and of the critic each."""
    diagnostics_interval: Natural = 10
    """Iterations between measurements of the gradient's bias and variance (`grad/*`); 0 for none."""

    @classmethod
    def algorithm(cls) -> type[GumbelActorCritic]:
        from gumbel_rl import GumbelActorCritic

        return GumbelActorCritic
