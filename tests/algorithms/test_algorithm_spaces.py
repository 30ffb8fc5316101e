"""Every kind of observation with every kind of action, and what is refused."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted import Scripted, Spaces, vectorised

from gumbel_rl import ESTIMATORS, GumbelActorCritic, GumbelSAC, Reinforce, make_estimator
from gumbel_rl.algorithms.reinforce import BASELINES

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
OBSERVATIONS = {
    "box": BOX,
    "matrix": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    "image": IMAGE,
    "image-channels-last": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "discrete": spaces.Discrete(5),
    "discrete-start": spaces.Discrete(5, start=3),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "multi-discrete-start": spaces.MultiDiscrete([3, 4], start=[-1, 2]),
    "multi-binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(
        {"vector": BOX, "image": IMAGE, "index": spaces.Discrete(7, start=1), "bits": spaces.MultiBinary(2)}
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "discrete-start": spaces.Discrete(3, start=-2),
    "multi-discrete": spaces.MultiDiscrete([2, 5, 3]),
    "multi-discrete-start": spaces.MultiDiscrete([2, 5, 3], start=[1, -3, 0]),
    "multi-discrete-2d": spaces.MultiDiscrete([[2, 3, 4], [3, 2, 2]]),
    "multi-binary": spaces.MultiBinary(3),
    "multi-binary-2d": spaces.MultiBinary([2, 2]),
}
ALGORITHMS = {
    GumbelActorCritic: {"n_steps": 4, "n_epochs": 1, "diagnostics_interval": 1},
    Reinforce: {"value_epochs": 1},
    GumbelSAC: {"learning_starts": 4, "batch_size": 4, "train_freq": 4, "gradient_steps": 1, "diagnostics_interval": 1},
}


def policy_for(space: spaces.Space) -> str:
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if isinstance(space, spaces.Box) and len(space.shape) == 3 else "MlpPolicy"


def small(policy: str) -> dict:
    """Arguments that keep convolutions cheap."""
    sizes = {"CnnPolicy": {"features_dim": 8}, "MultiInputPolicy": {"cnn_output_dim": 8}}
    return {"net_arch": [8], "features_extractor_kwargs": sizes.get(policy)}


def make(cls, observation: str, action: str, n_envs: int = 2, **options):
    env = vectorised(*(Spaces(deepcopy(OBSERVATIONS[observation]), deepcopy(ACTIONS[action])) for _ in range(n_envs)))
    policy = policy_for(OBSERVATIONS[observation])
    return cls(policy, env, seed=0, policy_kwargs=small(policy), **ALGORITHMS[cls] | options)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_trains_and_acts(cls, observation, action):
    model = make(cls, observation, action)
    assert model.learn(16)._n_updates > 0  # the environment checks every action
    one = OBSERVATIONS[observation].sample()
    batch = model.env.reset()
    for deterministic in (False, True):
        single, state = model.predict(one, deterministic=deterministic)
        assert state is None
        assert ACTIONS[action].contains(single)
        actions, _ = model.predict(batch, deterministic=deterministic)
        assert len(actions) == 2
        assert all(ACTIONS[action].contains(row) for row in actions)
    again, _ = model.predict(batch, deterministic=True)
    np.testing.assert_array_equal(actions, again)


@pytest.mark.parametrize("observation", ["image", "dict"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_extractors_learn_whether_shared_or_not(cls, shared, observation):
    policy = policy_for(OBSERVATIONS[observation])
    kwargs = small(policy) | {"share_features_extractor": shared}
    env = vectorised(*(Spaces(deepcopy(OBSERVATIONS[observation]), ACTIONS["discrete"]) for _ in range(2)))
    model = cls(policy, env, seed=0, policy_kwargs=kwargs, **ALGORITHMS[cls])
    critic_extractor = model.policy.critics.extractor if cls is GumbelSAC else model.policy.critic_extractor
    extractors = [model.policy.features_extractor, critic_extractor]
    assert (extractors[0] is extractors[1]) == shared
    before = [[parameter.detach().clone() for parameter in extractor.parameters()] for extractor in extractors]
    model.learn(16)
    for extractor, start in zip(extractors, before, strict=True):
        assert all((parameter != old).any() for parameter, old in zip(extractor.parameters(), start, strict=True))


def test_images_are_scaled():
    model = make(GumbelActorCritic, "image", "discrete")
    seen = []
    model.policy.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].max().item()))
    model.learn(8)
    assert max(seen) <= 1.0
    assert max(seen) > 0.9


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_stochastic_predictions_follow_the_policy(cls):
    model = make(cls, "discrete", "multi-discrete-start")
    space, draws = ACTIONS["multi-discrete-start"], 2000
    actions, _ = model.predict(np.repeat(np.arange(5), draws), deterministic=False)
    counts = [
        np.bincount(column - start, minlength=n)
        for rows in actions.reshape(5, draws, 3)
        for column, n, start in zip(rows.T, space.nvec, space.start, strict=True)
    ]
    probs = model.policy.distribution(torch.arange(5)).probs.detach().numpy()
    # 50 frequencies with a standard error of at most 0.0112: false-alarm rate below 1e-6.
    assert np.abs(np.concatenate(counts).reshape(5, -1) / draws - probs).max() < 0.065


def test_integer_observations_are_one_hots_wherever_they_begin():
    seen = []
    for name, state in (("discrete-start", 5), ("multi-discrete-start", [1, 2])):
        model = make(GumbelActorCritic, name, "discrete")
        model.policy.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tolist()))
        model.predict(np.array(state))
    assert seen == [[[0, 0, 1, 0, 0]], [[0, 0, 1, 1, 0, 0, 0]]]


@pytest.mark.parametrize("space", [spaces.Tuple((BOX, BOX)), spaces.Text(3), spaces.Dict({"a": spaces.Text(3)})])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_other_observation_spaces_are_refused(cls, space):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    with pytest.raises(TypeError, match=r"observation space .* is not supported; supported are Box"):
        cls(policy, Spaces(space, ACTIONS["discrete"]))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))),
    ],
)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_other_action_spaces_are_refused(cls, space):
    with pytest.raises(TypeError, match="Discrete, MultiDiscrete and MultiBinary") as caught:
        cls("MlpPolicy", Spaces(BOX, space))
    assert str(space) in str(caught.value)


def refused(error, message, cls, **options):
    with pytest.raises(error, match=message):
        cls("MlpPolicy", vectorised(Scripted([(3, "terminated")])), **options)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_mistakes_of_any(cls):
    refused(ValueError, "did you mean 'score-function'", cls, estimator="scorefunction")
    refused(ValueError, "must not be negative", cls, learning_rate=-1e-3)
    refused(ValueError, "not understood", cls, learning_rate="linaer:1:0")
    refused(ValueError, "continuous actions", cls, policy_kwargs={"use_sde": True})
    with pytest.raises(ValueError, match="an environment is needed"):
        cls()
    with pytest.raises(ValueError, match="unknown"):
        cls("MplPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        cls("MlpPolicy", Spaces(OBSERVATIONS["dict"], ACTIONS["discrete"]))


def test_mistakes_with_gumbel_actor_critic():
    for temperature in (0.0, -1.0, "linear:1:0", "exponential:1:0", {"kind": "constant", "value": 0}):
        refused(ValueError, "above 0|positive", GumbelActorCritic, temperature=temperature)
    refused(ValueError, "did you mean 'exponential'", GumbelActorCritic, temperature="exponental:1:0.5")
    refused(TypeError, "no option 'sample'; it takes", GumbelActorCritic, estimator_kwargs={"sample": 2})
    refused(ValueError, "argument temperature", GumbelActorCritic, estimator_kwargs={"temperature": 0.5})
    made = make_estimator("rloo", samples=2)
    refused(ValueError, "made already", GumbelActorCritic, estimator=made, estimator_kwargs={"samples": 3})
    refused(ValueError, "at least 2 samples", GumbelActorCritic, estimator="rloo", estimator_kwargs={"samples": 1})
    for name in ("n_steps", "batch_size", "n_epochs"):
        refused(ValueError, f"{name} must be at least 1", GumbelActorCritic, **{name: 0})


def test_mistakes_with_reinforce():
    refused(ValueError, f"known are {', '.join(BASELINES)}", Reinforce, baseline="values")
    refused(ValueError, "at least 2 environments", Reinforce, baseline="rloo")
    refused(ValueError, "max_episode_steps must be at least 1", Reinforce, max_episode_steps=0)
    for name, cls in ESTIMATORS.items():
        if name != "score-function":
            assert cls.needs_objective
            refused(ValueError, "that the environment did not execute", Reinforce, estimator=name)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel-softmax"])
def test_far_more_joint_actions_than_could_be_enumerated(estimator):
    env = vectorised(Spaces(BOX, spaces.MultiDiscrete([5] * 20)))
    model = GumbelActorCritic("MlpPolicy", env, estimator=estimator, **ALGORITHMS[GumbelActorCritic]).learn(8)
    assert model._n_updates == 2


def test_options_of_an_estimator_are_used():
    env = vectorised(Scripted([(3, "terminated")]))
    assert GumbelActorCritic("MlpPolicy", env, estimator="rloo", estimator_kwargs={"samples": 7}).estimator.samples == 7
    exact = GumbelActorCritic("MlpPolicy", env, estimator="exact", estimator_kwargs={"multilinear": False}).estimator
    assert not exact.multilinear
    mixture = make_estimator("mixture", second="reinmax", second_kwargs={"temperature": 0.3})
    for made in (make_estimator("st-gumbel-softmax", temperature=0.3), mixture):
        model = GumbelActorCritic("MlpPolicy", env, estimator=made, temperature=0.6, n_steps=4).learn(4)
        assert model.estimator is made
        assert made.temperature == pytest.approx(0.6)
