"""What a policy can find out about the algorithm that is making it, and how it tells the user."""

from __future__ import annotations

import inspect
import warnings

from stable_baselines3 import SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from gumbel_rl.estimators import Estimator
from gumbel_rl.schedules import Constant, Schedule


def algorithm_that_builds(policy: BasePolicy) -> BaseAlgorithm | None:
    """The algorithm in whose set-up `policy` is being made, or `None` if it is made on its own.

    Stable-Baselines3 tells a policy nothing about its algorithm, yet some settings of the algorithm make nonsense of
    discrete actions: a negative target entropy, noise added to one-hots. It is found among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, BaseAlgorithm) and frame.f_code.co_name == "_setup_model":
            return owner if owner.policy_class is type(policy) else None
        frame = frame.f_back
    return None


def check_kind(policy: BasePolicy, algorithm: BaseAlgorithm | None, expected: type[OffPolicyAlgorithm]) -> None:
    """Refuse Stable-Baselines3's algorithms that ask a policy for other things; others may ask for the same ones."""
    remedies: dict[type[BaseAlgorithm], str] = {
        SAC: "GumbelSACPolicy",
        TD3: "GumbelTD3Policy",
        OnPolicyAlgorithm: "GumbelActorCriticPolicy, and leave OneHotActions out",
    }
    for kind, remedy in remedies.items():
        if isinstance(algorithm, kind) and not isinstance(algorithm, expected):
            raise TypeError(
                f"{type(policy).__name__} is not for {type(algorithm).__name__}; give that algorithm {remedy}"
            )


def warn(message: str) -> None:
    """Warn the user at the line outside of this library and of Stable-Baselines3 that is to blame."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("gumbel_rl", "stable_baselines3"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def warn_of_temperature(temperature: Schedule, estimator: Estimator) -> None:
    """Warn of a temperature other than the default one, 1, that the estimator makes no use of."""
    if not estimator.has_temperature and temperature != Constant(1.0):
        warn(f"the temperature {temperature} changes nothing: {type(estimator).__name__} has none")
