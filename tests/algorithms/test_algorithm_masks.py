"""Action masks: what is forbidden is never executed, from the first step on."""

from __future__ import annotations

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracles import assert_plausible
from scipy import stats
from scripted import Spaces, vectorised
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from envs import make_vec_env
from gumbel_rl import ActionFactors, GumbelActorCritic, GumbelSAC, Reinforce
from gumbel_rl.wrappers import MASK_KEY, ActionMaskObservation

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {
    "discrete-start": spaces.Discrete(4, start=-2),
    "multi-discrete-start": spaces.MultiDiscrete([2, 5, 3], start=[1, -3, 0]),
    "multi-discrete-2d": spaces.MultiDiscrete([[2, 3, 4], [3, 2, 2]]),
    "multi-binary-2d": spaces.MultiBinary([2, 2]),
}


class Guarded(gym.Env):
    """Draws a mask for every step, notes what is executed, and refuses what was forbidden."""

    def __init__(self, action_space: spaces.Space, seed: int = 0) -> None:
        self.observation_space, self.action_space = BOX, action_space
        self.factors = ActionFactors.from_space(action_space)
        self.generator = np.random.default_rng(seed)
        self.steps = 0
        self.executed = []

    def action_masks(self):
        """An array for each factor."""
        return self.mask

    def _draw(self):
        self.mask = [self.generator.random(n) < 0.4 for n in self.factors.sizes]
        for allowed in self.mask:
            allowed[self.generator.integers(len(allowed))] = True
        return self.generator.normal(size=3).clip(-1, 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        chosen = self.factors.encode(action).bool().numpy()
        assert np.concatenate(self.mask)[chosen].all(), (action, self.mask)
        self.executed.append(chosen)
        self.steps += 1
        # Where an episode has ended nothing may be left to do.
        observation, over = self._draw(), self.steps % 7 == 0
        if over:
            self.mask = [np.zeros(n, dtype=bool) for n in self.factors.sizes]
        return observation, float(chosen[0]), over, self.steps % 11 == 0, {}


def guarded(action: str, n_envs: int = 2):
    return vectorised(*(ActionMaskObservation(Guarded(deepcopy(ACTIONS[action]), seed)) for seed in range(n_envs)))


def make(env, **options) -> GumbelSAC:
    arguments = {"learning_starts": 60, "batch_size": 16, "train_freq": 4, "gradient_steps": 1, "seed": 0}
    networks = {"net_arch": [8]} | options.pop("policy_kwargs", {})
    return GumbelSAC("MultiInputPolicy", env, policy_kwargs=networks, **arguments | options)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel-softmax", "rloo"])
@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_forbidden_is_executed(action, estimator):
    env = guarded(action)
    model = make(env, estimator=estimator, diagnostics_interval=2).learn(160)  # the environment checks
    assert model._n_updates == 13
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())
    observation = env.reset()
    for deterministic in (False, True):
        for _ in range(30):
            actions, _ = model.predict(observation, deterministic=deterministic)
            observation, *_ = env.step(actions)


@pytest.mark.parametrize("critic", ["mlp", "interpolated"])
@pytest.mark.parametrize("twins", ["min", "action-min"])
def test_nothing_forbidden_is_executed_with_other_critics(critic, twins):
    env = guarded("multi-discrete-start")
    make(env, twins=twins, policy_kwargs={"critic": critic}).learn(120)


class Ending(gym.Env):
    """Observes its own mask, by which nothing is left to do when an episode has ended."""

    action_space = spaces.MultiDiscrete([2, 3])
    observation_space = spaces.Dict({"x": BOX, MASK_KEY: spaces.MultiBinary(5)})

    def _observe(self):
        return {"x": np.full(3, self.left / 3, np.float32), MASK_KEY: np.full(5, self.left > 0, np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return self._observe(), {}

    def step(self, action):
        self.left -= 1
        return self._observe(), 1.0, self.left == 0, False, {}


@pytest.mark.parametrize("n_steps", [1, 2])
def test_nothing_may_be_allowed_where_an_episode_has_ended(n_steps):
    model = make(vectorised(Ending(), Ending()), n_steps=n_steps).learn(120)
    assert model._n_updates > 0
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("factors", [1, 5])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_coordination(factors, n_envs):
    invalid = []

    def count(local, _):
        invalid.extend(info["invalid_actions"] for info in local["infos"])
        return True

    options = {"factors": factors, "masked": True, "steps": 6}
    env = make_vec_env("gumbel_rl/Coordination-v0", n_envs, env_kwargs=options, wrapper=ActionMaskObservation)
    model = make(env, learning_starts=150).learn(300, callback=count)
    assert len(invalid) == model.num_timesteps
    assert sum(invalid) == 0
    assert model._n_updates > 0
    # Nor when it is evaluated: a forbidden action would cost 1 and leave the reward of the others.
    rewards, lengths = evaluate_policy(model, env, 3, return_episode_rewards=True)
    assert lengths == [6] * 3
    assert np.isfinite(rewards).all()


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_forbidden_is_executed_on_policy(action):
    # All steps in one minibatch and one pass: the policy is still the one that acted, masks and all.
    shape = {"n_steps": 40, "batch_size": 80, "n_epochs": 1, "diagnostics_interval": 1}
    model = GumbelActorCritic("MultiInputPolicy", guarded(action), seed=0, **shape)
    model.learn(80)
    logged = model.logger.name_to_value
    assert logged["train/kl"] == pytest.approx(0.0, abs=1e-5)
    assert 0 < logged["train/entropy"] < 0.9 * model.factors.max_entropy
    assert logged["train/entropy_ratio"] == pytest.approx(1.0, abs=1e-3)  # the first policy is nearly uniform
    model.learn(240, reset_num_timesteps=False)
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())
    env = guarded(action)
    observation = env.reset()
    for deterministic in (False, True):
        for _ in range(30):
            observation, *_ = env.step(model.predict(observation, deterministic=deterministic)[0])


@pytest.mark.parametrize("baseline", ["value", "none"])
def test_nothing_forbidden_is_executed_by_reinforce(baseline):
    model = Reinforce("MultiInputPolicy", guarded("multi-discrete-start"), baseline=baseline, seed=0).learn(300)
    assert model._n_updates > 3
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_a_mask_of_the_wrong_width_is_refused_on_policy():
    with pytest.raises(ValueError, match=r"choices \(2, 3\) need a mask of 5 entries"):
        GumbelActorCritic("MultiInputPolicy", vectorised(Declared(spaces.MultiBinary(4), x=BOX)))


@pytest.mark.parametrize(
    ("random_actions", "shares"),
    [
        ("uniform", np.full((3, 2), 1 / 6)),
        ("central", np.outer(np.exp([-2, 0, -0.5]), np.exp([0, -2]))),  # places -1, 0, .5 and 0, 1
    ],
)
def test_warm_up_over_what_is_allowed(random_actions, shares):
    class Still(Guarded):
        def _draw(self):
            self.mask = [np.array([1, 0, 1, 1, 0], dtype=bool), np.array([0, 1, 1], dtype=bool)]
            return np.zeros(3, dtype=np.float32)

    task = Still(spaces.MultiDiscrete([5, 3]))
    env = vectorised(ActionMaskObservation(task))
    model = make(env, learning_starts=10_000, random_actions=random_actions)
    with torch.no_grad():
        model.policy.actor[-1].bias[0] = 50.0  # what the policy would do is not asked
    model.learn(1200)
    counts = np.zeros((5, 3))
    for chosen in task.executed:
        counts[chosen[:5].argmax(), chosen[5:].argmax()] += 1
    expected = 1200 * shares / shares.sum()
    assert_plausible(stats.chisquare(counts[np.ix_([0, 2, 3], [1, 2])].ravel(), expected.ravel()).pvalue)
    # Afterwards it is.
    model.learning_starts = 0
    model.learn(10, reset_num_timesteps=False)
    assert all(chosen[0] for chosen in task.executed[1200:])


def test_a_mask_says_what_may_be_done_and_nothing_more():
    model = make(guarded("multi-discrete-start"))
    state = torch.randn(4, 3)
    masks = [torch.ones(4, 10, dtype=torch.bool), torch.eye(10, dtype=torch.bool)[:4] | (torch.arange(10) % 2 == 1)]
    logits, features = zip(
        *(
            (model.policy.logits(seen), model.policy.features(model.policy.critics, seen))
            for seen in ({"observation": state, MASK_KEY: mask} for mask in masks)
        ),
        strict=True,
    )
    assert torch.equal(*logits)
    assert torch.equal(*features)
    assert features[0].shape == (4, 3)


def test_masks_beside_normalised_observations():
    env = VecNormalize(guarded("multi-discrete-2d"), norm_obs_keys=["observation"])
    model = make(env).learn(120)
    assert model._n_updates > 0
    assert env.obs_rms["observation"].count > 100


class Declared(Spaces):
    """Observations with a mask that allows everything, declared as a space of one's own."""

    def __init__(self, mask_space: spaces.Space, allow: int = 1, **others: spaces.Space) -> None:
        super().__init__(spaces.Dict({**others, MASK_KEY: mask_space}), spaces.MultiDiscrete([2, 3]))
        self.allow = allow

    def reset(self, **arguments):
        return self._allowing(super().reset(**arguments)[0]), {}

    def step(self, action):
        observation, *rest = super().step(action)
        return self._allowing(observation), *rest

    def _allowing(self, observation):
        observation[MASK_KEY] = np.full_like(observation[MASK_KEY], self.allow)
        return observation


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiBinary(5),
        spaces.MultiBinary((1, 5)),
        spaces.Box(0, 1, (5,), np.float32),
        spaces.Box(0, 1, (5,), np.int8),
        spaces.MultiDiscrete([2] * 5),
    ],
    ids=str,
)
def test_declarations_of_a_mask(space):
    assert make(vectorised(Declared(space, x=BOX))).learn(80)._n_updates > 0


@pytest.mark.parametrize("space", [spaces.MultiBinary(4), spaces.MultiBinary(6), spaces.Discrete(5)], ids=str)
def test_a_mask_of_the_wrong_width(space):
    with pytest.raises(ValueError, match=r"choices \(2, 3\) need a mask of 5 entries, for example MultiBinary\(5\)"):
        make(vectorised(Declared(space, x=BOX)))


def test_a_mask_and_nothing_else():
    with pytest.raises(ValueError, match="nothing to observe but 'action_mask'"):
        make(vectorised(Declared(spaces.MultiBinary(5))))


@pytest.mark.parametrize("warm_up", [0, 60])
def test_a_mask_that_allows_nothing(warm_up):
    with pytest.raises(ValueError, match="every choice masked"):
        make(vectorised(Declared(spaces.MultiBinary(5), allow=0, x=BOX)), learning_starts=warm_up).learn(4)


def test_a_mask_that_was_normalised():
    env = VecNormalize(vectorised(Declared(spaces.Box(0, 1, (5,), np.float32), x=BOX)))
    with pytest.raises(ValueError, match="give it norm_obs_keys without the mask"):
        make(env).learn(4)
