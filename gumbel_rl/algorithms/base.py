"""What all algorithms share: checks of the spaces, schedules over environment steps, logging."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from gumbel_rl.actions import ActionFactors
from gumbel_rl.adaptive import Adaptive
from gumbel_rl.diagnostics import diagnose, logits_gradient, zero_gradient_share
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.estimators import Estimator, Exact, Objective
from gumbel_rl.sb3.construction import warn_of_temperature
from gumbel_rl.sb3.observations import check_observation_space
from gumbel_rl.schedules import Schedule, ScheduleLike, make_schedule, make_temperature

# Entries of all the estimates that are drawn to measure an estimator's bias and variance: 64 estimates, fewer if wide.
DIAGNOSTIC_NUMBERS = 2**20


class ProgressSchedule:
    """A schedule as Stable-Baselines3 wants its learning rate: a function of the remaining progress, from 1 to 0.

    Args:
        spec: The schedule, over environment steps.

    Attributes:
        total_steps: Environment steps of the run, which make steps of the progress.

    Raises:
        ValueError: The schedule is not understood, or becomes negative.
    """

    def __init__(self, spec: ScheduleLike) -> None:
        self.schedule = make_schedule(spec)
        self.total_steps = 1.0
        if self.schedule.lowest < 0:
            raise ValueError(f"a learning rate must not be negative, but {spec!r} reaches {self.schedule.lowest:g}")

    def __call__(self, progress_remaining: float) -> float:
        return self.schedule.over(self.total_steps)((1.0 - progress_remaining) * self.total_steps)


def require_at_least_one(**numbers: int) -> None:
    """Refuse numbers of steps, epochs and the like below 1.

    Raises:
        ValueError: One of them is.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


class DiscreteAlgorithm(BaseAlgorithm):
    """Mix-in for Stable-Baselines3's frames: an algorithm for Discrete, MultiDiscrete and MultiBinary actions.

    Args:
        policy: As in the subclasses, like everything else.
        env: Environment, vectorised environment or id.
        learning_rate: Number or schedule.
        temperature: Schedule over environment steps, or an adaptive temperature.
        diagnostics_interval: Updates between the costlier measurements; 0 for none.
        verbose: 0 silent, 1 information.
        **options: The remaining arguments of the frame.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]]
    learning_rate: ProgressSchedule

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        learning_rate: ScheduleLike,
        temperature: Schedule,
        diagnostics_interval: int,
        verbose: int,
        **options: Any,
    ) -> None:
        self.temperature = temperature
        self._schedule_steps = 0
        self._iteration = 0
        self.diagnostics_interval = diagnostics_interval
        if env is not None:
            env = maybe_make_env(env, verbose)
            # Refused here, before Stable-Baselines3 stumbles over them.
            check_observation_space(env.observation_space)
            ActionFactors.from_space(env.action_space)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,  # type: ignore[arg-type]  # made one in _setup_lr_schedule
            use_sde=False,
            sde_sample_freq=-1,
            verbose=verbose,
            **options,
        )

    def _setup_lr_schedule(self) -> None:
        # Here and not in the constructor, because `load(path, learning_rate=...)` sets the attribute.
        given: Any = self.learning_rate
        self.learning_rate = given if isinstance(given, ProgressSchedule) else ProgressSchedule(given)
        super()._setup_lr_schedule()

    def _setup_model(self) -> None:
        if self.env is None and not hasattr(self, "action_space"):
            raise ValueError("an environment is needed: give env, an environment or its id")
        self.temperature = make_temperature(self.temperature)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.factors = ActionFactors.from_space(self.action_space)
        policy: Any = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        policy.temperature.fill_(self.temperature.over(1)(0))
        self.policy: Any = policy

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        total_timesteps, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        self.learning_rate.total_steps = max(total_timesteps, 1)
        # Set when a run begins: a resumed run goes on along the schedules it began.
        if self.num_timesteps == 0:
            self._schedule_steps = total_timesteps
        return total_timesteps, callback

    def _scheduled(self, schedule: Schedule) -> float:
        """Value of a schedule over environment steps at present."""
        return schedule.over(self._schedule_steps)(self.num_timesteps)

    def _set_temperature(self) -> None:
        """Set the temperature of this update: from the environment steps made so far, or as it was adapted last."""
        if isinstance(self.temperature, Adaptive):  # a loaded model may have been given other limits
            temperature = self.temperature.clamped(float(self.policy.temperature))
        else:
            temperature = self._scheduled(self.temperature)
        self.policy.temperature.fill_(temperature)
        self.logger.record("train/temperature", temperature)

    def _check_temperature(self, estimator: Estimator, exact: Exact | None) -> None:
        """Refuse an adaptive temperature whose signal the estimator does not have or nothing measures.

        One that is not adaptive changes nothing without an estimator that has one: of that there is a warning.
        """
        adaptive = self.temperature
        if not isinstance(adaptive, Adaptive):
            warn_of_temperature(adaptive, estimator)
            return
        name = type(estimator).__name__
        if not estimator.has_temperature:
            raise ValueError(f"{adaptive} needs an estimator with a temperature, and {name} has none")
        if adaptive.signal == "bias" and estimator.unbiased:
            raise ValueError(f"{adaptive} needs an estimator with a bias, and {name} has none at any temperature")
        if adaptive.signal == "bias" and exact is None:
            raise ValueError(
                f"{adaptive} needs the exact gradient, which this critic does not give for so many joint actions; "
                "choose a critic that is linear in each factor, or the temperature adaptive-zero-share:TARGET"
            )
        if self.diagnostics_interval < 1:
            raise ValueError(
                f"{adaptive} moves at measurements, and diagnostics_interval={self.diagnostics_interval} makes none"
            )

    def _diagnostics_due(self) -> bool:
        """Whether this update makes the costlier measurements, the first one included."""
        return self.diagnostics_interval > 0 and (self._iteration - 1) % self.diagnostics_interval == 0

    def _record_gradient(
        self, estimator: Estimator, dist: FactoredCategorical, f: Objective, exact: Exact | None
    ) -> None:
        """Log what an estimator's gradient of `E f` is worth, on one minibatch, and adapt the temperature to it.

        Without an exact gradient there is only the share of gradients that are zero, and it is measured where the
        temperature depends on it.
        """
        if exact is None and not isinstance(self.temperature, Adaptive):
            return
        repeats = min(max(DIAGNOSTIC_NUMBERS // dist.logits.numel(), 8), 64)
        # Apart from the random numbers of training: to measure must not change what is measured.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            if exact is None:
                measured = {"zero_grad_frac": float(zero_gradient_share(logits_gradient(estimator, dist, f, repeats)))}
                logged = {"train/zero_grad_frac": measured["zero_grad_frac"]}
            else:
                quality = diagnose(estimator, dist, f, exact=exact, repeats=repeats)
                measured, logged = vars(quality), quality.logged
        for tag, number in logged.items():
            self.logger.record(tag, number)
        if isinstance(self.temperature, Adaptive):
            temperature = self.temperature.adapted(float(self.policy.temperature), measured[self.temperature.signal])
            self.policy.temperature.fill_(temperature)

    def _record_action_probs(self, probs: Tensor) -> None:
        self.logger.record("dist/action_probs", probs.detach().flatten(), exclude=("stdout", "log", "json", "csv"))
