"""What the plug-in policies for SAC, TD3 and DDPG share: their arguments, the temperature, checks of the algorithm."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule as LearningRate
from torch import Tensor

from gumbel_rl.adaptive import Adaptive
from gumbel_rl.critics import make_critic
from gumbel_rl.estimators import Estimator, Exact, estimator_through
from gumbel_rl.sb3.construction import algorithm_that_builds, check_kind, warn_of_temperature
from gumbel_rl.sb3.networks import GumbelCritics, adam_options
from gumbel_rl.sb3.observations import (
    ObservationFeatures,
    check_mask_space,
    check_observation_space,
    default_extractor,
    without_mask,
)
from gumbel_rl.schedules import Constant, Schedule, ScheduleLike, make_temperature
from gumbel_rl.wrappers import OneHotBox

NetArch = list[int] | dict[str, list[int]]


class GumbelOffPolicyMixin(ObservationFeatures, BasePolicy):
    """Arguments and behaviour that the policies for SAC, TD3 and DDPG have in common.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these. An entry `action_mask` of a
            Dict restricts the actions and is not made into features.
        action_space: The one-hots that `OneHotActions` offers.
        lr_schedule: Learning rate as a function of the remaining progress, Stable-Baselines3's convention.
        net_arch: Widths of the hidden layers, one list for actor and critics or `{"pi": [...], "qf": [...]}`.
        estimator: Id in `gumbel_rl.ESTIMATORS`, or an estimator.
        estimator_kwargs: Options of an estimator given by its id, for example `{"samples": 4}`.
        temperature: Number, or schedule over environment steps with a length, such as `"exponential:1:0.3:20000"`, for
            estimators that have a temperature; it replaces the one that an estimator was made with. It is annealed as
            the policy acts in training.
        critic: Id in `gumbel_rl.critics.CRITICS`.
        critic_kwargs: Options of the critic, for example `{"rank": 8}` or `{"interpolated_learning": True}`.
        features_extractor_class: Turns observations into features; by default Stable-Baselines3's for the kind of
            observation.
        optimizer_class: Optimiser of actor and critics.
        optimizer_kwargs: Its arguments; by default the fused step for Adam, which costs small networks half as much.
        **options: Further arguments of Stable-Baselines3's policy.

    Raises:
        TypeError: The action space is not a `OneHotBox`, the observation space is not supported, an option is unknown,
            or the policy is for another algorithm.
        ValueError: An unknown estimator, critic or schedule, a mask that does not fit, or an algorithm with settings
            that cannot work with discrete actions.
    """

    algorithm_class: type[OffPolicyAlgorithm]
    temperature: Tensor
    env_steps: Tensor
    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: LearningRate,
        net_arch: NetArch | None = None,
        estimator: str | Estimator = "st-gumbel-softmax",
        estimator_kwargs: dict[str, Any] | None = None,
        temperature: ScheduleLike = 1.0,
        critic: str = "multilinear",
        critic_kwargs: dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        algorithm = algorithm_that_builds(self)
        check_kind(self, algorithm, self.algorithm_class)
        if not isinstance(action_space, OneHotBox):
            raise TypeError(
                f"{type(self).__name__} acts on one-hots of discrete actions, got the action space {action_space}; "
                "wrap the environment, last of all: OneHotActions(env), for Discrete, MultiDiscrete and MultiBinary"
            )
        if options.get("use_sde"):
            raise ValueError("use_sde=True: state-dependent exploration is for continuous actions; leave it off")
        check_observation_space(observation_space)
        check_mask_space(observation_space, action_space.factors)
        self._settings: dict[str, Any] = {
            "estimator": estimator,
            "estimator_kwargs": estimator_kwargs,
            "temperature": temperature,
            "critic": critic,
            "critic_kwargs": critic_kwargs,
        }
        self.factors = action_space.factors
        self.temperature_schedule = _fixed_length(make_temperature(temperature))
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            features_extractor_class=features_extractor_class or default_extractor(without_mask(observation_space)),
            optimizer_class=optimizer_class,
            optimizer_kwargs=adam_options(optimizer_class) if optimizer_kwargs is None else optimizer_kwargs,
            **options,
        )
        self._check_algorithm(algorithm)

    def _build(self, lr_schedule: LearningRate) -> None:
        # Stable-Baselines3's constructor has set actor_kwargs and critic_kwargs, and now makes the networks of them.
        settings = self._settings
        self.register_buffer("temperature", torch.ones((), dtype=torch.float64))
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self.critic_kwargs.update(critic=settings["critic"], critic_kwargs=settings["critic_kwargs"])
        probe = make_critic(settings["critic"], 1, self.factors, [], **(settings["critic_kwargs"] or {}))
        asked = estimator_through(settings["estimator"], settings["estimator_kwargs"] or {}, probe.multilinear)
        # A copy: the temperature is this policy's, whoever else was given the same object.
        self.estimator = copy.deepcopy(asked)
        _check_exact(self.estimator, settings["critic"], probe.multilinear)
        warn_of_temperature(self.temperature_schedule, self.estimator)
        super()._build(lr_schedule)  # type: ignore[misc]
        self.set_temperature(self.temperature_schedule(0))

    def _actor_arguments(self, features_extractor: BaseFeaturesExtractor | None) -> dict[str, Any]:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        names = ("observation_space", "action_space", "net_arch", "features_extractor", "features_dim", "activation_fn")
        return {name: kwargs[name] for name in (*names, "normalize_images")} | {"estimator": self.estimator}

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """New critics, as Stable-Baselines3 asks for them."""
        return GumbelCritics(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)

    def _check_algorithm(self, algorithm: BaseAlgorithm | None) -> None:
        """Refuse an algorithm's settings that cannot work with discrete actions."""
        if isinstance(algorithm, OffPolicyAlgorithm) and algorithm.action_noise is not None:
            raise ValueError(
                f"action_noise={algorithm.action_noise}: noise added to a one-hot is no action; leave it out, "
                "this policy explores by sampling"
            )

    def set_temperature(self, temperature: float) -> None:
        """Set the estimator's temperature, now and in what is saved."""
        self.temperature.fill_(temperature)
        if self.estimator.has_temperature:
            self.estimator.temperature = temperature

    def anneal(self, schedule: Schedule, env_steps: int) -> None:
        """Follow another schedule from now on, with the count of environment steps set to `env_steps`."""
        self.temperature_schedule = _fixed_length(schedule)
        warn_of_temperature(self.temperature_schedule, self.estimator)
        self.env_steps.fill_(env_steps)
        self.set_temperature(self.temperature_schedule(env_steps))

    def scale_action(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Actions as the replay buffer holds them: one-hots in -1 and +1 already.

        Stable-Baselines3 asks for it once a training step, and tells a policy nothing else about its progress: so this
        is where environment steps are counted and the temperature is annealed.
        """
        self.env_steps += len(action)
        if not isinstance(self.temperature_schedule, Constant):
            self.set_temperature(self.temperature_schedule(int(self.env_steps)))
        return np.asarray(action, dtype=np.float32)

    def set_training_mode(self, mode: bool) -> None:
        """As in Stable-Baselines3, whose `predict` asks for it at every step: nothing is done if the mode is right."""
        if self.training != mode:
            super().set_training_mode(mode)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As in torch; the temperature goes to the estimator too."""
        keys = super().load_state_dict(state_dict, strict, assign)
        self.set_temperature(float(self.temperature))
        return keys

    def _get_constructor_parameters(self) -> dict[str, Any]:
        share = {"share_features_extractor": self.share_features_extractor}
        return super()._get_constructor_parameters() | self._settings | share


def _fixed_length(schedule: Schedule) -> Schedule:
    if isinstance(schedule, Adaptive):
        raise ValueError(
            f"{schedule} follows what GumbelSAC and GumbelActorCritic measure as they train, and Stable-Baselines3's "
            "algorithms measure nothing of the kind: give a number or a schedule"
        )
    try:
        schedule(0)
    except ValueError:
        raise ValueError(
            f"{schedule} has no length, and Stable-Baselines3 does not tell a policy how long a run is: give it the "
            "number of environment steps, as in 'exponential:1:0.3:20000', or leave annealing to TemperatureCallback"
        ) from None
    return schedule


def _check_exact(estimator: Estimator, critic: str, multilinear: bool) -> None:
    if isinstance(estimator, Exact) and estimator.multilinear and not multilinear:
        raise ValueError(
            "exact with multilinear=True evaluates the critic at the probabilities, which is not the expectation under "
            f"the critic {critic!r}: leave the option out, or choose a critic that is linear in each factor"
        )
