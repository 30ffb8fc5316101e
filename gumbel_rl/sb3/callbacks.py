"""Callbacks for the off-policy plug-in policies: temperature, target entropy, and how good the gradient is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from gumbel_rl.diagnostics import diagnose, logits_gradient, zero_gradient_share
from gumbel_rl.estimators import Estimator, Exact
from gumbel_rl.sb3.off_policy import GumbelOffPolicyMixin
from gumbel_rl.sb3.sac import GumbelSACPolicy
from gumbel_rl.schedules import ScheduleLike, make_target_entropy, make_temperature

MAX_VERTICES = 4096
"""Most joint actions to enumerate for an exact gradient."""


class TemperatureCallback(BaseCallback):
    """Anneals the temperature of a plug-in policy, and logs it as `train/temperature`.

    Args:
        temperature: Schedule over environment steps, such as `"exponential:1:0.3"`; without a length of its own it
            spans the whole run. If omitted the policy keeps the schedule it was made with, and is only logged.
        verbose: As in Stable-Baselines3.

    Raises:
        TypeError: The algorithm's policy has no temperature (when training starts).
        ValueError: The schedule is not understood, or reaches 0.
    """

    def __init__(self, temperature: ScheduleLike | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.schedule = None if temperature is None else make_temperature(temperature)

    def _on_training_start(self) -> None:
        policy = _plug_in_policy(self)
        if self.schedule is not None:
            policy.anneal(self.schedule.over(self.model._total_timesteps), self.model.num_timesteps)

    def _on_step(self) -> bool:
        self.logger.record("train/temperature", float(_plug_in_policy(self).temperature))
        return True


class TargetEntropyCallback(BaseCallback):
    """Anneals the target entropy of SAC with a `GumbelSACPolicy`, and logs it as `train/target_entropy_ratio`.

    Much entropy at first keeps several factors of an action from settling, one by one, on choices that suit each other
    and are not the best (Xu et al. 2021, https://arxiv.org/abs/2112.02852, anneal it for other reasons).

    Args:
        ratio: Schedule over environment steps, such as `"linear:0.7:0.05"`, of the target entropy as a share of the
            maximum; without a length of its own it spans the whole run.
        verbose: As in Stable-Baselines3.

    Raises:
        TypeError: The policy is not a `GumbelSACPolicy` (when training starts).
        ValueError: The schedule is not understood or leaves 0..1, or the entropy coefficient is fixed (when training
            starts).
    """

    def __init__(self, ratio: ScheduleLike, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.schedule = make_target_entropy(ratio)

    def _on_training_start(self) -> None:
        policy = self.model.policy
        if not isinstance(policy, GumbelSACPolicy):
            raise TypeError(f"{type(self).__name__} is for SAC with a GumbelSACPolicy, got a {type(policy).__name__}")
        algorithm: Any = self.model
        if algorithm.log_ent_coef is None:
            raise ValueError(
                f"ent_coef={algorithm.ent_coef} is fixed and follows no target entropy; give ent_coef='auto_0.1'"
            )
        self._span = self.schedule.over(algorithm._total_timesteps)
        self._set()

    def _on_step(self) -> bool:
        self._set()
        return True

    def _set(self) -> None:
        algorithm: Any = self.model
        ratio = self._span(self.num_timesteps)
        algorithm.target_entropy = ratio * algorithm.policy.factors.max_entropy
        algorithm.policy.actor.target_entropy_ratio = ratio
        self.logger.record("train/target_entropy_ratio", ratio)


class GradientDiagnosticsCallback(BaseCallback):
    """Measures the policy gradient on batches from the replay buffer, and logs what it finds.

    `grad/bias`, `grad/variance` and `grad/cosine` compare the policy's estimator with the exact gradient through the
    first critic (`gumbel_rl.diagnostics`); they are left out where the exact gradient cannot be had, because the critic
    is not linear in the factors and there are more than 4096 joint actions. `train/zero_grad_frac` is the share of
    states without any gradient, `train/entropy` the entropy in nats, `train/entropy_ratio` its share of the maximum,
    and `dist/action_probs` a histogram. Training is not changed: the random numbers are the callback's own.

    Args:
        every: Environment steps between measurements.
        batch_size: States of a measurement.
        repeats: Estimates for each state; at least 2.
        verbose: As in Stable-Baselines3.

    Raises:
        TypeError: The algorithm's policy follows no estimator (when training starts).
        ValueError: A number is too small.
    """

    def __init__(self, every: int = 1000, batch_size: int = 256, repeats: int = 32, verbose: int = 0) -> None:
        super().__init__(verbose)
        if every < 1 or batch_size < 1 or repeats < 2:
            raise ValueError(
                f"every and batch_size must be 1 or more and repeats 2, got {every}, {batch_size}, {repeats}"
            )
        self.every, self.batch_size, self.repeats = every, batch_size, repeats
        self._last = 0

    def _on_training_start(self) -> None:
        _plug_in_policy(self)
        self._last = self.num_timesteps

    def _on_step(self) -> bool:
        algorithm = self.model
        assert isinstance(algorithm, OffPolicyAlgorithm)
        learning = self.num_timesteps > max(algorithm.learning_starts, 1)
        if learning and self.num_timesteps - self._last >= self.every:
            self._last = self.num_timesteps
            buffer: Any = algorithm.replay_buffer
            # What a replay buffer draws with: NumPy's global generator, or one of its own.
            state = np.random.get_state()  # noqa: NPY002
            rng = copy.deepcopy(getattr(buffer, "rng", None))
            with torch.random.fork_rng([algorithm.device] if algorithm.device.type == "cuda" else []):
                self._measure(algorithm)
            np.random.set_state(state)  # noqa: NPY002
            if rng is not None:
                buffer.rng = rng
        return True

    def _measure(self, algorithm: OffPolicyAlgorithm) -> None:
        policy: Any = _plug_in_policy(self)
        assert algorithm.replay_buffer is not None
        observations = algorithm.replay_buffer.sample(
            self.batch_size, env=algorithm.get_vec_normalize_env()
        ).observations
        with torch.no_grad():
            dist = policy.actor.distribution(observations)
            critic = policy.critic.critics[0]
            objective = critic.at(policy.critic.extract_features(observations, policy.critic.features_extractor))
        record = self.logger.record
        entropy = float(dist.entropy().mean())
        record("train/entropy", entropy)
        largest = float(dist.max_entropy.mean())  # of the allowed choices
        if largest:
            record("train/entropy_ratio", entropy / largest)
        record("dist/action_probs", dist.probs.flatten(), exclude=("stdout", "log", "json", "csv"))
        oracle: Estimator | None = None
        if critic.multilinear:
            oracle = Exact(multilinear=True)
        elif policy.factors.joint_size <= MAX_VERTICES:
            oracle = Exact(max_vertices=MAX_VERTICES)
        if oracle is None:
            gradient = logits_gradient(policy.estimator, dist, objective, self.repeats)
            record("train/zero_grad_frac", float(zero_gradient_share(gradient)))
            return
        quality = diagnose(policy.estimator, dist, objective, exact=oracle, repeats=self.repeats)
        for tag, number in quality.logged.items():
            record(tag, number)


def _plug_in_policy(callback: BaseCallback) -> GumbelOffPolicyMixin:
    policy = callback.model.policy
    if not isinstance(policy, GumbelOffPolicyMixin):
        raise TypeError(
            f"{type(callback).__name__} is for SAC, TD3 or DDPG with a GumbelSACPolicy or GumbelTD3Policy, got "
            f"{type(callback.model).__name__} with a {type(policy).__name__}, which follows no gradient estimator and "
            "has no temperature"
        )
    return policy
