"""Where results come from: the command that repeats a run, versions, and the machine."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from agents.config import RunConfig, resolve

# Used for the summary, beside what runs record themselves.
LIBRARIES = ("rliable", "lifelines", "joblib", "scipy")
# Set by the comparison, without a bearing on what is learnt.
NOT_SHOWN = ("checkpoint_every", "env", "agent", "timesteps", "eval_every", "seed", "threshold")


def train_command(config: RunConfig) -> str:
    """The command that repeats a run."""
    words = ["python", "train_agent.py", "--env", config.env, "--agent", config.agent]
    words += ["--timesteps", str(config.timesteps), "--eval-every", str(config.eval_every)]
    shipped = resolve({"env": config.env, "agent": config.agent}).to_mapping()
    for key, value in config.to_mapping().items():
        if value != shipped[key] and key not in NOT_SHOWN:
            words += ["--set", f"{key}={_yaml(value)}"]
    return shlex.join([*words, "--seed", str(config.seed)])


def _yaml(value: Any) -> str:
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10**6))
    return text.strip().removesuffix("...").strip()


def versions(told: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Versions of what runs were made with, all of them where they differ, and of what summarises them."""
    found: dict[str, set[str]] = {}
    for run in told:
        for name, number in run.items():
            found.setdefault(name, set()).add(number)
    return {name: ", ".join(sorted(numbers)) for name, numbers in found.items()} | {
        name: version(name) for name in LIBRARIES
    }


def hardware() -> dict[str, Any]:
    """This machine, and its load of the last minute."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
