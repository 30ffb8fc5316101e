"""Agent `gumbel-sac`: an off-policy maximum-entropy actor-critic whose actor follows a gradient estimator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from agents.conversion import Count, Natural, Positive, Range, ScheduleSpec, Share
from agents.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gumbel_rl import GumbelSAC as GumbelSACAlgorithm


@dataclass(frozen=True, kw_only=True)
class GumbelSAC(Hyperparameters):
    """Soft actor-critic with a gradient estimator, off-policy; understands action masks."""

    agent: ClassVar[str] = "gumbel-sac"
    masks: ClassVar[bool] = True

    learning_rate: ScheduleSpec = 2e-3
    """Adam's learning rate, a schedule over the run."""
    buffer_size: Count = 100_000
    """Transitions the replay buffer holds."""
    learning_starts: Natural = 1000
    """Steps of random allowed actions before the first update."""
    random_actions: Literal["uniform", "central"] = "uniform"
    """How these are drawn: `uniform`, or `central`, the middle choices of each factor likeliest (for bins)."""
    batch_size: Count = 128
    """Transitions an update."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.02
    """How far the slow copies of the critics move towards them in an update."""
    gamma: Share = 0.99
    """Discount."""
    train_freq: Count = 4
    """Steps of each environment between updates."""
    gradient_steps: Annotated[int, Range(-1)] = -1
    """Updates at a time; -1 for as many as steps were taken, in all environments."""
    n_steps: Count = 1
    """Steps of a return before it is bootstrapped."""
    include_newest: bool = False
    """Begin every batch with the newest transition of each environment."""
    critic: str = "multilinear"
    """Kind of the critics, an id of `gumbel_rl.critics.CRITICS`."""
    critic_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its options, for example `{rank: 16}`."""
    n_critics: Count = 2
    """How many critics there are."""
    layer_norm: bool = False
    """LayerNorm after every hidden layer of actor and critics."""
    twins: Literal["min", "mean", "action-min"] = "min"
    """What the critics together say: the smallest expected value, their mean, or each action's smallest value."""
    estimator: str = "exact"
    """Gradient estimator of the actor, an id of `gumbel_rl.ESTIMATORS`."""
    estimator_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its options, for example `{samples: 4}`."""
    temperature: ScheduleSpec = 1.0
    """Temperature of the estimator, a schedule over environment steps."""
    ent_coef: float | str = "auto_0.1"
    """Weight of the entropy: a number, `auto` to learn it, or `auto_0.1` with 0.1 as its first value."""
    target_entropy_ratio: ScheduleSpec = 0.15
    """Entropy that a learnt weight aims at, as a share of the largest possible, a schedule over environment steps."""
    entropy_in_target: bool = True
    """Whether the critics value the entropy of later states too."""
    q_clip: Positive | None = None
    """How far a critic's value may move from its slow copy's before its loss stops rewarding it; null for no limit."""
    actor_delay: Count = 1
    """Updates of the critics for one of the actor."""
    max_grad_norm: Positive | None = None
    """Largest gradient norm, of the actor and of the critics each; null for no limit."""
    diagnostics_interval: Natural = 500
    """Updates of the actor between measurements of the gradient's bias and variance (`grad/*`); 0 for none."""

    @classmethod
    def algorithm(cls) -> type[GumbelSACAlgorithm]:
        from gumbel_rl import GumbelSAC as GumbelSACAlgorithm

        return GumbelSACAlgorithm

    def arguments(self, timesteps: int) -> dict[str, Any]:
        arguments = super().arguments(timesteps)
        # The algorithm leaves its networks to the policy.
        networks = {name: arguments.pop(name) for name in ("critic", "critic_kwargs", "n_critics", "layer_norm")}
        return {**arguments, "policy_kwargs": {**networks, **arguments["policy_kwargs"]}}
