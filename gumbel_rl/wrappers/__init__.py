"""Gymnasium wrappers: discrete actions as one-hots, continuous ones in bins, and action masks as observations."""

from __future__ import annotations

from gumbel_rl.wrappers.discretize import ActionGrid, Bins, DiscretizeActions, DiscretizeVectorActions
from gumbel_rl.wrappers.masks import MASK_KEY, ActionMaskObservation, check_mask
from gumbel_rl.wrappers.one_hot import OneHotActions, OneHotBox

__all__ = [
    "MASK_KEY",
    "ActionGrid",
    "ActionMaskObservation",
    "Bins",
    "DiscretizeActions",
    "DiscretizeVectorActions",
    "OneHotActions",
    "OneHotBox",
    "check_mask",
]
