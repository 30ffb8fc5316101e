"""Seeds of environments: no two runs, and no two purposes within one, play the same episodes."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What episodes are played for."""

    TRAINING = 0
    PERIODIC = 1
    FINAL = 2


def episode_seed(purpose: Purpose, seed: int, part: int = 0) -> int:
    """Seed of the first of several environments, which take the seeds that follow.

    Counted from the runs' own seeds, those of neighbouring runs would be nearly the same: all would be evaluated on the
    same episodes, and the spread over runs would not show how much depends on these. Here they begin anywhere below
    `2**31`, where two rows of a hundred meet with probability 1e-7.

    Args:
        purpose: Of the episodes.
        seed: Of the run.
        part: Of a run: the number of a periodic evaluation, or the step at which a resumed run went on.
    """
    (start,) = np.random.SeedSequence((purpose, seed, part)).generate_state(1)
    return int(start) // 2
