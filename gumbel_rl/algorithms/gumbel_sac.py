"""GumbelSAC: off-policy maximum-entropy actor-critic for discrete actions, with any gradient estimator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, TensorDict
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gumbel_rl.algorithms.base import DiscreteAlgorithm, require_at_least_one
from gumbel_rl.algorithms.off_policy_policies import POLICY_ALIASES, Critics, OffPolicyActorCriticPolicy
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator, Exact, Objective, estimator_through
from gumbel_rl.sb3.observations import mask_in
from gumbel_rl.sb3.replay import DiscreteReplayBuffer, Transitions
from gumbel_rl.schedules import ScheduleLike, make_target_entropy, make_temperature

TWINS = ("min", "mean", "action-min")
RANDOM_ACTIONS = ("uniform", "central")

# Largest number of joint actions that are enumerated for expectations under critics that are not linear in each factor.
ENUMERATED = 64

Self = TypeVar("Self", bound="GumbelSAC")


class GumbelSAC(DiscreteAlgorithm, OffPolicyAlgorithm):
    """Soft actor-critic for Discrete, MultiDiscrete and MultiBinary actions, with masks.

    After every `train_freq` steps of each environment it makes `gradient_steps` updates, each on a batch of transitions
    `(s, z, r, s')` from the replay buffer:

    * the critics `Q_i(s, z)` regress on `r + gamma * (E_z'~pi Q'(s', z') + alpha * H(pi(s')))`, where `Q'` are slow
      copies and `H` is the entropy in closed form;
    * the actor ascends `E_z~pi Q(s, z) + alpha * H(pi(s))` by the chosen gradient estimator, with the critics held
      fixed;
    * `alpha` follows the entropy towards a share of the largest possible one.

    With the critics that are linear in each factor, which is the default, and with few joint actions, the expectations
    in the targets are exact; elsewhere they are means over as many actions as the estimator draws. Action masks are an
    entry `action_mask` of a Dict observation; what is forbidden is never executed.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a class.
        env: Environment, vectorised environment or id.
        learning_rate: Number, or a schedule over the run such as `"linear:2e-3:0"`; for critics, actor and `alpha`.
        buffer_size: Transitions that the replay buffer holds.
        learning_starts: Steps of random allowed actions before the first update.
        random_actions: How these are drawn: `"uniform"`, or `"central"`, the middle choices of each factor likeliest
            (`ActionFactors.central_logits`). That is for ordered choices, such as bins of continuous actions, whose
            ends may lead at once to where there is nothing to learn.
        batch_size: Transitions of an update.
        tau: Share of the way that the slow copies move towards the critics in an update.
        gamma: Discount.
        train_freq: Steps of each environment between updates, or `(n, "episode")`.
        gradient_steps: Updates at a time; -1 for as many as steps were made in all environments.
        n_steps: Steps of a return before it is bootstrapped. With more than one, the entropy that counts is that of the
            state it is bootstrapped at, and the steps before it are those of the policy that made them.
        include_newest: Begin every batch with the newest transition of each environment (combined replay).
        estimator: Id in `gumbel_rl.ESTIMATORS`, or an estimator.
        estimator_kwargs: Options of the estimator if given by id, for example `{"samples": 4}`.
        temperature: Number or schedule over environment steps such as `"exponential:1.0:0.3"`, for estimators that have
            one; it replaces the temperature that an estimator was made with.
        ent_coef: Entropy coefficient `alpha`: a number, or `"auto"` to learn it, `"auto_0.1"` with 0.1 as its first
            value.
        target_entropy_ratio: Entropy that a learnt `alpha` aims at, as a share of the largest possible one (of the
            allowed choices, where there are masks): a number or a schedule over environment steps.
        entropy_in_target: Whether the critics value the entropy of later states too.
        twins: What the critics together say: `"min"`, the smallest of their expected values (of their estimates, where
            the expectation cannot be had); `"mean"`, the average; `"action-min"`, the expectation of the smallest value
            of each action.
        q_clip: Largest distance of a critic's value from its slow copy's that its loss rewards (Zhou et al. 2024,
            section 5.2); `None` for no limit.
        actor_delay: Updates of the critics for one of the actor and of `alpha`.
        max_grad_norm: Largest gradient norm, of the actor and of the critics each; `None` for no limit.
        diagnostics_interval: Measure the estimator against the exact gradient (`grad/*`) every so many updates of the
            actor, where that gradient can be had; 0 never.
        stats_window_size: Episodes averaged in `rollout/*`.
        tensorboard_log: Directory for TensorBoard.
        policy_kwargs: Arguments of the policy: networks and critics.
        verbose: 0 silent, 1 information.
        seed: Seed of all random numbers.
        device: Torch device.

    Raises:
        TypeError: The action space is not Discrete, MultiDiscrete or MultiBinary; an option the estimator or the critic
            does not have.
        ValueError: An unknown estimator, critic, schedule or choice, or a number out of its range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICY_ALIASES
    policy: OffPolicyActorCriticPolicy
    replay_buffer: DiscreteReplayBuffer | None

    def __init__(
        self,
        policy: str | type[OffPolicyActorCriticPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        *,
        learning_rate: ScheduleLike = 2e-3,
        buffer_size: int = 100_000,
        learning_starts: int = 1000,
        random_actions: str = "uniform",
        batch_size: int = 128,
        tau: float = 0.02,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = -1,
        n_steps: int = 1,
        include_newest: bool = False,
        estimator: str | Estimator = "exact",
        estimator_kwargs: dict[str, Any] | None = None,
        temperature: ScheduleLike = 1.0,
        ent_coef: float | str = "auto_0.1",
        target_entropy_ratio: ScheduleLike = 0.15,
        entropy_in_target: bool = True,
        twins: str = "min",
        q_clip: float | None = None,
        actor_delay: int = 1,
        max_grad_norm: float | None = None,
        diagnostics_interval: int = 500,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.random_actions = random_actions
        self.estimator = estimator
        self.estimator_kwargs = dict(estimator_kwargs or {})
        self.include_newest = include_newest
        self.ent_coef = ent_coef
        self.target_entropy_ratio = target_entropy_ratio
        self.entropy_in_target = entropy_in_target
        self.twins = twins
        self.q_clip = q_clip
        self.actor_delay = actor_delay
        self.max_grad_norm = max_grad_norm
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            temperature=make_temperature(temperature),
            diagnostics_interval=diagnostics_interval,
            verbose=verbose,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
        )
        self.n_steps = n_steps  # Stable-Baselines3's own is for a replay buffer of its own
        if _init_setup_model:
            self._setup_model()

    def _check_settings(self) -> None:
        require_at_least_one(batch_size=self.batch_size, n_steps=self.n_steps, actor_delay=self.actor_delay)
        for setting, given, known in (
            ("twins", self.twins, TWINS),
            ("random_actions", self.random_actions, RANDOM_ACTIONS),
        ):
            if given not in known:
                raise ValueError(f"unknown {setting} {given!r}; known are {', '.join(known)}")
        for name, limit in {"q_clip": self.q_clip, "max_grad_norm": self.max_grad_norm}.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive or None, got {limit}")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be above 0 and at most 1, got {self.tau}")

    def _setup_model(self) -> None:
        self._check_settings()  # here and not in the constructor, because `load(path, tau=...)` sets the attributes
        self._learns_ent_coef = _first_ent_coef(self.ent_coef)[1]
        self._entropy_schedule = make_target_entropy(self.target_entropy_ratio)
        super()._setup_model()
        self._begin_ent_coef()
        if self.replay_buffer is None:
            self.replay_buffer = DiscreteReplayBuffer(
                self.buffer_size,
                self.observation_space,
                self.action_space,
                device=self.device,
                n_envs=self.n_envs,
                gamma=self.gamma,
                n_steps=self.n_steps,
                include_newest=self.include_newest,
            )
        self._convert_train_freq()
        train_freq: Any = self.train_freq  # as converted
        require_at_least_one(train_freq=train_freq.frequency)
        self._make_estimator()

    def _begin_ent_coef(self) -> None:
        first, _ = _first_ent_coef(self.ent_coef)
        with torch.no_grad():
            self.policy.log_ent_coef.fill_(np.log(first) if first else -np.inf)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As in Stable-Baselines3; an entropy coefficient that is not learnt is a setting, and stays what it was."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        # One of 0 could not be learnt from.
        if not self._learns_ent_coef or not torch.isfinite(self.policy.log_ent_coef):
            self._begin_ent_coef()

    def load_replay_buffer(self, path: str | Path | BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """As in Stable-Baselines3; returns are made of it by this model's settings, not by those it was saved with.

        Raises:
            TypeError: It is a replay buffer of another kind.
            ValueError: It is of another number of environments, or of other spaces. The model keeps the buffer it has.
        """
        before = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            buffer: Any = self.replay_buffer
            if not isinstance(buffer, DiscreteReplayBuffer):
                raise TypeError(f"a DiscreteReplayBuffer is needed, got a {type(buffer).__name__}")
            for name, has, needs in (
                ("environments", buffer.n_envs, self.n_envs),
                ("observations", buffer.observation_space, self.observation_space),
                ("actions", buffer.action_space, self.action_space),
            ):
                if has != needs:
                    raise ValueError(f"the {name} of the replay buffer are {has}, and those of the model are {needs}")
        except (TypeError, ValueError):
            self.replay_buffer = before
            raise
        buffer.gamma, buffer.n_steps, buffer.include_newest = self.gamma, self.n_steps, self.include_newest

    def _make_estimator(self) -> None:
        """The estimator in use, and the exact one that expectations and diagnostics are made with."""
        linear = all(critic.multilinear for critic in self.policy.critics) and self.twins != "action-min"
        factors = self.factors
        self._exact: Exact | None = None
        if linear:
            self._exact = Exact(multilinear=True)
        elif factors.joint_size <= ENUMERATED:
            self._exact = Exact(max_vertices=ENUMERATED)
        asked = {"estimator": self.estimator, "options": self.estimator_kwargs, "multilinear": linear}
        # In a loaded model there is one already, with what it has learnt.
        if self.__dict__.get("_asked") != asked:
            self._estimator = estimator_through(self.estimator, self.estimator_kwargs, linear)
        self._asked = asked
        if isinstance(self._estimator, Exact):
            if self._estimator.multilinear and not linear:
                raise ValueError(
                    "exact with multilinear=True evaluates the critics at the probabilities, which is not the "
                    f"expectation under the critic {self.policy.critic!r} with twins={self.twins!r}: leave the option "
                    "out"
                )
            if not self._estimator.multilinear and factors.joint_size > self._estimator.max_vertices:
                remedy = (
                    "give estimator='exact', which needs one evaluation of a critic that is linear in each factor"
                    if linear
                    else "choose critics that are linear in each factor and twins other than 'action-min', or an "
                    "estimator that samples"
                )
                raise ValueError(
                    f"the exact expectation under the critic {self.policy.critic!r} with twins={self.twins!r} would "
                    f"enumerate {factors.joint_size} joint actions, more than {self._estimator.max_vertices}; {remedy}"
                )
            self._exact = self._estimator
        self._check_temperature(self._estimator, self._exact)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; as in Stable-Baselines3, with the class's name as the default name of the TensorBoard run."""
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Actions `[E, *action shape]` to execute and to store: the policy's, or at first random allowed ones."""
        assert self._last_obs is not None
        obs = obs_as_tensor(self._last_obs, self.device)
        with torch.no_grad():
            if self.num_timesteps < learning_starts:
                central = self.factors.central_logits(self.device)
                logits = central if self.random_actions == "central" else torch.zeros_like(central)
                dist = FactoredCategorical(logits.expand(n_envs, -1), self.factors, mask_in(obs))
            else:
                dist = self.policy.distribution(obs)
            actions = self.factors.to_env(dist.sample_indices()).cpu().numpy().astype(self.factors.dtype)
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Make `gradient_steps` updates of critics, actor and entropy coefficient."""
        policy, buffer = self.policy, self.replay_buffer
        assert buffer is not None
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        self._set_temperature()
        if self._estimator.has_temperature:
            self._estimator.temperature = float(policy.temperature)
        ratio = self._scheduled(self._entropy_schedule)

        history: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(gradient_steps):
            batch = buffer.sample(batch_size, env=self._vec_normalize_env)
            self._n_updates += 1
            moves_actor = self._n_updates % self.actor_delay == 0

            # Critics: the values of the actions taken, on the bootstrapped returns.
            target = self._target(batch)
            objectives = self._objectives(policy.critics, batch.observations)
            loss, metrics = self._critic_loss(batch, objectives, target)

            # Actor: E_z~pi Q(s, z) + alpha H(pi(s)), through the critics as they stand. And alpha.
            if moves_actor:
                actor_loss, actor_metrics = self._actor_loss(batch, objectives, ratio)
                loss = loss + actor_loss
                metrics |= actor_metrics

            policy.optimizer.zero_grad()
            loss.backward()
            if moves_actor:
                metrics["grad_norm"] = self._clip_gradient(policy.actor_parameters)
            if self.max_grad_norm is not None:
                self._clip_gradient(policy.critic_parameters)
            policy.optimizer.step()
            policy.update_target(self.tau)
            for name, value in metrics.items():
                history[name].append(value)

        means = {name: torch.stack(values).mean() for name, values in history.items()}
        for name, number in zip(means, torch.stack(list(means.values())).tolist(), strict=True):
            self.logger.record(f"train/{name}", number)
        self.logger.record("train/target_entropy_ratio", ratio)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @torch.no_grad()
    def _target(self, batch: Transitions) -> Tensor:
        """Returns `[B]`, bootstrapped with the slow critics and the present policy."""
        # Where an episode has ended nothing may be allowed, and nothing is done.
        over = batch.discounts == 0
        dist = self.policy.distribution(batch.next_observations, all_allowed=over)
        objectives = self._objectives(self.policy.target, batch.next_observations)
        if self._exact is not None:
            value = self._together([self._exact(dist, f) for f in self.joined(objectives)])
        else:  # at the one-hots, where the critic knows what it says, whatever the estimator
            sample = dist.sample((self._estimator.samples,))
            value = self._together([f(sample).mean(0) for f in self.joined(objectives)])
        if self.entropy_in_target:
            value = value + self._alpha * dist.entropy()
        return batch.rewards.squeeze(-1) + batch.discounts.squeeze(-1) * value

    def _critic_loss(
        self, batch: Transitions, objectives: list[Objective], target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors at the actions taken, summed over the critics."""
        actions = self.factors.one_hot(batch.actions)
        fitted = [critic.regression_actions(actions) for critic in self.policy.critics]
        values = torch.stack([f(z) for f, z in zip(objectives, fitted, strict=True)])  # [critics, B]
        errors = (values - target).square()
        if self.q_clip is not None:
            with torch.no_grad():
                slow = torch.stack(
                    [
                        f(z)
                        for f, z in zip(self._objectives(self.policy.target, batch.observations), fitted, strict=True)
                    ]
                )
            clipped = slow + (values - slow).clamp(-self.q_clip, self.q_clip)
            errors = torch.maximum(errors, (clipped - target).square())
        loss = errors.mean(-1).sum()
        return loss, {"critic_loss": loss.detach() / len(values), "value": values.detach().mean()}

    def _actor_loss(
        self, batch: Transitions, objectives: list[Objective], ratio: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The estimated gradient's loss for the actor's logits, plus that of the entropy coefficient."""
        logits = self.policy.logits(batch.observations)
        # The gradient is asked for at the logits first: so the critics, which stand in the same graph, get none of it.
        dist = FactoredCategorical(logits.detach().requires_grad_(), self.factors, mask_in(batch.observations))
        # The same for all critics: they are compared on the same actions.
        noise = dist.noise((self._estimator.samples,))
        expected = self._together([self._expected(dist, f, noise) for f in self.joined(objectives)])
        entropy, alpha = dist.entropy(), self._alpha
        objective = expected + alpha * entropy
        (slope,) = torch.autograd.grad(objective.sum(), dist.logits)
        for f in self.joined(objectives):
            self._estimator.adapt(dist, f, noise)
        loss = -(slope * logits).sum() / len(logits)
        entropy, largest = entropy.detach().mean(), dist.max_entropy.mean()
        if self._learns_ent_coef:
            loss = loss + self.policy.log_ent_coef * (entropy - ratio * largest)

        self._iteration += 1
        if self._diagnostics_due():
            self._record_gradient(self._estimator, dist, self.joined(objectives)[0], self._exact)
            self._record_action_probs(dist.probs)
        actor_loss, share = -objective.detach().mean(), entropy / largest.clamp_min(1e-12)
        return loss, {"actor_loss": actor_loss, "entropy": entropy, "entropy_ratio": share, "ent_coef": alpha}

    def _expected(self, dist: FactoredCategorical, f: Objective, noise: Tensor) -> Tensor:
        """The estimator's surrogate `[B]`, with the exact value where that can be had.

        The smallest of the critics is chosen by value: by the expected one, not by that of the actions drawn.
        """
        surrogate = self._estimator(dist, f, noise)
        if self._exact is None or self._exact is self._estimator:
            return surrogate
        with torch.no_grad():
            correction = self._exact(dist, f) - surrogate
        return surrogate + correction

    def _clip_gradient(self, parameters: Sequence[Tensor]) -> Tensor:
        """Norm of the gradient, which is clipped if it has a limit."""
        if self.max_grad_norm is not None:
            return clip_grad_norm_(parameters, self.max_grad_norm)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    @property
    def _alpha(self) -> Tensor:
        return self.policy.log_ent_coef.detach().exp()

    def _objectives(self, critics: Critics, obs: Any) -> list[Objective]:
        """The values of all critics as functions of the action, at observations `[B, ...]`."""
        features = self.policy.features(critics, obs)
        return [critic.at(features) for critic in critics]

    def joined(self, objectives: list[Objective]) -> list[Objective]:
        """The functions whose expectations are taken: the critics', or the smallest of them at each action."""
        if self.twins != "action-min":
            return objectives
        return [lambda actions: torch.stack([f(actions) for f in objectives]).min(0).values]

    def _together(self, values: list[Tensor]) -> Tensor:
        """One value `[B]` of the expectations of all functions."""
        if len(values) == 1:
            return values[0]
        stacked = torch.stack(values)
        return stacked.mean(0) if self.twins == "mean" else stacked.min(0).values

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_exact"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def _first_ent_coef(ent_coef: float | str) -> tuple[float, bool]:
    """The first value of the entropy coefficient, and whether it is learnt."""
    given = str(ent_coef)
    learnt = given.startswith("auto")
    number = given.removeprefix("auto").removeprefix("_") if learnt else given
    try:
        first = 1.0 if learnt and not number else float(number)
    except ValueError:
        first = -1.0
    if not 0 <= first < np.inf or (learnt and first == 0):
        raise ValueError(f"ent_coef must be a number, 'auto' or like 'auto_0.1', got {ent_coef!r}")
    return first, learnt
