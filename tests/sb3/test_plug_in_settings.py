"""Settings that cannot work with discrete actions are refused or repaired, with the reason and the remedy."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from gumbel_rl import make_estimator
from gumbel_rl.estimators import Exact
from gumbel_rl.sb3 import GumbelSACPolicy, GumbelTD3Policy, OneHotActions, sac_defaults

SMALL: dict[str, Any] = {"buffer_size": 100}
POLICIES = {SAC: GumbelSACPolicy, TD3: GumbelTD3Policy, DDPG: GumbelTD3Policy}


class Constant(gym.Env[Any, Any]):
    """An environment of any spaces, whose observation says nothing."""

    def __init__(self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] | None = None) -> None:
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def make_env(action_space: spaces.Space[Any] | None = None, **options: Any) -> OneHotActions:
    return OneHotActions(Constant(action_space or spaces.MultiDiscrete([2, 3]), **options))


def make(cls: Any, env: Any = None, **options: Any) -> Any:
    if cls is SAC:
        options = {"target_entropy": 0.5} | options
    if cls is TD3:
        options = {"target_policy_noise": 0.0} | options
    return cls(POLICIES[cls], env or make_env(), **SMALL, **options)


ALGORITHMS = pytest.mark.parametrize("cls", [SAC, TD3, DDPG])


# The target entropy


def test_an_automatic_target_entropy_is_repaired_with_one_warning_at_the_users_line() -> None:
    env = make_env()
    frame = inspect.currentframe()
    assert frame is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SAC(GumbelSACPolicy, env, **SMALL)
        line = frame.f_lineno - 1
    mine = [warning for warning in caught if "target_entropy" in str(warning.message)]
    assert len(mine) == 1
    assert (mine[0].filename, mine[0].lineno) == (__file__, line)
    text = str(mine[0].message)
    assert "target_entropy='auto' is -5 here" in text
    assert "0.269 is used instead, 0.15 of the maximum" in text
    assert model.target_entropy == pytest.approx(0.15 * np.log(6))
    assert isinstance(model.target_entropy, float)
    assert model.actor.target_entropy_ratio == pytest.approx(0.15)


def test_a_repaired_model_loads_without_another_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="target_entropy='auto'"):
        model = SAC(GumbelSACPolicy, make_env(), **SMALL)
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = SAC.load(tmp_path / "model", env=make_env())
    assert loaded.target_entropy == model.target_entropy
    assert loaded.actor.target_entropy_ratio == pytest.approx(0.15)


def test_an_automatic_target_that_nothing_uses_is_no_reason_to_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SAC(GumbelSACPolicy, make_env(), ent_coef=0.1, **SMALL)
        SAC(GumbelSACPolicy, make_env(), **sac_defaults(make_env(), **SMALL))


@pytest.mark.parametrize("target", [-5.0, -0.01, 1.8, float("nan")])
def test_a_target_entropy_out_of_reach_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=r"out of reach: the entropy .* \(2, 3\) lies between 0 and 1.792 nats"):
        make(SAC, target_entropy=target)
    make(SAC, target_entropy=target, ent_coef=0.1)  # no one asks for it


@pytest.mark.parametrize("target", [0.0, 0.5, float(np.log(6))])
def test_every_entropy_that_can_be_reached_is_a_target(target: float) -> None:
    assert make(SAC, target_entropy=target).actor.target_entropy_ratio == pytest.approx(target / np.log(6))


def test_a_single_action_has_no_entropy_to_share() -> None:
    env = make_env(spaces.Discrete(1))
    model = SAC(GumbelSACPolicy, env, **sac_defaults(env, **SMALL, learning_starts=5, batch_size=4)).learn(10)
    assert model.actor.target_entropy_ratio == 0.0
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in model.policy.parameters())


def test_sac_defaults() -> None:
    env = make_env()
    assert sac_defaults(env)["target_entropy"] == pytest.approx(0.15 * np.log(6))
    assert sac_defaults(env, 0.5)["target_entropy"] == pytest.approx(0.5 * np.log(6))
    vec_env = make_vec_env(lambda: Constant(spaces.Discrete(4)), 2, wrapper_class=OneHotActions)
    assert sac_defaults(vec_env, 1.0)["target_entropy"] == pytest.approx(np.log(4))
    changed = sac_defaults(env, learning_rate=5.0, train_freq=7)
    assert changed["learning_rate"] == 5.0
    assert changed["train_freq"] == 7
    # Stable-Baselines3 writes into the policy_kwargs it is given: they must not be shared.
    assert sac_defaults(env)["policy_kwargs"] is not sac_defaults(env)["policy_kwargs"]
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share of the maximum, between 0 and 1"):
            sac_defaults(env, ratio)
    with pytest.raises(TypeError, match=r"got the action space Discrete\(2\); wrap it.*OneHotActions\(env\)"):
        sac_defaults(gym.make("CartPole-v1"))


# Noise


@ALGORITHMS
def test_action_noise_is_refused(cls: Any) -> None:
    noise = NormalActionNoise(np.zeros(5), 0.1 * np.ones(5))
    with pytest.raises(ValueError, match=r"action_noise=NormalActionNoise.*leave it out, this policy explores"):
        make(cls, action_noise=noise)


def test_noise_on_target_actions_is_refused_for_td3_and_fine_for_ddpg() -> None:
    with pytest.raises(ValueError, match=r"target_policy_noise=0.2: .* pass target_policy_noise=0$"):
        TD3(GumbelTD3Policy, make_env(), **SMALL)
    make(TD3)
    TD3(GumbelTD3Policy, make_env(), target_noise_clip=0.0, **SMALL)
    DDPG(GumbelTD3Policy, make_env(), **SMALL)


def test_state_dependent_exploration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"use_sde=True: .* leave it off"):
        make(SAC, use_sde=True)


# The policy's own arguments


@ALGORITHMS
def test_a_plain_box_is_refused_with_the_remedy(cls: Any) -> None:
    for env in (gym.make("Pendulum-v1"), Constant(spaces.Box(-1.0, 1.0, (5,), np.float32))):
        with pytest.raises(TypeError, match=r"acts on one-hots .* got the action space Box.*OneHotActions\(env\)"):
            make(cls, env)


@ALGORITHMS
@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        ({"estimator": "st-gumbel"}, ValueError, r"unknown estimator 'st-gumbel' \(did you mean"),
        ({"estimator_kwargs": {"sample": 2}}, TypeError, "has no option 'sample'; it takes"),
        ({"estimator_kwargs": {"temperature": 2.0}}, ValueError, "given by the argument temperature"),
        ({"estimator_kwargs": {"samples": 0}}, ValueError, "at least 1 samples, got 0"),
        ({"critic": "multi"}, ValueError, r"unknown critic 'multi' \(did you mean 'multilinear'"),
        ({"critic_kwargs": {"rnk": 2}}, TypeError, "critic 'multilinear' has no option 'rnk'; it takes rank"),
        ({"critic_kwargs": {"rank": 0}}, ValueError, "rank must be at least 1"),
        ({"temperature": "linaer:1:0.5"}, ValueError, "is not understood.*did you mean 'linear'"),
        ({"temperature": 0.0}, ValueError, "must stay above 0"),
        ({"temperature": "linear:1:0.5"}, ValueError, "has no length.*or leave annealing to TemperatureCallback"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_bad_arguments_are_refused(cls: Any, kwargs: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(cls, policy_kwargs=dict(kwargs))  # Stable-Baselines3 writes into it


def test_a_negative_weight_of_the_entropy_is_refused() -> None:
    for weight in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="ent_coef is a weight and must not be negative"):
            make(DDPG, policy_kwargs={"ent_coef": weight})


def test_options_for_an_estimator_that_is_made_already_are_refused() -> None:
    with pytest.raises(ValueError, match="made already"):
        make(SAC, policy_kwargs={"estimator": make_estimator("rloo"), "estimator_kwargs": {"samples": 3}})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("st-gumbel-softmax", {"temperature": 0.3}),
        ("mixture", {"second": "gapped-st", "second_kwargs": {"temperature": 0.3}}),
    ],
)
def test_an_estimator_given_as_an_object_stays_the_users_own(name: str, options: dict[str, Any]) -> None:
    given: Any = make_estimator(name, samples=2, **options)
    first = make(SAC, policy_kwargs={"estimator": given, "temperature": 0.8}).policy
    second = make(SAC, policy_kwargs={"estimator": given, "temperature": 0.5}).policy
    assert [first.estimator.temperature, second.estimator.temperature, given.temperature] == [0.8, 0.5, 0.3]
    assert first.estimator.samples == 2
    assert first.actor.estimator is first.estimator


# Masks


def masked_env(mask: spaces.Space[Any], extra: bool = True) -> Any:
    parts: dict[str, spaces.Space[Any]] = {"action_mask": mask}
    if extra:
        parts["x"] = spaces.Box(-1.0, 1.0, (2,))
    return Constant(spaces.MultiDiscrete([2, 3]), spaces.Dict(parts))


class Unchecked(gym.ActionWrapper[Any, Any, Any]):
    """Has the action space of `OneHotActions` without its care for masks."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = make_env().action_space

    def action(self, action: Any) -> Any:
        return action


@pytest.mark.parametrize(
    "mask", [spaces.MultiBinary(4), spaces.Box(0.0, 1.0, (6,)), spaces.MultiBinary([5, 2]), spaces.Discrete(5)], ids=str
)
def test_a_mask_of_another_width_is_refused(mask: spaces.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"'action_mask' is .* \(2, 3\) need a mask of 5 entries.*MultiBinary\(5\)"):
        make(SAC, Unchecked(masked_env(mask)))


def test_nothing_but_a_mask_is_nothing_to_observe() -> None:
    with pytest.raises(ValueError, match="nothing to observe but 'action_mask'"):
        make(SAC, Unchecked(masked_env(spaces.MultiBinary(5), extra=False)))


def test_a_mask_with_nothing_allowed_is_refused() -> None:
    model = make(SAC, Unchecked(masked_env(spaces.MultiBinary(5))))
    obs = {"x": np.zeros(2, np.float32), "action_mask": np.array([1, 1, 0, 0, 0], dtype=np.int8)}
    with pytest.raises(ValueError, match="every choice masked"):
        model.predict(obs)


def test_a_mask_that_was_normalised_is_refused() -> None:
    model = make(SAC, Unchecked(masked_env(spaces.Box(0.0, 1.0, (5,)))))
    obs = {"x": np.zeros(2, np.float32), "action_mask": np.array([1, 0, 0, 1, 0], dtype=np.float32)}
    action, _ = model.predict(obs)
    assert action.tolist() == [1, -1, -1, 1, -1]
    with pytest.raises(ValueError, match=r"other than 0 and 1.*norm_obs_keys without the mask"):
        model.predict(obs | {"action_mask": obs["action_mask"] * 0.9})


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5)], ids=str)
def test_masks_of_any_shape_and_type_fit(shape: tuple[int, ...]) -> None:
    for mask in (spaces.MultiBinary(shape), spaces.Box(0.0, 1.0, shape), spaces.Box(0, 1, shape, np.int8)):
        model = make(SAC, Unchecked(masked_env(mask)))
        values = np.array([0, 1, 0, 1, 0]).reshape(shape).astype(mask.dtype)
        action, _ = model.predict({"x": np.zeros(2, np.float32), "action_mask": values})
        assert action.tolist() == [-1, 1, -1, 1, -1]


# Loading


@ALGORITHMS
@pytest.mark.parametrize("other", [spaces.MultiDiscrete([3, 2]), spaces.Discrete(5), spaces.Discrete(4)], ids=str)
def test_a_model_is_not_loaded_on_another_action_space(cls: Any, other: spaces.Space[Any], tmp_path: Path) -> None:
    make(cls).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Action spaces do not match: OneHotBox\(2, 3\) != OneHotBox"):
        cls.load(tmp_path / "model", env=make_env(other))
    with pytest.raises(ValueError, match=r"Action spaces do not match: OneHotBox\(2, 3\) != Box"):
        cls.load(tmp_path / "model", env=Constant(spaces.Box(-1.0, 1.0, (5,), np.float32)))
    assert cls.load(tmp_path / "model", env=make_env()).policy.factors.sizes == (2, 3)


def test_exact_by_the_probabilities_needs_a_critic_that_is_linear_in_the_factors() -> None:
    env = OneHotActions(gym.make("CartPole-v1"))
    for kwargs in (
        {"estimator": Exact(multilinear=True)},
        {"estimator": "exact", "estimator_kwargs": {"multilinear": True}},
    ):
        with pytest.raises(ValueError, match="not the expectation under the critic 'mlp'"):
            SAC(GumbelSACPolicy, env, **sac_defaults(env, policy_kwargs={"critic": "mlp", **kwargs}))
    SAC(GumbelSACPolicy, env, **sac_defaults(env, policy_kwargs={"critic": "mlp", "estimator": "exact"}))


def test_defaults_complete_each_other() -> None:
    env = OneHotActions(gym.make("CartPole-v1"))
    settings = sac_defaults(env, batch_size=32, policy_kwargs={"critic": "mlp"})
    assert settings["batch_size"] == 32
    assert settings["policy_kwargs"] == {"net_arch": [128, 128], "critic": "mlp"}
