"""What the on-policy algorithms share: collecting transitions, values, logging."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from gumbel_rl.algorithms.base import DiscreteAlgorithm
from gumbel_rl.algorithms.policies import POLICY_ALIASES, ActorCriticPolicy
from gumbel_rl.algorithms.rollouts import CHUNK, FloatArray, Rollout, split, stack

# The returns' mean and spread that scale the critic's value are moving averages over about 1 / RATE iterations. The
# floor keeps returns that hardly differ from being blown up.
VALUE_SCALE_RATE = 0.05
VALUE_SCALE_FLOOR = 1e-2

Self = TypeVar("Self", bound="DiscreteOnPolicyAlgorithm")


class DiscreteOnPolicyAlgorithm(DiscreteAlgorithm, OnPolicyAlgorithm):
    """Base class of the on-policy algorithms for Discrete, MultiDiscrete and MultiBinary actions.

    It differs from Stable-Baselines3's `OnPolicyAlgorithm` in what it stores: actions as integers with the behaviour
    policy's logits, and values computed once an iteration for all steps, not step by step.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    policy: ActorCriticPolicy  # type: ignore[assignment]  # Stable-Baselines3's is a class of its own of that name
    rollout: Rollout

    def _setup_model(self) -> None:
        super()._setup_model()
        self.rollout_buffer = None  # type: ignore[assignment]  # transitions live in self.rollout

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; as in Stable-Baselines3, with the class's name as the default name of the TensorBoard run."""
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer | None, n_rollout_steps: int
    ) -> bool:
        """Act until `_rollout_complete` and keep the transitions in `self.rollout`.

        Returns:
            False if a callback ended training.
        """
        obs = self._last_obs
        assert obs is not None
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        history: list[tuple[Any, Tensor, Tensor, NDArray[Any], NDArray[Any]]] = []
        truncations: list[tuple[int, int, Any]] = []
        finished = np.zeros(env.num_envs, dtype=np.bool_)

        while not self._rollout_complete(len(history), finished, n_rollout_steps):
            with torch.no_grad():
                dist = self.policy.distribution(obs_as_tensor(obs, self.device))
                indices = dist.sample_indices()
            actions = self.factors.to_env(indices).cpu().numpy().astype(self.factors.dtype)
            new_obs, rewards, dones, infos = env.step(actions)
            self._last_obs = new_obs  # type: ignore[assignment]  # before anything can end training
            self.num_timesteps += env.num_envs
            # Callbacks read this step by the names that Stable-Baselines3 gives it: rewards, dones, infos, ...
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._record_episodes(infos, dones, finished)

            for i in np.flatnonzero(dones):
                if infos[i].get("TimeLimit.truncated", False):
                    truncations.append((len(history), int(i), infos[i]["terminal_observation"]))
            history.append((obs, indices, dist.logits, rewards, dones))
            finished |= dones
            obs = new_obs  # type: ignore[assignment]

        observations, all_indices, all_logits, all_rewards, all_dones = zip(*history, strict=True)
        self.rollout = Rollout(
            observations=stack(list(observations), self.device),
            indices=torch.stack(all_indices),
            logits=torch.stack(all_logits),
            rewards=np.stack(all_rewards).astype(np.float32),
            dones=np.stack(all_dones).astype(np.bool_),
            last_observations=obs_as_tensor(obs, self.device),
            truncations=truncations,
        )
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _record_episodes(
        self, infos: list[dict[str, Any]], dones: NDArray[np.bool_], finished: NDArray[np.bool_]
    ) -> None:
        """Take a step's finished episodes into the statistics of `rollout/*`; `finished` as in `_rollout_complete`."""
        self._update_info_buffer(infos, dones)

    def _rollout_complete(self, n_steps: int, finished: NDArray[np.bool_], target: int) -> bool:
        """Whether to stop collecting, after `n_steps` steps in which the episodes of `finished` environments ended."""
        return n_steps >= target or self.num_timesteps >= self._total_timesteps

    @torch.no_grad()
    def _values(self, observations: Any) -> FloatArray:
        """State values `[B]` of observations `[B, ...]` as an array."""
        values = [self.policy.predict_values(part) for part in split(observations, CHUNK)]
        return torch.cat(values).cpu().numpy()

    def _bootstrapped_rewards(self) -> FloatArray:
        """Rewards `[T, E]`, with the discounted value of the last observation where a time limit ended an episode."""
        rewards = self.rollout.rewards.copy()
        if self.rollout.truncations:
            steps, envs, terminal = zip(*self.rollout.truncations, strict=True)
            values = self._values(stack(list(terminal), self.device))
            rewards[list(steps), list(envs)] += self.gamma * values
        return rewards

    def _begin_update(self) -> None:
        """Set the learning rate and the temperature of this iteration, from the environment steps made so far."""
        self._iteration += 1
        self._update_learning_rate(self.policy.optimizer)
        self._set_temperature()

    def _update_value_scale(self, returns: Tensor) -> None:
        """Let the units of the critic's value follow the mean and spread of the returns `[B]`."""
        critic = self.policy.critic
        mean, variance = returns.mean(), returns.var(correction=0)
        if self._n_updates > 0:
            # The average of the mean squares minus the square of the average, without the difference of large numbers.
            apart = VALUE_SCALE_RATE * (1 - VALUE_SCALE_RATE) * (mean - critic.value_mean) ** 2
            mean = critic.value_mean.lerp(mean, VALUE_SCALE_RATE)
            variance = critic.value_std.square().lerp(variance, VALUE_SCALE_RATE) + apart
        critic.set_value_scale(mean, variance.clamp_min(VALUE_SCALE_FLOOR**2).sqrt())

    def _value_loss(self, values: Tensor, returns: Tensor) -> Tensor:
        """Mean squared error of the values `[B]`, in the critic's units."""
        return F.mse_loss(values, returns) / self.policy.critic.value_std**2

    def _record_update(self, metrics: dict[str, Tensor], max_entropy: Tensor) -> None:
        """Log scalars as `train/<name>`, the entropy also as a share of the largest possible one."""
        metrics |= {"entropy_ratio": metrics["entropy"] / max_entropy.clamp_min(1e-12)}
        for name, value in zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True):
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _record_fit(self, values: FloatArray, returns: FloatArray) -> None:
        """Log the share of the returns' variance that the values explained when the data were collected."""
        self.logger.record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout"]
