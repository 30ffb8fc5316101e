"""Where torch computes, and with how many threads."""

from __future__ import annotations

from dataclasses import replace

import torch
from stable_baselines3.common.vec_env import VecEnv

from agents.config import RunConfig
from agents.environments import has_images
from agents.errors import UserError


def prepare_torch(config: RunConfig, env: VecEnv) -> RunConfig:
    """Settle device and threads, by what the observations are, and set the threads.

    Raises:
        UserError: The device cannot be used.
    """
    images = has_images(env.observation_space)
    device = config.device
    if device == "auto":
        # Small networks are faster on the CPU.
        device = "cuda" if images and torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    threads = config.threads or (torch.get_num_threads() if images and device == "cpu" else 1)
    torch.set_num_threads(threads)
    return replace(config, device=device, threads=threads)
