"""Agent `reinforce`: the Monte-Carlo score-function baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from agents.conversion import Count, Natural, NonNegative, Positive, ScheduleSpec, Share
from agents.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gumbel_rl import Reinforce as ReinforceAlgorithm


@dataclass(frozen=True, kw_only=True)
class Reinforce(Hyperparameters):
    """Monte-Carlo score function; an update plays one episode in each environment."""

    agent: ClassVar[str] = "reinforce"
    masks: ClassVar[bool] = True

    learning_rate: ScheduleSpec = 5e-3
    """Adam's learning rate, a schedule over the run."""
    gamma: Share = 0.99
    """Discount."""
    baseline: Literal["value", "mean", "rloo", "none"] = "value"
    """Subtracted from the returns: a learnt value, their mean, the mean of the other episodes, or nothing."""
    normalize_advantage: bool = True
    """Divide advantages by the root of their mean square."""
    value_epochs: Natural = 5
    """Passes over the batch to fit the value."""
    value_batch_size: Count = 512
    """Transitions a minibatch of these passes."""
    estimator: str = "score-function"
    """Gradient estimator; the others need the objective at actions that were not executed."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy."""
    max_grad_norm: Positive = 0.5
    """Largest gradient norm, of the actor and of the critic each."""
    max_episode_steps: Count = 20_000
    """A longer episode is an error: Monte-Carlo returns need episodes that end."""
    diagnostics_interval: Natural = 1
    """Updates between histograms of the action probabilities; 0 for none."""

    @classmethod
    def algorithm(cls) -> type[ReinforceAlgorithm]:
        from gumbel_rl import Reinforce as ReinforceAlgorithm

        return ReinforceAlgorithm
