"""Where the keys of a run come from, and what is refused."""

from __future__ import annotations

import inspect
from dataclasses import fields

import gymnasium as gym
import pytest
import yaml
from torch import nn

from agents.config import CONFIGS, RunConfig, parse_assignments, read_mapping, resolve
from agents.errors import UserError
from agents.lineup import LINEUP, default
from gumbel_rl.algorithms.base import ProgressSchedule

OWN = ("gumbel-ac", "gumbel-sac", "reinforce")
PEERS = ("ppo", "a2c", "dqn", "qrdqn", "maskable-ppo")


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.fixture
def configs(tmp_path):
    """A directory of configurations that differ from the classes' defaults in every key used here."""
    blocks = {
        "default": {"gamma": 0.1, "n_steps": 11, "timesteps": 111, "n_envs": 1},
        "CartPole-v1": {"n_steps": 22, "timesteps": 222, "n_envs": 2},
    }
    write(tmp_path / "gumbel-ac.yaml", blocks)
    return tmp_path


def test_precedence(configs, tmp_path):
    file = write(tmp_path / "file.yaml", {"timesteps": 333, "n_envs": 3})
    config = resolve({"n_envs": 4}, file, configs)
    assert config.n_envs == 4  # the command line
    assert config.timesteps == 333  # --config
    assert config.hyperparameters.n_steps == 22  # the environment's block
    assert config.hyperparameters.gamma == 0.1  # the default block
    assert config.hyperparameters.n_epochs == default(
        next(entry for entry in fields(LINEUP["gumbel-ac"]) if entry.name == "n_epochs")
    )  # the class


def test_block_is_chosen_by_the_environment(configs):
    assert resolve({"env": "Acrobot-v1"}, configs=configs).timesteps == 111
    assert resolve({"env": "my.module:CartPole-v1"}, configs=configs).timesteps == 222


def test_agent_and_environment_may_come_from_the_file(tmp_path):
    file = write(tmp_path / "file.yaml", {"agent": "ppo", "env": "Acrobot-v1"})
    assert resolve({}, file).agent == "ppo"
    assert resolve({}, file).env == "Acrobot-v1"
    assert resolve({"agent": "a2c"}, file).agent == "a2c"


def test_intervals_follow_the_length_of_the_run():
    config = resolve({"timesteps": 1001})
    assert (config.eval_every, config.checkpoint_every) == (51, 101)
    assert resolve({"eval_every": 7}).eval_every == 7


@pytest.mark.parametrize("agent", LINEUP)
def test_a_resolved_configuration_resolves_to_itself(agent, tmp_path):
    config = resolve({"agent": agent, "env": "Acrobot-v1", "seed": 3, "policy_kwargs": {"ortho_init": False}})
    file = write(tmp_path / "config.yaml", config.to_mapping())
    assert resolve({}, file, configs=tmp_path / "none") == config


@pytest.mark.parametrize("agent", LINEUP)
def test_every_block_of_the_configurations_resolves(agent):
    for block in read_mapping(CONFIGS / f"{agent}.yaml"):
        resolve({"agent": agent, "env": block})


@pytest.mark.parametrize("agent", OWN)
def test_every_discrete_environment_of_gymnasium_has_a_block(agent):
    blocks = read_mapping(CONFIGS / f"{agent}.yaml")
    for env_id, spec in gym.registry.items():
        library = str(spec.entry_point).split(":")[0]
        if library.startswith(("gymnasium.envs.classic_control", "gymnasium.envs.toy_text")):
            # The classic control tasks that are left are those with continuous actions.
            assert env_id in blocks or env_id in ("Pendulum-v1", "MountainCarContinuous-v0"), env_id
    assert "LunarLander-v3" in blocks


@pytest.mark.parametrize("agent", LINEUP)
def test_defaults_are_the_algorithms(agent):
    # One truth in two places, so that help needs no torch: they must not drift apart.
    cls = LINEUP[agent]
    signature = inspect.signature(cls.algorithm()).parameters
    arguments = cls().arguments(timesteps=1000)
    policy_kwargs = arguments.pop("policy_kwargs")
    policy = inspect.signature(cls.algorithm().policy_aliases["MlpPolicy"]).parameters
    pairs = [(key, value, signature[key].default) for key, value in arguments.items()]
    for key, value, expected in [*pairs, *((key, value, policy[key].default) for key, value in policy_kwargs.items())]:
        if isinstance(value, ProgressSchedule):
            value = value(1.0)
        assert value == (expected if expected is not None or value is None else {}), key
    if agent in OWN:
        harness = {"policy", "env", "verbose", "seed", "device", "tensorboard_log", "_init_setup_model"}
        assert set(signature) - harness == {*arguments, "policy_kwargs"}


def test_networks_of_gumbel_sac_are_keys_of_its_own():
    keys = {"critic": "additive", "n_critics": 3, "layer_norm": True, "critic_kwargs": {}, "net_arch": [8, 6]}
    own = LINEUP["gumbel-sac"](**keys, activation="tanh").arguments(timesteps=1)
    assert own["policy_kwargs"] == {**keys, "activation_fn": nn.Tanh}
    assert not set(keys) & set(own)
    # What is given to the policy itself is nearer to it.
    given = LINEUP["gumbel-sac"](n_critics=3, policy_kwargs={"n_critics": 1}).arguments(timesteps=1)
    assert given["policy_kwargs"]["n_critics"] == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gradient_steps": -2}, "gradient_steps must be at least -1, got -2"),
        ({"tau": 0}, "tau must be above 0 and at most 1, got 0"),
        ({"train_freq": [1, "episode"]}, "train_freq must be a whole number, got [1, 'episode']"),
        ({"ent_coef": None}, "ent_coef must be a number or text, got None"),
        ({"twins": "max"}, "twins must be one of min, mean, action-min, got 'max'"),
        ({"q_clip": 0}, "q_clip must be above 0, got 0"),
        ({"target_entropy_ratio": [1]}, "target_entropy_ratio must be a number or a schedule such as"),
    ],
)
def test_refuses_a_value_of_gumbel_sac(keys, message):
    with pytest.raises(UserError) as caught:
        resolve({"agent": "gumbel-sac", **keys})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"n_step": 3}, "file.yaml: gumbel-ac has no key 'n_step' (did you mean 'n_steps'?)"),
        ({"n_steps": "few"}, "file.yaml: n_steps must be a whole number, got 'few'"),
        ({"seed": -1}, "file.yaml: seed must be between 0 and 100,000,000, got -1"),
        ({"env": None}, "file.yaml: env must be text, got None"),
        (
            {"agent": "pop"},
            f"unknown agent 'pop' (did you mean 'ppo'?); known are {', '.join(LINEUP)}",
        ),
        ("- 1\n- 2\n", "file.yaml must hold a mapping of keys to values, not list"),
        ("", "file.yaml must hold a mapping of keys to values, not NoneType"),
        ("a: [1\nb: 2\n", "file.yaml is not YAML: while parsing a flow sequence"),
    ],
)
def test_refuses_a_file(content, message, tmp_path):
    with pytest.raises(UserError) as caught:
        resolve({}, write(tmp_path / "file.yaml", content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in {"none": "No such file", ".": "Is a directory", "binary": "is not text"}.items():
        with pytest.raises(UserError, match=message):
            resolve({}, tmp_path / name)


def test_refuses_a_wrong_block(configs):
    write(configs / "gumbel-ac.yaml", {"default": 3})
    with pytest.raises(UserError, match="the block default must be a mapping, got 3"):
        resolve({}, configs=configs)
    write(configs / "gumbel-ac.yaml", {"default": {"gama": 3}})
    with pytest.raises(
        UserError, match=r"gumbel-ac.yaml: default: gumbel-ac has no key 'gama' \(did you mean 'gamma'\?\)"
    ):
        resolve({}, configs=configs)


def test_assignments():
    given = ["gamma=0.9", "net_arch=[8, 8]", "learning_rate=1e-3", "estimator_kwargs={samples: 2}", "threshold="]
    values = parse_assignments(given)
    assert values == {
        "gamma": 0.9,
        "net_arch": [8, 8],
        "learning_rate": "1e-3",
        "estimator_kwargs": {"samples": 2},
        "threshold": None,
    }
    assert resolve(values).hyperparameters.learning_rate == 0.001


@pytest.mark.parametrize("assignment", ["gamma", "=3", "gamma=[", " =1"])
def test_refuses_an_assignment(assignment):
    with pytest.raises(UserError, match="--set"):
        parse_assignments([assignment])


def test_every_key_is_documented():
    from docstring_parser import parse_from_object

    for cls in (RunConfig, *LINEUP.values()):
        documented = {param.arg_name for base in cls.__mro__[:-1] for param in parse_from_object(base).params}
        assert {entry.name for entry in fields(cls)} - {"hyperparameters"} <= documented, cls
