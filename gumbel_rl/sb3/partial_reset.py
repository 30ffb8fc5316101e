"""Reset some of the sub-environments of a Gymnasium `VectorEnv` at once, and leave the others alone.

Engines with `AutoresetMode.DISABLED` can do it by Gymnasium's interface (`reset_mask`). Those with `NEXT_STEP` reset a
finished sub-environment in its next step, which ignores the action and returns reward 0: no transition, and nothing to
learn from. The interface has no way round that step; some engines have one nevertheless, which is registered here.

Shapes: `n` sub-environments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
PartialReset = Callable[[Any, Mask], tuple[Any, dict[str, Any]]]
"""Resets the sub-environments of an engine where a mask `[n]` is true. Returns observations `[n, ...]`, of which only
those under the mask are read, and infos."""

_Function = TypeVar("_Function", bound=PartialReset)

_PARTIAL_RESETS: dict[type[Any], PartialReset] = {}


def register_partial_reset(engine_class: type[Any]) -> Callable[[_Function], _Function]:
    """Decorator: how to reset some of the sub-environments of a `NEXT_STEP` engine, and of its subclasses.

    The function must also clear whatever would make the engine reset these sub-environments in its next step.
    """

    def register(function: _Function) -> _Function:
        _PARTIAL_RESETS[engine_class] = function
        return function

    return register


@register_partial_reset(SyncVectorEnv)
@register_partial_reset(AsyncVectorEnv)
def _reset_by_mask(engine: VectorEnv[Any, Any, Any], mask: Mask) -> tuple[Any, dict[str, Any]]:
    return engine.reset(options={"reset_mask": mask.copy()})


@register_partial_reset(CartPoleVectorEnv)
def _reset_cart_poles(engine: Any, mask: Mask) -> tuple[Any, dict[str, Any]]:
    # Its `reset` does not read `reset_mask` and would reset every pole; the state's columns are the poles.
    engine.state[:, mask] = engine.np_random.uniform(engine.low, engine.high, size=(4, np.count_nonzero(mask)))
    engine.steps[mask] = 0
    engine.prev_done[mask] = False
    return engine.state.T, {}


def find_partial_reset(engine: VectorEnv[Any, Any, Any]) -> PartialReset | None:
    """How to reset some of the sub-environments of `engine`; None if it resets within the step and need not be asked.

    Raises:
        TypeError: The engine does not say how it resets, or there is no way to keep its reset steps from the learner.
    """
    base = engine.unwrapped
    name = type(base).__name__
    try:
        mode = AutoresetMode(engine.metadata.get("autoreset_mode"))
    except ValueError:
        raise TypeError(
            f"{name} does not say how it resets: its metadata['autoreset_mode'] must be an AutoresetMode, "
            f"not {engine.metadata.get('autoreset_mode')!r}"
        ) from None
    if mode is AutoresetMode.SAME_STEP:
        return None
    if mode is AutoresetMode.DISABLED:
        return _reset_by_mask
    function = next((_PARTIAL_RESETS[cls] for cls in type(base).__mro__ if cls in _PARTIAL_RESETS), None)
    remedy = "use AutoresetMode.SAME_STEP or AutoresetMode.DISABLED"
    if function is None:
        raise TypeError(
            f"{name} resets in the next step (AutoresetMode.NEXT_STEP), which would be learnt from as if it were a "
            f"transition, and has no known partial reset: {remedy}, or gumbel_rl.sb3.register_partial_reset({name})"
        )
    if isinstance(base, AsyncVectorEnv) and not base.shared_memory:
        # Its workers forget a pending reset only on the path that writes to shared memory (Gymnasium 1.4).
        raise TypeError(f"{name} with shared_memory=False resets twice in AutoresetMode.NEXT_STEP: {remedy}")
    if function is not _reset_by_mask and base is not engine:
        raise TypeError(
            f"{name} is reset in part behind the back of its wrapper {type(engine).__name__}: adapt {name} itself, and "
            "put Stable-Baselines3's VecEnvWrappers around the adapter"
        )
    return function
