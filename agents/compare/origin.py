"""Where results come from: the command that repeats a run, versions, and machines."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import version
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


def merged(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What several mappings say of each key; where they differ, all of it as a text."""
    found: dict[str, list[Any]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return {key: values[0] if len(values) == 1 else ", ".join(map(str, values)) for key, values in found.items()}


def libraries() -> dict[str, str]:
    """Versions of what summarises runs."""
    return {name: version(name) for name in LIBRARIES}
