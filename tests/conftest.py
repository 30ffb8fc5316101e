"""Settings of the whole test run, and what tests of several folders need."""

import multiprocessing
import os
from collections.abc import Iterator

import pytest

# The networks of the tests are tiny: one thread is as fast as two, and many times faster on a machine that is busy.
# Set before torch is imported, and in the environment, so that processes started by a test inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# A process of environments is forked from a server that has imported what it needs.
multiprocessing.get_context("forkserver").set_forkserver_preload(["envs.vector"])


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Tensors and networks that do not say otherwise are in float64."""
    import torch  # not before the setting above

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
