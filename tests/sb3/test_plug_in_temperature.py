"""The temperature of the off-policy plug-ins: annealed on environment steps, saved, restored, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from gumbel_rl import FactoredCategorical
from gumbel_rl.sb3 import GumbelSACPolicy, GumbelTD3Policy, OneHotActions, TemperatureCallback
from gumbel_rl.sb3.policy_output import attached_output

ALGORITHMS = pytest.mark.parametrize("cls", [SAC, TD3, DDPG])


def make_env(n_envs: int = 1) -> Any:
    return make_vec_env("CartPole-v1", n_envs, seed=0, wrapper_class=OneHotActions)


def make(
    cls: Any = SAC,
    temperature: Any = "linear:1:0.5:100",
    n_envs: int = 1,
    estimator: str = "st-gumbel-softmax",
    **options: Any,
) -> Any:
    settings: dict[str, Any] = {"buffer_size": 300, "learning_starts": 10, "batch_size": 8, "gradient_steps": 1}
    settings |= {"train_freq": 5, "seed": 0} | options
    if cls is SAC:
        settings["target_entropy"] = 0.2
    if cls is TD3:
        settings["target_policy_noise"] = 0.0
    kwargs = {"net_arch": [4], "temperature": temperature, "estimator": estimator}
    return cls(GumbelSACPolicy if cls is SAC else GumbelTD3Policy, make_env(n_envs), policy_kwargs=kwargs, **settings)


def temperatures(model: Any) -> set[float]:
    """Wherever a temperature is held: the buffer, the policy's estimator, and that of each actor."""
    actors = [model.actor, *([model.actor_target] if hasattr(model, "actor_target") else [])]
    estimators = [model.policy.estimator, *(actor.estimator for actor in actors)]
    return {round(float(model.policy.temperature), 12), *(round(e.temperature, 12) for e in estimators)}


class Watch(BaseCallback):
    """Remembers the temperature after each step, with the number of environment steps done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []
        self.logged: list[Any] = []

    def _on_step(self) -> bool:
        policy: Any = self.model.policy
        self.seen.append((self.num_timesteps, policy.estimator.temperature))
        self.logged.append(self.logger.name_to_value.get("train/temperature"))
        return True


@pytest.mark.parametrize("n_envs", [1, 3])
@ALGORITHMS
def test_it_is_annealed_on_environment_steps(cls: Any, n_envs: int) -> None:
    watch = Watch()
    model = make(cls, n_envs=n_envs).learn(120, callback=watch)
    assert [steps for steps, _ in watch.seen] == list(range(n_envs, 121, n_envs))  # the random steps count too
    for steps, temperature in watch.seen:
        assert temperature == pytest.approx(1 - 0.5 * min(steps / 100, 1))
    assert int(model.policy.env_steps) == model.num_timesteps == 120
    assert temperatures(model) == {0.5}


def test_the_gradient_is_taken_at_the_current_temperature() -> None:
    model = make().learn(60)
    obs = torch.zeros(1, 4)
    actions, _ = model.actor.action_log_prob(obs)
    output = attached_output(actions)
    assert output is not None
    leaf = output.dist.logits.detach().requires_grad_()
    weight = torch.tensor([1.0, -1.0])
    for temperature, same in ((0.7, True), (1.0, False)):
        dist = FactoredCategorical(leaf, model.policy.factors)
        relaxed = dist.rsample(temperature=temperature, hard=True, noise=output.noise[0])
        (expected,) = torch.autograd.grad((weight * relaxed).sum(), leaf)
        (actual,) = torch.autograd.grad((weight * actions / 2).sum(), output.dist.logits, retain_graph=True)
        assert torch.allclose(actual, expected) == same


@ALGORITHMS
def test_it_is_saved_and_goes_on_where_it_stopped(cls: Any, tmp_path: Path) -> None:
    model = make(cls).learn(40)
    assert temperatures(model) == {0.8}
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")

    loaded = cls.load(tmp_path / "model", env=make_env())
    assert temperatures(loaded) == {0.8}
    assert int(loaded.policy.env_steps) == 40
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 60
    assert temperatures(loaded) == {0.7}

    alone = type(model.policy).load(tmp_path / "policy")
    assert alone.estimator.temperature == pytest.approx(0.8)
    assert alone.actor.estimator.temperature == pytest.approx(0.8)
    assert int(alone.env_steps) == 40

    fresh = make(cls)
    assert temperatures(fresh) == {1.0}
    fresh.set_parameters(model.get_parameters())
    assert temperatures(fresh) == {0.8}
    fresh.learn(20)
    assert temperatures(fresh) == {0.7}


@ALGORITHMS
def test_learning_again_does_not_start_the_schedule_again(cls: Any) -> None:
    model = make(cls).learn(40)
    model.learn(20)
    assert model.num_timesteps == 20
    assert int(model.policy.env_steps) == 60
    assert temperatures(model) == {0.7}


def test_acting_and_evaluating_do_not_anneal() -> None:
    model = make().learn(40)
    for deterministic in (False, True):
        model.predict(model.get_env().reset(), deterministic=deterministic)
    assert int(model.policy.env_steps) == 40


@pytest.mark.parametrize("temperature", [0.7, "constant:0.7", "exponential:1:0.1:50:floor=0.7"])
def test_numbers_and_floors(temperature: Any) -> None:
    model = make(temperature=temperature)
    start = {1.0} if str(temperature).startswith("exp") else {0.7}
    assert temperatures(model) == start
    assert temperatures(model.learn(60)) == {0.7}


def test_td3s_target_actor_has_no_temperature_of_its_own() -> None:
    model = make(TD3, policy_delay=1)
    assert model.actor_target.estimator is model.actor.estimator is model.policy.estimator
    assert temperatures(model.learn(50)) == {0.75}
    assert not [name for name in model.actor_target.state_dict() if "temperature" in name]


# TemperatureCallback


@ALGORITHMS
def test_the_callback_alone_logs_what_the_policy_does(cls: Any) -> None:
    watch = Watch()
    model = make(cls).learn(50, callback=[TemperatureCallback(), watch])
    assert watch.logged == pytest.approx([temperature for _, temperature in watch.seen])
    assert watch.logged[-1] == pytest.approx(0.75)
    assert temperatures(model) == {0.75}


@pytest.mark.parametrize("n_envs", [1, 3])
@ALGORITHMS
def test_an_open_schedule_of_the_callback_spans_the_run(cls: Any, n_envs: int) -> None:
    watch = Watch()
    model = make(cls, 0.9, n_envs).learn(60, callback=[TemperatureCallback("linear:1:0.4"), watch])
    for steps, temperature in watch.seen:
        assert temperature == pytest.approx(1 - 0.6 * steps / 60)
    assert watch.logged == pytest.approx([temperature for _, temperature in watch.seen])
    assert temperatures(model) == {0.4}


def test_a_schedule_of_the_callback_with_a_length_keeps_it() -> None:
    model = make(SAC, 0.9).learn(60, callback=TemperatureCallback("linear:1:0.4:120"))
    assert temperatures(model) == {0.7}


def test_a_resumed_run_goes_on_with_the_callbacks_schedule(tmp_path: Path) -> None:
    model = make(SAC, 0.9).learn(60, callback=TemperatureCallback("linear:1:0.4:120"))
    model.save(tmp_path / "model")
    watch = Watch()
    resumed = SAC.load(tmp_path / "model", env=make_env())
    assert temperatures(resumed) == {0.7}
    resumed.learn(60, reset_num_timesteps=False, callback=[TemperatureCallback("linear:1:0.4:120"), watch])
    assert watch.seen[0] == (61, pytest.approx(1 - 0.6 * 61 / 120))
    assert temperatures(resumed) == {0.4}
    # Without the callback a constant temperature stays where it stopped; an open schedule spans all steps, old and new.
    other = SAC.load(tmp_path / "model", env=make_env()).learn(10, reset_num_timesteps=False)
    assert temperatures(other) == {0.7}
    other = SAC.load(tmp_path / "model", env=make_env())
    other.learn(60, reset_num_timesteps=False, callback=[TemperatureCallback("linear:1:0.4"), watch := Watch()])
    assert watch.seen[0] == (61, pytest.approx(1 - 0.6 * 61 / 120))
    assert temperatures(other) == {0.4}


def test_the_callback_counts_as_the_algorithm_does() -> None:
    model = make(SAC, 0.9).learn(40)
    model.learn(60, callback=[TemperatureCallback("linear:1:0.4"), watch := Watch()])  # from 0 again
    for steps, temperature in watch.seen:
        assert temperature == pytest.approx(1 - 0.6 * steps / 60)
    assert int(model.policy.env_steps) == model.num_timesteps == 60


@ALGORITHMS
def test_one_that_changes_nothing_is_warned_of(cls: Any) -> None:
    with pytest.warns(UserWarning, match="changes nothing: Zgr has none") as made:
        make(cls, estimator="zgr", temperature=0.5)
    assert [warning.filename for warning in made] == [__file__]
    model = make(cls, estimator="zgr", temperature=1.0)
    with pytest.warns(UserWarning, match="changes nothing: Zgr has none"):
        model.learn(1, callback=TemperatureCallback("linear:1:0.5"))


def test_the_callback_refuses_what_has_no_temperature() -> None:
    model = SAC("MlpPolicy", gym.make("Pendulum-v1"), buffer_size=100)
    with pytest.raises(
        TypeError, match=r"TemperatureCallback is for .* got SAC with a SACPolicy, which follows no grad"
    ):
        model.learn(10, callback=TemperatureCallback())


@pytest.mark.parametrize(
    ("schedule", "message"),
    [("linear:1:0", "must stay above 0"), ("linaer:1:0.5", "is not understood"), (-1, "above 0")],
)
def test_the_callback_refuses_bad_schedules(schedule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemperatureCallback(schedule)
