"""Adaptive temperatures in the algorithms: where they settle, what is logged, saved and refused."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import pytest
import torch
from scripted import Memory
from stable_baselines3 import SAC

from envs import make_vec_env
from gumbel_rl import GumbelActorCritic, GumbelSAC
from gumbel_rl.adaptive import AdaptiveBias
from gumbel_rl.sb3 import GumbelSACPolicy, OneHotActions

OPTIONS: dict[type[Any], dict[str, Any]] = {
    GumbelActorCritic: {"n_steps": 8, "n_epochs": 1, "diagnostics_interval": 1},
    GumbelSAC: {
        "estimator": "st-gumbel-softmax",
        "learning_starts": 8,
        "batch_size": 32,
        "train_freq": 2,
        "gradient_steps": 1,
        "diagnostics_interval": 1,
    },
}
# Of ST-GS for two equal choices, where the slope has the mean E y (1 - y) / tau: its distance from 1/4, relative to it,
# is a third at temperature 1, and 0.2 at this one (by quadrature; see the tests of the library's `adaptive`).
ANSWER = 0.6418592


def make(cls: type[Any], sizes: tuple[int, ...] = (2,), **options: Any) -> Any:
    env = make_vec_env("gumbel_rl/FactoredBandit-v0", 4, env_kwargs={"sizes": sizes})
    networks = {"net_arch": [8]} | options.pop("policy_kwargs", {})
    return cls("MlpPolicy", env, seed=0, policy_kwargs=networks, **OPTIONS[cls] | options)


def undecided(model: Any) -> Any:
    """The same model with equal logits, which stay so if nothing is learnt."""
    with torch.no_grad():
        model.policy.actor[-1].weight.zero_()
        model.policy.actor[-1].bias.zero_()
    return model


@pytest.mark.parametrize(("cls", "steps"), [(GumbelActorCritic, 32), (GumbelSAC, 8)])
def test_it_settles_where_the_bias_is_the_target(cls: type[Any], steps: int) -> None:
    model = undecided(make(cls, temperature="adaptive-bias:0.2:0.8", learning_rate=0.0))
    memory = Memory.of(model)
    model.learn(60 * steps)
    temperatures = memory.values("train/temperature")
    assert temperatures[0] == pytest.approx(0.8)
    logs = [math.log(temperature) for temperature in temperatures[-40:]]
    # Minibatches of 32 states: a measurement leaves the log-temperature with a standard error of about 0.05, which the
    # gain of 0.2 averages over a few; the mean of 40 has 0.02. A miss of 0.12 is 6 of these: 2e-9.
    assert sum(logs) / len(logs) == pytest.approx(math.log(ANSWER), abs=0.12)


@pytest.mark.parametrize("cls", OPTIONS)
def test_every_step_follows_from_what_is_logged(cls: type[Any]) -> None:
    adaptive = AdaptiveBias(0.2, 0.7, gain=0.5, ceiling=1.0)
    model = make(cls, sizes=(3,), temperature=adaptive)
    memory = Memory.of(model)
    model.learn(320)
    rows = [row for row in memory.rows if "grad/bias" in row]
    temperatures = [row["train/temperature"] for row in rows]
    assert len(rows) >= 8
    expected = [0.7]
    for row in rows[:-1]:
        expected.append(adaptive.adapted(row["train/temperature"], row["grad/bias"]))
    assert temperatures == pytest.approx(expected, rel=1e-5)
    assert len(set(temperatures)) > 5


@pytest.mark.parametrize("cls", OPTIONS)
def test_it_moves_at_measurements_alone(cls: type[Any]) -> None:
    model = make(cls, temperature="adaptive-bias:0.1", diagnostics_interval=3)
    memory = Memory.of(model)
    model.learn(320)
    temperatures = [row["train/temperature"] for row in memory.rows if "train/temperature" in row]
    changes = [i for i in range(1, len(temperatures)) if temperatures[i] != temperatures[i - 1]]
    assert changes
    assert {(i - 1) % 3 for i in changes} == {0}


@pytest.mark.parametrize("cls", OPTIONS)
def test_the_estimator_is_given_it(cls: type[Any]) -> None:
    model = make(cls, temperature="adaptive-zero-share:0.2:0.5").learn(160)
    estimator = model._estimator if cls is GumbelSAC else model.estimator
    assert estimator.temperature < 0.5  # hardly any gradient is zero there
    # Adapted once more since.
    assert float(model.policy.temperature) < estimator.temperature


def test_the_share_of_zeros_needs_no_exact_gradient() -> None:
    options = {"sizes": (5, 5, 5), "policy_kwargs": {"critic": "mlp"}}
    model = make(GumbelSAC, temperature="adaptive-zero-share:0.1", **options)
    assert model._exact is None
    memory = Memory.of(model)
    model.learn(80)
    rows = [row for row in memory.rows if "train/zero_grad_frac" in row]
    assert len(rows) > 5
    assert not any("grad/bias" in row for row in rows)
    assert rows[-1]["train/temperature"] < rows[0]["train/temperature"] == 1.0
    # Nobody else pays for it.
    memory = Memory.of(plain := make(GumbelSAC, **options))
    plain.learn(80)
    assert not any("train/zero_grad_frac" in row for row in memory.rows)


@pytest.mark.parametrize("cls", OPTIONS)
def test_it_goes_on_where_it_stopped(cls: type[Any], tmp_path: Any) -> None:
    model = make(cls, temperature="adaptive-bias:0.1").learn(160)
    reached = float(model.policy.temperature)
    assert reached < 0.9
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=model.get_env())
    assert loaded.temperature == AdaptiveBias(0.1)
    assert float(loaded.policy.temperature) == reached
    memory = Memory.of(loaded)
    loaded.learn(64, reset_num_timesteps=False)
    assert memory.values("train/temperature")[0] == pytest.approx(reached)
    # Other limits bind at once.
    narrow = cls.load(
        tmp_path / "model", env=model.get_env(), temperature="adaptive-bias:0.1:0.05:floor=0.05:ceiling=0.06"
    )
    memory = Memory.of(narrow)
    narrow.learn(64, reset_num_timesteps=False)
    assert memory.values("train/temperature")[0] == pytest.approx(0.06)


def test_one_seed_gives_one_run() -> None:
    one, other = (float(make(GumbelSAC, temperature="adaptive-bias:0.1").learn(80).policy.temperature) for _ in "ab")
    assert one == other


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (GumbelActorCritic, {"estimator": "exact"}, "needs an estimator with a temperature, and Exact has none"),
        (GumbelSAC, {"estimator": "zgr"}, "needs an estimator with a temperature, and Zgr has none"),
        (GumbelActorCritic, {"diagnostics_interval": 0}, "diagnostics_interval=0 makes none"),
        (GumbelSAC, {"diagnostics_interval": 0}, "diagnostics_interval=0 makes none"),
        (GumbelSAC, {"sizes": (5, 5, 5), "policy_kwargs": {"critic": "mlp"}}, "needs the exact gradient"),
        (GumbelActorCritic, {"temperature": "adaptive-bias:2"}, "target must be above 0 and below 1"),
        (GumbelActorCritic, {"learning_rate": "adaptive-bias:0.1"}, "nothing but a temperature can"),
        (GumbelSAC, {"target_entropy_ratio": "adaptive-bias:0.1"}, "nothing but a temperature can"),
    ],
)
def test_what_is_refused_and_why(cls: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(cls, **{"temperature": "adaptive-bias:0.2"} | options)
    assert "\n" not in str(error.value)


def test_plug_ins_refuse_it() -> None:
    env = OneHotActions(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="GumbelSAC and GumbelActorCritic measure"):
        SAC(GumbelSACPolicy, env, policy_kwargs={"temperature": "adaptive-bias:0.2"})
