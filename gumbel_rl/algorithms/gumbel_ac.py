"""GumbelActorCritic: an on-policy actor-critic whose actor follows a gradient estimator through an advantage critic."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from gumbel_rl.algorithms.base import require_at_least_one
from gumbel_rl.algorithms.on_policy import DiscreteOnPolicyAlgorithm
from gumbel_rl.algorithms.policies import ActorCriticPolicy
from gumbel_rl.algorithms.rollouts import gae, minibatches, select
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator, Exact, Objective, estimator_through
from gumbel_rl.sb3.observations import mask_in
from gumbel_rl.schedules import ScheduleLike, make_temperature


class GumbelActorCritic(DiscreteOnPolicyAlgorithm):
    """On-policy actor-critic with a reparameterised policy gradient.

    Each iteration collects `n_steps` of every environment, estimates advantages with GAE(lambda), and makes `n_epochs`
    passes over the batch. In each minibatch

    * the critic regresses `V(s)` on the returns, and the advantage heads `A(s, z) = sum_d <z_d, a_d(s)>`, centred under
      the behaviour policy, on the normalised advantages of the actions taken;
    * the actor ascends `E_z~pi A(s, z)` by the chosen gradient estimator (straight-through Gumbel-softmax by default)
      with the critic held fixed, and pays `kl_coef * KL(behaviour || pi)` for leaving the policy that collected the
      data.

    The critic is linear in each factor's one-hot, so its slope at an action is a difference of fitted values, which is
    what makes a pathwise gradient through it meaningful.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a class.
        env: Environment, vectorised environment or id.
        learning_rate: Number, or a schedule over the run such as `"linear:5e-3:0"`.
        n_steps: Steps of each environment in an iteration.
        batch_size: Largest minibatch, in steps.
        n_epochs: Passes over the data of an iteration.
        gamma: Discount.
        gae_lambda: GAE's lambda.
        estimator: Id in `gumbel_rl.ESTIMATORS`, or an estimator.
        estimator_kwargs: Options of the estimator if given by id, for example `{"samples": 4}`.
        temperature: Number or schedule over environment steps such as `"exponential:1.0:0.3"`, for estimators that have
            one; it replaces the temperature that an estimator was made with.
        kl_coef: Weight of the divergence from the behaviour policy, in normalised advantages per nat.
        ent_coef: Weight of the entropy, in normalised advantages per nat.
        vf_coef: Weight of the value loss beside the advantage loss.
        max_grad_norm: Largest gradient norm, of the actor and of the critic each.
        diagnostics_interval: Measure the estimator against the exact gradient (`grad/*`) every so many iterations; 0
            never.
        stats_window_size: Episodes averaged in `rollout/*`.
        tensorboard_log: Directory for TensorBoard.
        policy_kwargs: Arguments of the policy.
        verbose: 0 silent, 1 information.
        seed: Seed of all random numbers.
        device: Torch device.

    Raises:
        TypeError: The action space is not Discrete, MultiDiscrete or MultiBinary; an option the estimator does not
            have.
        ValueError: An unknown estimator or schedule, a temperature that is not positive, a number of steps or epochs
            below 1, or options for an estimator that is made already.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        *,
        learning_rate: ScheduleLike = "linear:5e-3:0",
        n_steps: int = 32,
        batch_size: int = 128,
        n_epochs: int = 4,
        gamma: float = 0.99,
        gae_lambda: float = 0.98,
        estimator: str | Estimator = "st-gumbel-softmax",
        estimator_kwargs: dict[str, Any] | None = None,
        temperature: ScheduleLike = 1.0,
        kl_coef: float = 3.0,
        ent_coef: float = 0.01,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        diagnostics_interval: int = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        require_at_least_one(n_steps=n_steps, batch_size=batch_size, n_epochs=n_epochs)
        self.estimator = estimator_through(estimator, estimator_kwargs or {}, multilinear=True)
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.kl_coef = kl_coef
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            temperature=make_temperature(temperature),
            diagnostics_interval=diagnostics_interval,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self._check_temperature(self.estimator, Exact(multilinear=True))

    def train(self) -> None:
        """Fit the critic to the collected advantages and move the actor along the estimated gradient."""
        self._begin_update()
        policy, rollout = self.policy, self.rollout
        if self.estimator.has_temperature:
            self.estimator.temperature = float(policy.temperature)

        # Targets: GAE advantages, normalised over the batch, and lambda-returns.
        observations = rollout.flat(rollout.observations)
        values = self._values(observations).reshape(rollout.rewards.shape)
        last_values = self._values(rollout.last_observations)
        gains = gae(self._bootstrapped_rewards(), values, last_values, rollout.dones, self.gamma, self.gae_lambda)
        advantages = torch.as_tensor(gains, device=self.device).flatten()
        returns = torch.as_tensor(gains + values, device=self.device).flatten()
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        actions = self.factors.one_hot(rollout.flat(rollout.indices))
        behaviour = FactoredCategorical(rollout.flat(rollout.logits), self.factors, mask_in(observations))
        behaviour_probs, behaviour_entropy = behaviour.probs, behaviour.entropy()
        self._update_value_scale(returns)

        history: list[Tensor] = []
        policy.set_training_mode(True)
        for _ in range(self.n_epochs):
            for rows in minibatches(len(advantages), self.batch_size, self.device):
                obs = select(observations, rows)
                reference = behaviour_probs[rows]
                dist, features = policy.distribution_and_critic_features(obs)
                value, heads = policy.critic.heads(features, reference)

                # Critic: V on the returns, A on the advantages of the actions taken.
                value_loss = self._value_loss(value, returns[rows])
                advantage_loss = F.mse_loss((actions[rows] * heads).sum(-1), advantages[rows])

                # Actor: E_z~pi A(s, z) through the critic as it stands, less the price of leaving the behaviour policy.
                objective = _linear(heads.detach())
                gain = self.estimator(dist, objective).mean()
                # KL(b || pi) = -H(b) - E_z~b log pi(z), and log pi(z) is linear in z.
                divergence = -(behaviour_entropy[rows] + dist.log_prob(reference)).mean()
                entropy = dist.entropy().mean()
                actor_loss = self.kl_coef * divergence - gain - self.ent_coef * entropy

                self.estimator.adapt(dist, objective)

                policy.optimizer.zero_grad()
                (actor_loss + advantage_loss + self.vf_coef * value_loss).backward()
                grad_norm = clip_grad_norm_(policy.actor_parameters, self.max_grad_norm)
                clip_grad_norm_(policy.critic_parameters, self.max_grad_norm)
                policy.optimizer.step()
                metrics = (actor_loss, advantage_loss, value_loss, divergence, entropy, grad_norm)
                history.append(torch.stack(metrics).detach())

        self._n_updates += self.n_epochs
        names = ("actor_loss", "critic_loss", "value_loss", "kl", "entropy", "grad_norm")
        self._record_update(dict(zip(names, torch.stack(history).mean(0), strict=True)), behaviour.max_entropy.mean())
        self._record_fit(values, gains + values)
        if self._diagnostics_due():
            self._record_gradient(self.estimator, dist, objective, exact=Exact(multilinear=True))
            self._record_action_probs(dist.probs)


def _linear(slope: Tensor) -> Objective:
    """The objective `f(z) = <z, slope>`."""
    return lambda actions: (actions * slope).sum(-1)
