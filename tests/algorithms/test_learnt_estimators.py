"""Estimators with parameters of their own: algorithms and plug-ins let them learn, and save what they have learnt."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import SAC, TD3

from envs import make_vec_env
from gumbel_rl import ESTIMATORS, Estimator, GumbelActorCritic, GumbelSAC, make_estimator
from gumbel_rl.estimators import Rebar, Rloo
from gumbel_rl.sb3 import GumbelSACPolicy, GumbelTD3Policy, OneHotActions

LEARNING = [name for name, cls in ESTIMATORS.items() if cls.learns]
SETTINGS: dict[type[Any], dict[str, Any]] = {
    GumbelActorCritic: {"n_steps": 16, "n_epochs": 2, "batch_size": 16},
    GumbelSAC: {"learning_starts": 20, "batch_size": 16, "train_freq": 4, "gradient_steps": 2, "actor_delay": 2},
}


def bandits(n_envs: int = 2) -> Any:
    return make_vec_env("gumbel_rl/FactoredBandit-v0", n_envs, env_kwargs={"sizes": (3, 4, 2)}, seed=3)


def make(cls: type[Any], **options: Any) -> Any:
    networks = {"net_arch": [8]}
    return cls("MlpPolicy", bandits(), policy_kwargs=networks, **{"seed": 0} | SETTINGS[cls] | options)


def estimator_of(model: Any) -> Any:
    return model._estimator if isinstance(model, GumbelSAC) else model.estimator


def learnt(model: Any) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in estimator_of(model).learnt.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Counting(Rloo):
    """Notes how often it is asked for an estimate and told to learn, and from what."""

    def __init__(self) -> None:
        super().__init__(2)
        self.notes: list[tuple[str, Any]] = []

    def __call__(self, dist: Any, f: Any, noise: Any = None) -> Any:
        self.notes.append(("estimate", (dist, noise)))
        return super().__call__(dist, f, noise)

    def adapt(self, dist: Any, f: Any, noise: Any = None) -> None:
        self.notes.append(("adapt", (dist, noise)))


@pytest.mark.parametrize("cls", SETTINGS)
def test_an_estimator_learns_once_from_every_estimate_that_trains(cls: type[Any]) -> None:
    estimator = Counting()
    make(cls, estimator=estimator, diagnostics_interval=0).learn(64)
    counts = [[name for name, _ in estimator.notes].count(name) for name in ("estimate", "adapt")]
    assert counts[0] == counts[1] > 0
    dists, noises = (
        [[what[k] for name, what in estimator.notes if name == kind] for kind in ("estimate", "adapt")] for k in (0, 1)
    )
    assert all(one is other for one, other in zip(*dists, strict=True))
    assert all(one is other for one, other in zip(*noises, strict=True))


@pytest.mark.parametrize("cls", SETTINGS)
@pytest.mark.parametrize("name", LEARNING)
def test_what_is_learnt_is_saved_and_gone_on_with(name: str, cls: type[Any], tmp_path: Any) -> None:
    model = make(cls, estimator=name).learn(64)
    assert estimator_of(model).learnt.eta.item() != 1.0
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=bandits())
    assert same(learnt(model), learnt(loaded))
    if cls is GumbelSAC:
        model.save_replay_buffer(tmp_path / "buffer")
        loaded.load_replay_buffer(tmp_path / "buffer")
    # With the averages of its optimiser too: the next steps are the same.
    before = learnt(model)
    model.set_env(bandits())
    for each in (model, loaded):
        each.set_random_seed(4)
        each.learn(32, reset_num_timesteps=False)
    assert same(learnt(model), learnt(loaded))
    assert not same(before, learnt(model))


def test_a_loaded_gumbel_sac_may_be_given_another_estimator(tmp_path: Any) -> None:
    make(GumbelSAC, estimator="rebar", estimator_kwargs={"samples": 2}).learn(64).save(tmp_path / "model")
    assert isinstance(GumbelSAC.load(tmp_path / "model", estimator="rloo")._estimator, Rloo)
    other = GumbelSAC.load(tmp_path / "model", estimator_kwargs={"initial_eta": 0.25})
    assert other._estimator.learnt.eta.item() == 0.25  # another, and it begins anew
    given = Rebar(initial_eta=0.5)
    assert GumbelSAC.load(tmp_path / "model", estimator=given, estimator_kwargs={})._estimator is given


@pytest.mark.parametrize("cls", SETTINGS)
def test_an_estimator_given_as_an_object_learns_and_is_saved(cls: type[Any], tmp_path: Any) -> None:
    estimator = make_estimator("rebar", initial_temperature=0.8)
    model = make(cls, estimator=estimator).learn(64)
    assert estimator_of(model) is estimator
    model.save(tmp_path / "model")
    assert same(learnt(model), learnt(cls.load(tmp_path / "model")))
    assert estimator.learnt.eta.item() != 1.0


def test_a_member_of_a_mixture_learns(tmp_path: Any) -> None:
    options = {"first": "straight-through", "second": "rebar"}
    model = make(GumbelSAC, estimator="mixture", estimator_kwargs=options).learn(64)
    model.save(tmp_path / "model")
    eta = model._estimator.members[1].learnt.eta.item()
    assert eta != 1.0
    assert GumbelSAC.load(tmp_path / "model")._estimator.members[1].learnt.eta.item() == eta


@pytest.mark.parametrize(("algorithm", "policy"), [(SAC, GumbelSACPolicy), (TD3, GumbelTD3Policy)])
@pytest.mark.parametrize("name", LEARNING)
def test_the_plug_ins_let_it_learn_too(name: str, algorithm: type[Any], policy: type[Any]) -> None:
    given: Estimator = make_estimator(name)
    options: dict[str, Any] = {"target_policy_noise": 0.0} if algorithm is TD3 else {"ent_coef": 0.1}
    env = OneHotActions(gym.make("CartPole-v1"))
    model = algorithm(
        policy, env, learning_starts=10, batch_size=8, policy_kwargs={"estimator": given, "net_arch": [8]}, **options
    )
    optimised = [p for group in model.actor.optimizer.param_groups for p in group["params"]]
    model.learn(30)
    own: Any = model.policy.estimator
    assert own is not given
    assert own.learnt.eta.item() != 1.0
    assert given.learnt.eta.item() == 1.0  # type: ignore[attr-defined]
    # The actor's optimiser and the weights that are saved know nothing of it.
    assert not any(p is q for p in optimised for q in own.learnt.parameters())
    assert not any("eta" in key for key in model.policy.state_dict())
