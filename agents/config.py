"""The configuration of a run: from the command line, a file, `configs/<agent>.yaml` and the classes' defaults."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import yaml

from agents.conversion import Count, Natural, Range, convert
from agents.errors import UserError, did_you_mean
from agents.hyperparameters import Hyperparameters
from agents.lineup import find_agent

# The same values, several times as fast, where PyYAML was built with it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run. Its keys are the fields of this class, except the last, and those of the last."""

    agent: str = "gumbel-ac"
    """Id in the line-up."""
    env: str = "CartPole-v1"
    """Id in Gymnasium's registry, or `module:Id-v0`."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, `max_episode_steps` among them."""
    bins: int | list[int | list[float]] | None = None
    """Values each dimension of a Box action may take, which makes it MultiDiscrete: how many, for all or in a list with
    an entry for each dimension, a number or the values themselves; null to leave the actions alone."""
    engine: str = "auto"
    """How sub-environments are run: auto, vector, dummy or subproc."""
    n_envs: Count = 8
    """Environments stepped together."""
    timesteps: Count = 100_000
    """Environment steps of the run, all environments together."""
    seed: Annotated[int, Range(0, 10**8)] = 0
    """Of the environments, the networks and the actions."""
    device: str = "auto"
    """Torch device; `auto` is a GPU for images, if there is one, and else the CPU."""
    threads: Count | None = None
    """Threads of torch; null for 1, or for torch's own default with images on the CPU."""
    normalize: bool = False
    """Standardise observations by their running mean and variance."""
    normalize_reward: bool = False
    """Scale rewards by the running deviation of the return, in training."""
    threshold: float | None = None
    """Return that counts as solved; null for the environment's own."""
    eval_every: Natural
    """Steps between periodic evaluations, 0 for none; a twentieth of the run unless given."""
    periodic_episodes: Count = 20
    """Episodes of a periodic evaluation; below 20 none counts as having reached the threshold."""
    eval_episodes: Count = 100
    """Episodes of the final evaluation."""
    checkpoint_every: Natural
    """Steps between checkpoints, 0 for none; a tenth of the run unless given."""
    hyperparameters: Hyperparameters

    def to_mapping(self) -> dict[str, Any]:
        """All keys with their values; `resolve` makes the same configuration of them."""
        mapping = asdict(self)
        hyperparameters = mapping.pop("hyperparameters")
        return {**mapping, **hyperparameters}

    @property
    def estimator(self) -> str | None:
        """The agent's gradient estimator, if it has one."""
        return getattr(self.hyperparameters, "estimator", None)


# Runs whose results are reported take seeds below, those that choose hyperparameters seeds from here on: nothing is
# reported on the episodes it was tuned on.
TUNING_SEEDS = 10**7


class Layer(NamedTuple):
    """Keys and values from one place; `source` names it in messages."""

    source: str
    values: Mapping[str, Any]


def resolve(command_line: Mapping[str, Any], file: Path | None = None, configs: Path = CONFIGS) -> RunConfig:
    """The configuration of a run.

    Args:
        command_line: Keys given there, which win.
        file: A YAML mapping of keys, which comes next.
        configs: Directory of `<agent>.yaml`, whose block for the environment comes next, then its `default` block. The
            classes' own defaults come last.

    Raises:
        UserError: A file cannot be read, or a key or value is wrong.
    """
    layers = [Layer("", command_line)]
    if file is not None:
        layers.append(Layer(f"{file}: ", read_mapping(file)))
    agent = _first("agent", layers, RunConfig.agent)
    env = _first("env", layers, RunConfig.env)
    hyperparameters = find_agent(agent)
    layers += _blocks(configs / f"{agent}.yaml", env)

    run_hints = get_type_hints(RunConfig, include_extras=True)
    del run_hints["hyperparameters"]
    hints = {key: run_hints[key] for key in run_hints} | {
        entry.name: get_type_hints(hyperparameters, include_extras=True)[entry.name]
        for entry in fields(hyperparameters)
    }
    values: dict[str, Any] = {}
    for source, given in reversed(layers):
        for key, value in given.items():
            if key not in hints:
                raise UserError(f"{source}{agent} has no key {key!r}{did_you_mean(str(key), hints)}")
            try:
                values[key] = convert(value, hints[key])
            except ValueError as error:
                raise UserError(f"{source}{key} {error}") from None
    timesteps = values.setdefault("timesteps", RunConfig.timesteps)
    values.setdefault("eval_every", math.ceil(timesteps / 20))
    values.setdefault("checkpoint_every", math.ceil(timesteps / 10))
    own = hyperparameters(**{key: value for key, value in values.items() if key not in run_hints})
    return RunConfig(**{key: value for key, value in values.items() if key in run_hints}, hyperparameters=own)


def _first(key: str, layers: Iterable[Layer], default: str) -> str:
    for source, values in layers:
        if key in values:
            if not isinstance(values[key], str):
                raise UserError(f"{source}{key} must be text, got {values[key]!r}")
            return str(values[key])
    return default


def _blocks(path: Path, env: str) -> list[Layer]:
    if not path.exists():
        return []
    blocks = read_mapping(path)
    chosen = [name for name in (env, env.rpartition(":")[2], "default") if name in blocks]
    for name in chosen:
        if not isinstance(blocks[name], Mapping):
            raise UserError(f"{path}: the block {name} must be a mapping, got {blocks[name]!r}")
    return [Layer(f"{path}: {name}: ", blocks[name]) for name in dict.fromkeys(chosen)]


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: It cannot be read, is not YAML, or holds something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, not {type(content).__name__}")
    return content


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`key=value` texts, the values being YAML, as a mapping.

    Raises:
        UserError: One is not written so.
    """
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not (key.strip() and equals):
            raise UserError(f"--set {assignment!r} must be written key=value, for example --set gamma=0.99")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment!r}: the value is not YAML: {error}") from error
    return values
