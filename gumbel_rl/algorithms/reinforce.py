"""Reinforce: the Monte-Carlo score-function baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv
from torch.nn.utils import clip_grad_norm_

from gumbel_rl.algorithms.base import require_at_least_one
from gumbel_rl.algorithms.on_policy import DiscreteOnPolicyAlgorithm
from gumbel_rl.algorithms.policies import ActorCriticPolicy
from gumbel_rl.algorithms.rollouts import CHUNK, FloatArray, minibatches, select
from gumbel_rl.estimators import ESTIMATORS, make_estimator
from gumbel_rl.schedules import Constant, ScheduleLike

BASELINES = ("value", "mean", "rloo", "none")


class Reinforce(DiscreteOnPolicyAlgorithm):
    """REINFORCE (Williams 1992): the policy follows the Monte-Carlo returns of whole episodes, one update a batch.

    Every update plays exactly one episode in each environment with the current policy and ascends
    `mean_t (G_t - b_t) d log pi(a_t | s_t)`, `G_t` being the discounted return from step `t`. What environments that
    finish early play until the last one has finished is not used, though its steps count: it would favour short
    episodes.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a class.
        env: Environment, vectorised environment or id. As many episodes an update as it has environments.
        learning_rate: Number, or a schedule over the run such as `"linear:1e-2:0"`.
        gamma: Discount.
        baseline: `"value"`, a learnt state value (which also stands in for the rest of an episode cut short by a time
            limit); `"mean"`, the mean return from a step over the batch; `"rloo"`, the mean return from the same step
            of the *other* episodes; `"none"`.
        normalize_advantage: Divide advantages by the root of their mean square over the batch (which does not centre
            them: that would be a baseline).
        value_epochs: Passes over the batch to fit the value.
        value_batch_size: Minibatch size of these passes.
        estimator: `"score-function"`; the others need the objective at actions that the environment did not execute.
        ent_coef: Weight of the entropy, in units of the (normalised) return per nat.
        max_grad_norm: Largest gradient norm, of the actor and of the critic each.
        max_episode_steps: An episode longer than this is an error: Monte-Carlo returns need episodes that end.
        diagnostics_interval: Log the histogram of action probabilities every so many updates; 0 never.
        stats_window_size: Episodes averaged in `rollout/*`.
        tensorboard_log: Directory for TensorBoard.
        policy_kwargs: Arguments of the policy.
        verbose: 0 silent, 1 information.
        seed: Seed of all random numbers.
        device: Torch device.

    Raises:
        TypeError: The action space is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: An unknown baseline, an estimator that cannot serve, `rloo` with a single environment, or a number
            of steps or episodes below 1.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        *,
        learning_rate: ScheduleLike = 5e-3,
        gamma: float = 0.99,
        baseline: str = "value",
        normalize_advantage: bool = True,
        value_epochs: int = 5,
        value_batch_size: int = 512,
        estimator: str = "score-function",
        ent_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        max_episode_steps: int = 20_000,
        diagnostics_interval: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        make_estimator(estimator)  # an unknown id is refused here, with its nearest match
        if ESTIMATORS[estimator].needs_objective:
            raise ValueError(
                f"Reinforce cannot use estimator {estimator!r}: it needs the objective at actions that the environment "
                "did not execute, and Monte-Carlo returns are known for the executed action alone; use 'score-function'"
            )
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}; known are {', '.join(BASELINES)}")
        require_at_least_one(value_batch_size=value_batch_size, max_episode_steps=max_episode_steps)
        self.baseline = baseline
        self.normalize_advantage = normalize_advantage
        self.value_epochs = value_epochs
        self.value_batch_size = value_batch_size
        self.max_episode_steps = max_episode_steps
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=max_episode_steps,
            gamma=gamma,
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=1.0,
            max_grad_norm=max_grad_norm,
            temperature=Constant(1.0),
            diagnostics_interval=diagnostics_interval,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

        if _init_setup_model:
            self._check_baseline()

    def _check_baseline(self) -> None:
        if self.baseline == "rloo" and self.n_envs < 2:
            raise ValueError("baseline 'rloo' averages over other episodes: it needs at least 2 environments")

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._check_baseline()  # a model that was loaded with fewer environments can still predict
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer | None, n_rollout_steps: int
    ) -> bool:
        """Play one episode in each environment from its start."""
        assert self._last_episode_starts is not None
        if not self._last_episode_starts.all():
            self._last_obs = env.reset()  # type: ignore[assignment]
        # Whatever interrupts the episodes, the next ones begin with a reset.
        self._last_episode_starts = np.zeros(env.num_envs, dtype=np.bool_)
        if not super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps):
            return False
        self._last_episode_starts = self.rollout.dones[-1]
        return True

    def _record_episodes(
        self, infos: list[dict[str, Any]], dones: NDArray[np.bool_], finished: NDArray[np.bool_]
    ) -> None:
        # The statistics too would favour short episodes.
        first = np.flatnonzero(~finished)
        self._update_info_buffer([infos[i] for i in first], dones[first])

    def _rollout_complete(self, n_steps: int, finished: NDArray[np.bool_], target: int) -> bool:
        if finished.all() or self.num_timesteps >= self._total_timesteps:
            return True
        if n_steps >= target:
            raise ValueError(f"an episode did not end within {target} steps: Reinforce needs episodes that end")
        return False

    def train(self) -> None:
        """One step of the policy along the score-function gradient, then fit the value to the returns."""
        self._begin_update()
        policy, rollout = self.policy, self.rollout
        if not rollout.dones.any(0).all():
            return  # the step budget ran out; the episodes that did end would favour short ones
        played = first_episodes(rollout.dones)  # [T, E]

        # Monte-Carlo returns. Only a learnt value can stand in for what a time limit cut off.
        rewards = self._bootstrapped_rewards() if self.baseline == "value" else rollout.rewards
        returns = discounted_returns(rewards * played, self.gamma)
        values = np.zeros_like(returns)
        if self.baseline == "value":
            values = self._values(rollout.flat(rollout.observations)).reshape(returns.shape)
        elif self.baseline == "mean":
            values[:] = returns[played].mean()
        elif self.baseline == "rloo":
            values = leave_one_out(returns)

        rows = torch.as_tensor(np.flatnonzero(played), device=self.device)
        observations = select(rollout.flat(rollout.observations), rows)
        actions = self.factors.one_hot(rollout.flat(rollout.indices)[rows])
        advantage = torch.as_tensor((returns - values)[played], device=self.device)
        if self.normalize_advantage:
            advantage = advantage / (advantage.square().mean().sqrt() + 1e-8)

        policy.set_training_mode(True)
        # The policy: one step along the gradient of the whole batch, accumulated over chunks.
        objective, entropy, largest = torch.zeros(3, device=self.device).unbind()
        policy.optimizer.zero_grad()
        for chunk in torch.arange(len(rows), device=self.device).split(CHUNK):
            dist = policy.distribution(select(observations, chunk))
            chunk_objective = (dist.log_prob(actions[chunk]) * advantage[chunk]).sum() / len(rows)
            chunk_entropy = dist.entropy().sum() / len(rows)
            (-chunk_objective - self.ent_coef * chunk_entropy).backward()
            objective = objective + chunk_objective.detach()
            entropy = entropy + chunk_entropy.detach()
            largest = largest + dist.max_entropy.mean() * len(chunk) / len(rows)
        # Of all parameters, because a shared extractor has a gradient as well, and the critic has none.
        grad_norm = clip_grad_norm_(policy.parameters(), self.max_grad_norm)
        policy.optimizer.step()

        # The value: regression on the returns.
        targets = torch.as_tensor(returns[played], device=self.device)
        value_losses = []
        if self.baseline == "value":
            self._update_value_scale(targets)
        for _ in range(self.value_epochs if self.baseline == "value" else 0):
            for batch in minibatches(len(rows), self.value_batch_size, self.device):
                value_loss = self._value_loss(policy.predict_values(select(observations, batch)), targets[batch])
                policy.optimizer.zero_grad()
                value_loss.backward()
                clip_grad_norm_(policy.critic_parameters, self.max_grad_norm)
                policy.optimizer.step()
                value_losses.append(value_loss.detach())

        self._n_updates += 1
        metrics = {
            "actor_loss": -objective - self.ent_coef * entropy,
            "entropy": entropy,
            "grad_norm": grad_norm.detach(),
            # The gradient of a step with respect to its logits is its advantage times (one-hot - probabilities).
            "zero_grad_frac": (advantage == 0).float().mean(),
        }
        if value_losses:
            metrics["critic_loss"] = torch.stack(value_losses).mean()
            self._record_fit(values[played], returns[played])
        self._record_update(metrics, largest)
        if self._diagnostics_due():
            self._record_action_probs(dist.probs)


def first_episodes(dones: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which steps `[T, E]` belong to the first episode of each environment."""
    return np.cumsum(dones, axis=0) - dones == 0


def discounted_returns(rewards: FloatArray, gamma: float) -> FloatArray:
    """Discounted sums of the rewards `[T, E]` from each step on, `[T, E]`; a column is an episode, then zeros."""
    returns = np.empty_like(rewards)
    running = np.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        running = rewards[t] + gamma * running
        returns[t] = running
    return returns


def leave_one_out(returns: FloatArray) -> FloatArray:
    """Mean return from the same step of the other episodes `[T, E]`; an episode that has ended counts with 0.

    It is independent of the episode it serves, so it adds no bias.
    """
    others: FloatArray = (returns.sum(1, keepdims=True) - returns) / max(returns.shape[1] - 1, 1)
    return others
