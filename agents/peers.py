"""The peers: Stable-Baselines3's own PPO, A2C and DQN, and sb3-contrib's QR-DQN and PPO with action masks.

The defaults of the classes are those of these libraries; `configs/` has the tuned settings of the rl-zoo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from agents.conversion import Count, Natural, NonNegative, Positive, ScheduleSpec, Share
from agents.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from gymnasium import spaces
    from sb3_contrib import QRDQN as QRDQNAlgorithm
    from sb3_contrib import MaskablePPO as MaskablePPOAlgorithm
    from stable_baselines3 import A2C as A2CAlgorithm
    from stable_baselines3 import DQN as DQNAlgorithm
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


@dataclass(frozen=True, kw_only=True)
class Peer(Hyperparameters):
    """Base class of the peers, whose schedules are functions of the remaining progress."""

    proviso: ClassVar[str] = ", their choices counted from 0"
    schedules: ClassVar[tuple[str, ...]] = ("learning_rate",)

    def supports(self, space: spaces.Space[Any]) -> bool:
        import numpy as np

        return super().supports(space) and not np.any(getattr(space, "start", 0))

    def arguments(self, timesteps: int) -> dict[str, Any]:
        from gumbel_rl.algorithms.base import ProgressSchedule

        arguments = super().arguments(timesteps)
        for name in self.schedules:
            arguments[name] = ProgressSchedule(arguments[name])
            arguments[name].total_steps = timesteps
        return arguments


@dataclass(frozen=True, kw_only=True)
class PPO(Peer):
    """Stable-Baselines3's proximal policy optimisation."""

    agent: ClassVar[str] = "ppo"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")
    schedules: ClassVar[tuple[str, ...]] = ("learning_rate", "clip_range")

    learning_rate: ScheduleSpec = 3e-4
    """Adam's learning rate, a schedule over the run."""
    n_steps: Count = 2048
    """Steps of each environment between updates."""
    batch_size: Count = 64
    """Transitions a minibatch."""
    n_epochs: Count = 10
    """Passes over the transitions an update."""
    gamma: Share = 0.99
    """Discount."""
    gae_lambda: Share = 0.95
    """Generalised advantage estimation: 0 trusts the value, 1 the returns."""
    clip_range: ScheduleSpec = 0.2
    """How far the probability ratio may move from 1, a schedule over the run."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy."""
    vf_coef: NonNegative = 0.5
    """Weight of the value's loss."""
    max_grad_norm: Positive = 0.5
    """Largest gradient norm."""
    normalize_advantage: bool = True
    """Standardise advantages within a minibatch."""
    target_kl: Positive | None = None
    """Ends an update early when the policy has moved this far; null for never."""

    @classmethod
    def algorithm(cls) -> type[OnPolicyAlgorithm]:
        from stable_baselines3 import PPO as PPOAlgorithm

        return PPOAlgorithm


@dataclass(frozen=True, kw_only=True)
class MaskablePPO(PPO):
    """sb3-contrib's PPO with action masks, for environments with a method `action_masks()`."""

    agent: ClassVar[str] = "maskable-ppo"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary")

    @classmethod
    def algorithm(cls) -> type[MaskablePPOAlgorithm]:
        from sb3_contrib import MaskablePPO as MaskablePPOAlgorithm

        return MaskablePPOAlgorithm

    def objection(self, env: VecEnv, name: str | None = None) -> str | None:
        from sb3_contrib.common.maskable.utils import is_masking_supported

        other = super().objection(env, name)
        if other is not None or is_masking_supported(env):
            return other
        return f"{self.agent} needs masks, and {name or 'the environment'} has no method action_masks(): take ppo"


@dataclass(frozen=True, kw_only=True)
class A2C(Peer):
    """Stable-Baselines3's advantage actor-critic."""

    agent: ClassVar[str] = "a2c"
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")

    learning_rate: ScheduleSpec = 7e-4
    """RMSprop's learning rate, a schedule over the run."""
    n_steps: Count = 5
    """Steps of each environment between updates."""
    gamma: Share = 0.99
    """Discount."""
    gae_lambda: Share = 1.0
    """Generalised advantage estimation: 0 trusts the value, 1 the returns."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy."""
    vf_coef: NonNegative = 0.5
    """Weight of the value's loss."""
    max_grad_norm: Positive = 0.5
    """Largest gradient norm."""
    normalize_advantage: bool = False
    """Standardise advantages."""

    @classmethod
    def algorithm(cls) -> type[A2CAlgorithm]:
        from stable_baselines3 import A2C as A2CAlgorithm

        return A2CAlgorithm


@dataclass(frozen=True, kw_only=True)
class DeepQ(Peer):
    """Base class of the peers that learn action values from a replay buffer."""

    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete",)

    buffer_size: Count = 1_000_000
    """Transitions the replay buffer holds."""
    learning_starts: Natural = 100
    """Steps before the first update."""
    batch_size: Count = 32
    """Transitions an update."""
    tau: Share = 1.0
    """How far the target network moves towards the online network."""
    gamma: Share = 0.99
    """Discount."""
    train_freq: Count = 4
    """Steps of each environment between updates."""
    gradient_steps: int = 1
    """Updates at a time; -1 for as many as steps were taken."""
    target_update_interval: Count = 10_000
    """Steps between updates of the target network."""
    exploration_initial_eps: Share = 1.0
    """Share of random actions at first."""


@dataclass(frozen=True, kw_only=True)
class DQN(DeepQ):
    """Stable-Baselines3's deep Q-network."""

    agent: ClassVar[str] = "dqn"

    learning_rate: ScheduleSpec = 1e-4
    """Adam's learning rate, a schedule over the run."""
    exploration_fraction: Share = 0.1
    """Share of the run over which exploration falls."""
    exploration_final_eps: Share = 0.05
    """Share of random actions at last."""
    max_grad_norm: Positive = 10.0
    """Largest gradient norm."""

    @classmethod
    def algorithm(cls) -> type[DQNAlgorithm]:
        from stable_baselines3 import DQN as DQNAlgorithm

        return DQNAlgorithm


@dataclass(frozen=True, kw_only=True)
class QRDQN(DeepQ):
    """sb3-contrib's quantile-regression deep Q-network."""

    agent: ClassVar[str] = "qrdqn"

    learning_rate: ScheduleSpec = 5e-5
    """Adam's learning rate, a schedule over the run."""
    exploration_fraction: Share = 0.005
    """Share of the run over which exploration falls."""
    exploration_final_eps: Share = 0.01
    """Share of random actions at last."""
    max_grad_norm: Positive | None = None
    """Largest gradient norm; null for no limit."""
    n_quantiles: Count | None = None
    """Quantiles of the return's distribution; null for the policy's own, 200."""

    @classmethod
    def algorithm(cls) -> type[QRDQNAlgorithm]:
        from sb3_contrib import QRDQN as QRDQNAlgorithm

        return QRDQNAlgorithm

    def arguments(self, timesteps: int) -> dict[str, Any]:
        arguments = super().arguments(timesteps)
        n_quantiles = arguments.pop("n_quantiles")
        if n_quantiles is not None:
            arguments["policy_kwargs"]["n_quantiles"] = n_quantiles
        return arguments
