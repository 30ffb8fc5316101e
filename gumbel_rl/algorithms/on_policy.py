"""What the on-policy algorithms share: collecting transitions, the temperature, logging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.algorithms.policies import POLICY_ALIASES, ActorCriticPolicy
from gumbel_rl.algorithms.rollouts import FloatArray, Rollout, stack
from gumbel_rl.schedules import Schedule, ScheduleLike, make_schedule


class ProgressSchedule:
    """A schedule as Stable-Baselines3 wants its learning rate: a function of the remaining progress, from 1 to 0."""

    def __init__(self, spec: ScheduleLike) -> None:
        self.schedule = make_schedule(spec).over(1.0)
        if self.schedule.lowest < 0:
            raise ValueError(f"a learning rate must not be negative, but {spec!r} reaches {self.schedule.lowest:g}")

    def __call__(self, progress_remaining: float) -> float:
        return self.schedule(1.0 - progress_remaining)


class DiscreteOnPolicyAlgorithm(OnPolicyAlgorithm):
    """Base class of the on-policy algorithms for Discrete, MultiDiscrete and MultiBinary actions.

    It differs from Stable-Baselines3's `OnPolicyAlgorithm` in what it stores: actions as integers with the behaviour policy's
    logits, and values computed once an iteration for all steps, not step by step.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    policy: ActorCriticPolicy  # type: ignore[assignment]
    rollout: Rollout

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        *,
        learning_rate: ScheduleLike,
        n_steps: int,
        gamma: float,
        gae_lambda: float,
        ent_coef: float,
        vf_coef: float,
        max_grad_norm: float,
        temperature: Schedule,
        diagnostics_interval: int,
        stats_window_size: int,
        tensorboard_log: str | None,
        policy_kwargs: dict[str, Any] | None,
        verbose: int,
        seed: int | None,
        device: torch.device | str,
        _init_setup_model: bool,
    ) -> None:
        self.temperature = temperature
        self.diagnostics_interval = diagnostics_interval
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,  # type: ignore[arg-type]
            learning_rate=ProgressSchedule(learning_rate),
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.factors = ActionFactors.from_space(self.action_space)
        self._iteration = 0
        self.rollout_buffer = None  # type: ignore[assignment]  # transitions live in self.rollout
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        # Bound at the first call only: a resumed run goes on along the schedule it began.
        self.temperature = self.temperature.over(total_timesteps)
        return total_timesteps, callback

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer | None, n_rollout_steps: int
    ) -> bool:
        """Act until `_rollout_complete` and keep the transitions in `self.rollout`.

        Returns:
            False if a callback ended training.
        """
        assert self._last_obs is not None
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        observations, indices, logits, rewards, dones = [], [], [], [], []
        truncations: list[tuple[int, int, Any]] = []
        finished = np.zeros(env.num_envs, dtype=np.bool_)

        while not self._rollout_complete(len(dones), finished, n_rollout_steps):
            with torch.no_grad():
                dist = self.policy.distribution(obs_as_tensor(self._last_obs, self.device))
                index = self.factors.indices(dist.sample())
            actions = self.factors.to_env(index).cpu().numpy().astype(self.factors.dtype)
            new_obs, reward, done, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, done)

            for i in np.flatnonzero(done):
                if infos[i].get("TimeLimit.truncated", False):
                    truncations.append((len(dones), int(i), infos[i]["terminal_observation"]))
            observations.append(self._last_obs)
            indices.append(index)
            logits.append(dist.logits)
            rewards.append(reward)
            dones.append(done)
            finished |= done
            self._last_obs = new_obs  # type: ignore[assignment]

        self.rollout = Rollout(
            observations=stack(observations, self.device),
            indices=torch.stack(indices),
            logits=torch.stack(logits),
            rewards=np.stack(rewards).astype(np.float32),
            dones=np.stack(dones).astype(np.bool_),
            last_observations=obs_as_tensor(self._last_obs, self.device),
            truncations=truncations,
        )
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _rollout_complete(self, n_steps: int, finished: NDArray[np.bool_], target: int) -> bool:
        """Whether to stop collecting, after `n_steps` steps in which the episodes of `finished` environments ended."""
        return n_steps >= target or self.num_timesteps >= self._total_timesteps

    @torch.no_grad()
    def _values(self, observations: Any) -> FloatArray:
        """State values `[B]` of observations `[B, ...]` as an array."""
        return self.policy.predict_values(observations).cpu().numpy()

    def _bootstrapped_rewards(self) -> FloatArray:
        """Rewards `[T, E]`, with the discounted value of the last observation where a time limit cut an episode short."""
        rewards = self.rollout.rewards.copy()
        if self.rollout.truncations:
            steps, envs, terminal = zip(*self.rollout.truncations, strict=True)
            values = self._values(stack(list(terminal), self.device))
            rewards[list(steps), list(envs)] += self.gamma * values
        return rewards

    def _begin_update(self) -> None:
        """Set the learning rate and the temperature of this iteration, from the environment steps made so far."""
        self._iteration += 1
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        temperature = self.temperature(self.num_timesteps)
        self.policy.temperature.fill_(temperature)
        self.logger.record("train/temperature", temperature)

    def _record_update(self, metrics: dict[str, Tensor]) -> None:
        """Log scalars as `train/<name>`, the entropy also as a share of its maximum; one transfer from the device."""
        for name, value in zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True):
            self.logger.record(f"train/{name}", value)
            if name == "entropy":
                self.logger.record("train/entropy_ratio", value / max(self.factors.max_entropy, 1e-12))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _record_fit(self, values: FloatArray, returns: FloatArray) -> None:
        """Log the share of the returns' variance that the values explained when the data were collected."""
        self.logger.record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))

    def _diagnostics_due(self) -> bool:
        """Whether this iteration makes the costlier measurements, the first one included."""
        return self.diagnostics_interval > 0 and (self._iteration - 1) % self.diagnostics_interval == 0

    def _record_action_probs(self, probs: Tensor) -> None:
        self.logger.record("dist/action_probs", probs.detach().flatten(), exclude=("stdout", "log", "json", "csv"))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rollout"]
