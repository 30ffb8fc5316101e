"""What GumbelSAC refuses, and what it says then."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from scripted import Scripted, Spaces, vectorised

from gumbel_rl import GumbelActorCritic, GumbelSAC, make_estimator

BOX = spaces.Box(-1, 1, (3,), np.float32)
PAIR = spaces.MultiDiscrete([2, 3])


def refused(error, message, action_space=None, **options):
    env = Scripted([(3, "terminated")]) if action_space is None else Spaces(BOX, action_space)
    with pytest.raises(error, match=message):
        GumbelSAC("MlpPolicy", vectorised(env), **options)


@pytest.mark.parametrize("name", ["batch_size", "n_steps", "actor_delay"])
@pytest.mark.parametrize("number", [0, -1])
def test_numbers_of_things(name, number):
    refused(ValueError, f"{name} must be at least 1, got {number}", **{name: number})


@pytest.mark.parametrize("name", ["q_clip", "max_grad_norm"])
@pytest.mark.parametrize("number", [0, 0.0, -1.0, float("nan")])
def test_limits(name, number):
    refused(ValueError, f"{name} must be positive or None, got {number}", **{name: number})


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.1, float("nan")])
def test_tau(tau):
    refused(ValueError, f"tau must be above 0 and at most 1, got {tau}", tau=tau)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer_size": 0}, "buffer_size, n_envs and n_steps must be at least 1"),
        ({"gamma": 1.1}, "gamma between 0 and 1"),
        ({"gamma": -0.1}, "gamma between 0 and 1"),
        ({"train_freq": 0}, "train_freq must be at least 1, got 0"),
        ({"train_freq": (0, "episode")}, "train_freq must be at least 1, got 0"),
        ({"train_freq": 2.5}, "must be an integer"),
        ({"train_freq": (1, "epoch")}, "must be either 'step' or 'episode'"),
        ({"twins": "max"}, "unknown twins 'max'; known are min, mean, action-min"),
        ({"random_actions": "normal"}, "unknown random_actions 'normal'; known are uniform, central"),
    ],
    ids=str,
)
def test_other_numbers_and_names(options, message):
    refused(ValueError, message, **options)


@pytest.mark.parametrize(
    "ent_coef", [-0.1, "-0.1", "automatic", "auto_0", "auto_-1", "nan", float("inf"), None, "", True]
)
def test_entropy_coefficient(ent_coef):
    refused(ValueError, "ent_coef must be a number, 'auto' or like 'auto_0.1', got", ent_coef=ent_coef)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "linear:0.5:1.5", "piecewise:0=0.5,10=-0.1", "0.1:floor=2"])
def test_target_of_the_entropy(ratio):
    refused(ValueError, "between 0 and 1, got", target_entropy_ratio=ratio)


def test_schedules():
    refused(ValueError, "did you mean 'linear'", target_entropy_ratio="linaer:1:0")
    refused(ValueError, "did you mean 'linear'", learning_rate="linaer:1:0")
    refused(TypeError, "a schedule is a number, a string or a mapping", target_entropy_ratio=None)
    refused(ValueError, "must not be negative", learning_rate=-1e-3)
    refused(ValueError, "must not be negative", learning_rate="linear:1e-3:-1e-3")
    for temperature in (0.0, -1.0, "linear:1:0", "exponential:1:0"):
        refused(ValueError, "above 0|positive", temperature=temperature)


def test_a_temperature_that_changes_nothing():
    with pytest.warns(
        UserWarning, match=r"temperature Linear\(.*start=1.0.*\) changes nothing: Exact has none"
    ) as caught:
        GumbelSAC("MlpPolicy", vectorised(Scripted([(3, "terminated")])), temperature="linear:1:0.5")
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="changes nothing: Zgr has none"):
        GumbelActorCritic("MlpPolicy", "CartPole-v1", estimator="zgr", temperature=0.5)


def test_a_temperature_that_changes_something_or_is_the_default_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({"estimator": "st-gumbel-softmax", "temperature": 0.5}, {"temperature": 1}, {}):
            GumbelSAC("MlpPolicy", vectorised(Scripted([(3, "terminated")])), **options)


def test_estimators():
    refused(ValueError, "did you mean 'score-function'", estimator="scorefunction")
    refused(TypeError, "no option 'sample'; it takes", estimator_kwargs={"sample": 2})
    refused(ValueError, "at least 2 samples", estimator="rloo", estimator_kwargs={"samples": 1})
    refused(ValueError, "argument temperature", estimator_kwargs={"temperature": 0.5})
    made = make_estimator("rloo", samples=2)
    refused(ValueError, "made already", estimator=made, estimator_kwargs={"samples": 3})


@pytest.mark.parametrize("given", ["id", "made"])
def test_the_exact_estimator_at_the_probabilities_of_what_is_not_linear(given):
    exact = {"estimator": "exact", "estimator_kwargs": {"multilinear": True}}
    if given == "made":
        exact = {"estimator": make_estimator("exact", multilinear=True)}
    for options in ({"policy_kwargs": {"critic": "mlp"}}, {"twins": "action-min"}):
        refused(ValueError, "is not the expectation under the critic '(mlp|multilinear)' with twins", **exact | options)


@pytest.mark.parametrize("options", [{"policy_kwargs": {"critic": "mlp"}}, {"twins": "action-min"}], ids=str)
def test_the_exact_estimator_with_more_joint_actions_than_can_be_enumerated(options):
    space = spaces.MultiDiscrete([5] * 6)
    told = "15625 joint actions, more than 4096; choose critics that are linear"
    refused(ValueError, told, space, estimator="exact", **options)
    # One that was made to enumerate, with a critic that needs it not.
    refused(ValueError, "more than 4096; give estimator='exact'", space, estimator=make_estimator("exact"))
    # With the critic that is linear there is nothing to enumerate; and an estimator that samples needs not.
    env = vectorised(Spaces(BOX, space))
    for working in ({"estimator": "exact"}, {"estimator": "rloo", **options}):
        model = GumbelSAC("MlpPolicy", env, learning_starts=4, batch_size=4, **working).learn(8)
        assert model._n_updates > 0


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"critic": "multilinar"}, ValueError, "unknown critic 'multilinar' .did you mean 'multilinear'"),
        ({"critic": ["mlp"]}, ValueError, "unknown critic"),
        ({"critic_kwargs": {"ranks": 3}}, TypeError, "critic 'multilinear' has no option 'ranks'; it takes rank"),
        ({"critic": "mlp", "critic_kwargs": {"rank": 3}}, TypeError, "critic 'mlp' has no option 'rank'"),
        ({"critic_kwargs": {"rank": 0}}, ValueError, "rank must be at least 1, got 0"),
        ({"n_critics": 0}, ValueError, "n_critics must be at least 1, got 0"),
        ({"use_sde": True}, ValueError, "continuous actions"),
        ({"net_architecture": [3]}, TypeError, "net_architecture"),
        ({"net_arch": {"pi": [3], "vf": [3]}}, ValueError, "net_arch must be widths, or a mapping with the keys pi"),
    ],
    ids=str,
)
def test_policies(kwargs, error, message):
    refused(error, message, PAIR, policy_kwargs=kwargs)


def test_action_spaces():
    for space in (BOX, spaces.Box(-np.inf, np.inf, ()), spaces.Dict({"a": PAIR}), spaces.Tuple((PAIR, PAIR))):
        with pytest.raises(TypeError, match="supported are Discrete, MultiDiscrete and MultiBinary"):
            GumbelSAC("MlpPolicy", Spaces(BOX, space))
    with pytest.raises(TypeError, match="supported are Discrete, MultiDiscrete and MultiBinary"):
        GumbelSAC("MlpPolicy", "Pendulum-v1")


def test_without_an_environment():
    with pytest.raises(ValueError, match="an environment is needed"):
        GumbelSAC()


def test_names_of_policies():
    with pytest.raises(ValueError, match="Policy MplPolicy unknown"):
        GumbelSAC("MplPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        GumbelSAC("MlpPolicy", Spaces(spaces.Dict({"a": BOX}), PAIR))


def test_whole_episodes_of_several_environments():
    env = vectorised(*(Scripted([(3, "terminated")]) for _ in range(2)))
    with pytest.raises(AssertionError, match="only one env when doing episodic training"):
        GumbelSAC("MlpPolicy", env, train_freq=(1, "episode")).learn(10)


def test_an_unregistered_environment():
    with pytest.raises(gym.error.Error):
        GumbelSAC("MlpPolicy", "CartPole-v7")
