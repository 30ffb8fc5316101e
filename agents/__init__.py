"""The workbench: agents by id, and what one does with them: train, evaluate, record.

An agent is an algorithm bound to hyperparameters and a name. Everything here is run from a clone; the
library is `gumbel_rl`.
"""
