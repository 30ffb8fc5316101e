"""What the hyperparameters of all agents have in common, and how an algorithm is built from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from agents.conversion import Count
from agents.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from gymnasium import spaces
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv
    from torch import nn

# The names of torch.nn, in lower case.
ACTIVATIONS = {"elu": "ELU", "gelu": "GELU", "leaky_relu": "LeakyReLU", "relu": "ReLU", "silu": "SiLU", "tanh": "Tanh"}


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(ABC):
    """Base class: a field is a hyperparameter, and its docstring the help."""

    agent: ClassVar[str]
    action_spaces: ClassVar[tuple[str, ...]] = ("Discrete", "MultiDiscrete", "MultiBinary")
    proviso: ClassVar[str] = ""
    masks: ClassVar[bool] = False
    """Whether the policy respects a mask of allowed actions among the observations."""

    net_arch: list[int] | dict[str, list[int]] | None = None
    """Widths of the hidden layers, `[64, 64]`, or `{pi: [64], vf: [64]}` apart (`qf` off-policy); null for its own."""
    activation: str | None = None
    """Between the layers: elu, gelu, leaky_relu, relu, silu or tanh; null for the policy's own."""
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the policy class."""
    stats_window_size: Count = 100
    """Episodes averaged in `rollout/*`."""

    @classmethod
    @abstractmethod
    def algorithm(cls) -> type[BaseAlgorithm]:
        """The Stable-Baselines3 algorithm that learns; imported here, so that help needs no torch."""

    def build(self, policy: str, env: VecEnv, *, timesteps: int, seed: int, device: str) -> BaseAlgorithm:
        """The algorithm, ready to learn for a number of environment steps.

        Raises:
            UserError: The action space is not supported, or the algorithm refuses a value.
        """
        objection = self.objection(env)
        if objection is not None:
            raise UserError(objection)
        # Stable-Baselines3 states some of its requirements by assertions, or says that it does not implement a space.
        try:
            model = self.algorithm()(policy=policy, env=env, **self.arguments(timesteps), seed=seed, device=device)
        except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
            raise UserError(f"{self.agent}: {error}") from error
        # Saved with the model: a file does not tell otherwise which algorithm it is of.
        vars(model)["agent"] = self.agent
        return model

    def supports(self, space: spaces.Space[Any]) -> bool:
        """Whether the algorithm can act in this action space."""
        return type(space).__name__ in self.action_spaces

    def objection(self, env: VecEnv, name: str | None = None) -> str | None:
        """Why the algorithm cannot act in these environments, and what would help, or None if it can.

        Args:
            env: The environments.
            name: Their id, if it is to be named.
        """
        space = env.action_space
        if self.supports(space):
            return None
        # They make it MultiDiscrete.
        binnable = type(space).__name__ == "Box" and "MultiDiscrete" in self.action_spaces
        return (
            f"{self.agent} does not support the action space {space}{f' of {name}' if name else ''}; supported are "
            f"{', '.join(self.action_spaces)}{self.proviso}"
            f"{'; --bins 5 lets each dimension choose from 5 values' if binnable else ''}"
        )

    def arguments(self, timesteps: int) -> dict[str, Any]:
        """Keyword arguments of an algorithm that is to learn for a number of environment steps."""
        arguments = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        policy_kwargs = dict(arguments.pop("policy_kwargs"))
        net_arch, activation = arguments.pop("net_arch"), arguments.pop("activation")
        if net_arch is not None:
            policy_kwargs["net_arch"] = net_arch
        if activation is not None:
            policy_kwargs["activation_fn"] = _activation(activation)
        return {**arguments, "policy_kwargs": policy_kwargs}


def _activation(name: str) -> type[nn.Module]:
    from torch import nn

    if name not in ACTIVATIONS:
        near = did_you_mean(name, ACTIVATIONS)
        raise UserError(f"unknown activation {name!r}{near}; known are {', '.join(ACTIVATIONS)}")
    activation: type[nn.Module] = getattr(nn, ACTIVATIONS[name])
    return activation
