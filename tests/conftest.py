"""Settings of the whole test run."""

import os

# The networks of the tests are tiny: one thread is as fast as two, and many times faster on a machine that is busy.
# Set before torch is imported, and in the environment, so that processes started by a test inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
