"""The on-policy plug-in: what it shares with the stock policy, and what only it can do."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO
from scipy import stats
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from torch.distributions import Bernoulli, Categorical

from gumbel_rl.actions import ActionFactors
from gumbel_rl.distributions import FactoredCategorical
from gumbel_rl.sb3 import GumbelActorCriticPolicy
from gumbel_rl.sb3.distributions import FactoredDistribution
from gumbel_rl.wrappers import MASK_KEY, ActionMaskObservation, OneHotActions, OneHotBox

VECTOR = spaces.Box(-1.0, 1.0, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"position": VECTOR, "room": spaces.Discrete(4)})
FROM_ZERO = [spaces.Discrete(6), spaces.MultiDiscrete([2, 5, 3]), spaces.MultiDiscrete([4] * 7), spaces.MultiBinary(4)]
FROM_ANYWHERE = [
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([2, 5, 3], start=[3, -4, 0]),
    spaces.MultiBinary(4),
    spaces.MultiDiscrete(np.array([3, 3], dtype=np.int16), dtype=np.int16),
]
ALGORITHMS: dict[type[OnPolicyAlgorithm], dict[str, Any]] = {
    PPO: {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    A2C: {"n_steps": 8},
    TRPO: {"n_steps": 64, "batch_size": 32, "n_critic_updates": 2},
}


def rate(_: float) -> float:
    return 1e-3


def width(space: spaces.Space[Any]) -> int:
    """Number of entries of a mask."""
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return 2 * space.n if isinstance(space, spaces.MultiBinary) else int(space.n)


def blocks(space: spaces.Space[Any]) -> list[slice]:
    """Where each factor's entries of a mask are."""
    sizes = {spaces.MultiDiscrete: lambda: space.nvec, spaces.MultiBinary: lambda: [2] * space.n}
    ends = np.cumsum(sizes.get(type(space), lambda: [space.n])())
    return [slice(end - size, end) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]


def choices(space: spaces.Space[Any], actions: Any) -> list[int]:
    """The entries of a mask that an action uses; written without the library."""
    indices = np.atleast_1d(actions) - np.atleast_1d(getattr(space, "start", 0))
    return [block.start + int(index) for block, index in zip(blocks(space), indices, strict=True)]


def random_mask(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """Each choice allowed with probability .4, and at least one of each factor."""
    mask = rng.random(width(space)) < 0.4
    for block in blocks(space):
        mask[rng.integers(block.start, block.stop)] = True
    return mask.astype(np.int8)


class Guarded(gym.Env[Any, Any]):
    """Draws a mask at every step, and fails if an action is not one of the space or is forbidden."""

    def __init__(
        self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] = VECTOR, masked: bool = True
    ) -> None:
        self.action_space, self.observation_space, self.masked = action_space, observation_space, masked
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.draw()

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), (action, self.action_space)
        assert np.asarray(action).dtype == self.action_space.dtype
        assert self.mask[choices(self.action_space, action)].all(), (action, self.mask)
        self.count += 1
        observation, info = self.draw()
        return observation, float(np.sum(action)), self.count % 7 == 0, self.count % 11 == 0, info

    def draw(self) -> Any:
        self.mask = random_mask(self.action_space, self.np_random) if self.masked else np.ones(width(self.action_space))
        return self.observation_space.sample(), {MASK_KEY: self.mask}


class Matches(gym.Env[Any, Any]):
    """One step, a target that depends on which of two situations is shown; the reward is the share of matches."""

    def __init__(self, action_space: spaces.Space[Any] | None = None) -> None:
        self.action_space = action_space or spaces.MultiDiscrete([4] * 4, start=[1] * 4)
        self.observation_space = spaces.Box(0, 1, (2,), np.float32)
        self.action_space.seed(3)
        self.targets = np.array([self.action_space.sample() for _ in range(2)])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.situation = int(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[self.situation], {}

    def step(self, action: Any) -> Any:
        reward = np.equal(action, self.targets[self.situation]).mean()
        return np.zeros(2, np.float32), float(reward), True, False, {}


def masked_space(action_space: spaces.Space[Any]) -> spaces.Dict:
    return spaces.Dict({"observation": VECTOR, MASK_KEY: spaces.MultiBinary(width(action_space))})


def observations(space: spaces.Space[Any], count: int = 9) -> Any:
    """A batch of them as tensors."""
    space.seed(0)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in space}
    return torch.as_tensor(np.stack(samples))


def pair(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **options: Any
) -> tuple[ActorCriticPolicy, GumbelActorCriticPolicy]:
    """The stock policy and ours with the same weights, under which actions are far from equally likely."""
    stock_class = ActorCriticPolicy
    if isinstance(observation_space, spaces.Dict):
        stock_class = MultiInputActorCriticPolicy
    elif observation_space is IMAGE:
        stock_class = ActorCriticCnnPolicy
    torch.manual_seed(0)
    stock = stock_class(observation_space, action_space, rate, **options)
    nn.init.normal_(stock.action_net.weight)
    nn.init.normal_(stock.action_net.bias)
    ours = GumbelActorCriticPolicy(observation_space, action_space, rate, **options)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


# What is shared with the stock policy.


@pytest.mark.parametrize("action_space", FROM_ZERO, ids=str)
def test_same_seed_gives_the_stock_policys_weights(action_space):
    torch.manual_seed(4)
    stock = ActorCriticPolicy(VECTOR, action_space, rate).state_dict()
    torch.manual_seed(4)
    ours = GumbelActorCriticPolicy(VECTOR, action_space, rate).state_dict()

    assert list(stock) == list(ours)
    assert all(torch.equal(stock[name], ours[name]) for name in stock)


@pytest.mark.parametrize(
    ("observation_space", "options"),
    [
        (VECTOR, {}),
        (VECTOR, {"net_arch": {"pi": [7], "vf": [3, 3]}, "activation_fn": nn.ReLU, "ortho_init": False}),
        (IMAGE, {}),
        (IMAGE, {"share_features_extractor": False}),
        (DICT, {"share_features_extractor": False}),
    ],
    ids=["vector", "options", "image", "two extractors of images", "dict"],
)
@pytest.mark.parametrize("action_space", FROM_ZERO, ids=str)
def test_equals_the_stock_policy_of_the_same_weights(observation_space, options, action_space):
    stock, ours = pair(observation_space, action_space, **options)
    obs = observations(observation_space)
    with torch.no_grad():
        actions = stock(obs)[0].float()  # as buffers hold them
    if isinstance(action_space, spaces.Discrete):
        actions = actions.long()  # as the algorithms convert them

    gradients = []
    for policy in (stock, ours):
        values, log_prob, entropy = policy.evaluate_actions(obs, actions)
        (values.sum() + 2 * log_prob.sum() + 3 * entropy.sum()).backward()
        gradients.append((values, log_prob, entropy, *(parameter.grad for parameter in policy.parameters())))
    for theirs, own in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)  # sums of float32 in two orders
    torch.testing.assert_close(ours.predict_values(obs), stock.predict_values(obs))
    assert torch.equal(ours.get_distribution(obs).mode(), stock.get_distribution(obs).mode().to(ours.action_dist.dtype))
    assert torch.equal(ours._predict(obs, deterministic=True), ours(obs, deterministic=True)[0])


@pytest.mark.parametrize("action_space", FROM_ZERO, ids=str)
def test_divergence_is_the_stock_policys(action_space):
    stock, ours = pair(VECTOR, action_space)
    one, other = observations(VECTOR, 6), observations(VECTOR, 12)[6:]

    # The stock policy's distributions are one object: the first has to be copied.
    expected = kl_divergence(copy(stock.get_distribution(one)), stock.get_distribution(other))
    if isinstance(action_space, spaces.MultiBinary):
        assert expected.shape == (6, 4)  # Stable-Baselines3 forgets to add up the bits
        expected = expected.sum(-1)
    torch.testing.assert_close(kl_divergence(ours.get_distribution(one), ours.get_distribution(other)), expected)


def test_extractor_and_networks_follow_the_observations():
    action_space = spaces.Discrete(3)
    masked = spaces.Dict({"image": IMAGE, MASK_KEY: spaces.MultiBinary(3)})
    cases = [(VECTOR, FlattenExtractor), (IMAGE, NatureCNN), (DICT, CombinedExtractor), (masked, CombinedExtractor)]
    for space, extractor in cases:
        policy = GumbelActorCriticPolicy(space, action_space, rate)
        assert type(policy.features_extractor) is extractor
        assert policy.net_arch == ([] if extractor is NatureCNN else {"pi": [64, 64], "vf": [64, 64]})
    chosen = GumbelActorCriticPolicy(IMAGE, action_space, rate, features_extractor_class=FlattenExtractor)
    assert type(chosen.features_extractor) is FlattenExtractor


# The law of actions.


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("action_space", FROM_ANYWHERE, ids=str)
def test_samples_have_the_probabilities(action_space, masked):
    """A chi-square test of each factor at 1e-7: false alarms at most 1e-6 a case."""
    policy = policy_with_logits(action_space, np.random.default_rng(1))
    mask = random_mask(action_space, np.random.default_rng(2)) if masked else np.ones(width(action_space))
    count = 20_000
    obs = {"observation": torch.zeros(count, 5), MASK_KEY: torch.as_tensor(mask).expand(count, -1)}
    torch.manual_seed(5)
    with torch.no_grad():
        actions, _, log_prob = policy(obs)
        probs = policy.get_distribution(obs).distribution.probs[0].double().numpy()

    used = np.array([choices(action_space, action) for action in actions.numpy()])
    assert mask[used].all()
    for factor, block in enumerate(blocks(action_space)):
        drawn = np.bincount(used[:, factor] - block.start, minlength=block.stop - block.start)
        possible = probs[block] > 0
        assert np.array_equal(possible, mask[block] > 0)
        if possible.sum() > 1:
            expected = count * probs[block][possible] / probs[block].sum()
            assert stats.chisquare(drawn[possible], expected).pvalue > 1e-7
    np.testing.assert_allclose(log_prob.numpy(), np.log(probs[used]).sum(-1), rtol=1e-4)


def policy_with_logits(action_space: spaces.Space[Any], rng: np.random.Generator) -> GumbelActorCriticPolicy:
    """Its logits are drawn once and do not depend on what is observed."""
    policy = GumbelActorCriticPolicy(masked_space(action_space), action_space, rate)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.from_numpy(rng.normal(size=policy.action_net.bias.shape)))
    return policy


def test_masked_numbers_by_hand():
    action_space = spaces.MultiDiscrete([3, 2], start=[10, -1])
    policy = GumbelActorCriticPolicy(masked_space(action_space), action_space, rate)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.tensor([1.0, 2.0, 4.0, 3.0, 6.0]).log())
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]])
    obs = {"observation": torch.zeros(2, 5), MASK_KEY: mask}

    # Row by row: 1/3, 2/3 | 1/3, 2/3 and 1/7, 2/7, 4/7 | 1.
    _, log_prob, entropy = policy.evaluate_actions(obs, torch.tensor([[11.0, -1.0], [12.0, -1.0]]))
    torch.testing.assert_close(log_prob, torch.tensor([math.log(2 / 9), math.log(4 / 7)]))
    thirds = math.log(3) - 2 / 3 * math.log(2)
    sevenths = math.log(7) - 2 / 7 * math.log(2) - 4 / 7 * math.log(4)
    torch.testing.assert_close(entropy, torch.tensor([2 * thirds, sevenths]))
    assert policy._predict(obs, deterministic=True).tolist() == [[11, 0], [12, -1]]

    log_prob.sum().backward()
    # Of the logits: one-hot minus probabilities, nothing for what is masked.
    expected = torch.tensor([-1 / 3, 1 / 3, 0, 2 / 3, -2 / 3]) + torch.tensor([-1 / 7, -2 / 7, 3 / 7, 0, 0])
    torch.testing.assert_close(policy.action_net.bias.grad, expected)


def test_masked_bits_by_hand():
    action_space = spaces.MultiBinary(2)
    policy = GumbelActorCriticPolicy(masked_space(action_space), action_space, rate)
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.tensor([math.log(3), math.log(4)]))  # P(1) = 3/4 and 4/5
    obs = {"observation": torch.zeros(1, 5), MASK_KEY: torch.tensor([[1, 0, 1, 1]])}  # the first bit must be 0

    _, log_prob, entropy = policy.evaluate_actions(obs, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(log_prob, torch.tensor([math.log(4 / 5)]))
    torch.testing.assert_close(entropy, torch.tensor([math.log(5) - 4 / 5 * math.log(4)]))
    assert policy._predict(obs, deterministic=True).tolist() == [[0, 1]]


def test_mask_is_no_feature():
    action_space = spaces.MultiDiscrete([3, 2])
    policy = GumbelActorCriticPolicy(masked_space(action_space), action_space, rate)
    obs = observations(masked_space(action_space))
    masks = [torch.ones(9, 5), torch.eye(5)[[0, 1, 2] * 3] + torch.eye(5)[[3, 4, 4] * 3]]
    results = [
        (policy.predict_values(obs | {MASK_KEY: mask}), policy.get_distribution(obs | {MASK_KEY: mask}).distribution)
        for mask in masks
    ]
    assert policy.features_dim == 5
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1].logits, results[1][1].logits)
    assert not torch.equal(results[0][1].probs, results[1][1].probs)


def test_distributions_do_not_change_once_made():
    policy = GumbelActorCriticPolicy(VECTOR, spaces.Discrete(3), rate)
    first = policy.get_distribution(torch.zeros(1, 5))
    logits = first.distribution.logits
    second = policy.get_distribution(torch.ones(1, 5))
    assert isinstance(second.distribution, FactoredCategorical)
    assert first.distribution.logits is logits


@pytest.mark.parametrize("share", [True, False])
def test_integer_observations_may_begin_anywhere(share):
    def policy(start: int) -> GumbelActorCriticPolicy:
        space = spaces.Dict({"room": spaces.Discrete(4, start=start), "position": VECTOR})
        torch.manual_seed(0)
        return GumbelActorCriticPolicy(space, spaces.Discrete(3), rate, share_features_extractor=share)

    room, position = torch.tensor([0, 3, 1]), torch.randn(3, 5)
    plain, shifted = policy(0), policy(7)
    one, other = {"room": room, "position": position}, {"room": room + 7, "position": position}
    for method in ("predict_values", "evaluate_actions", "get_distribution"):
        arguments = (torch.tensor([0, 1, 2]),) if method == "evaluate_actions" else ()
        expected, found = getattr(plain, method)(one, *arguments), getattr(shifted, method)(other, *arguments)
        if method == "get_distribution":
            expected, found = expected.distribution.probs, found.distribution.probs
        torch.testing.assert_close(found, expected)


# In the algorithms.


@pytest.mark.parametrize("action_space", FROM_ANYWHERE, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_forbidden_action_is_executed(algorithm, action_space):
    env = DummyVecEnv([lambda: ActionMaskObservation(Guarded(action_space))] * 2)
    model = algorithm(GumbelActorCriticPolicy, env, seed=0, learning_rate=0.01, **ALGORITHMS[algorithm]).learn(384)
    assert model.num_timesteps == 384
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())

    obs = env.reset()
    for deterministic in [True] * 30 + [False] * 30:
        obs = env.step(model.predict(obs, deterministic=deterministic)[0])[0]


@pytest.mark.parametrize("action_space", FROM_ANYWHERE, ids=str)
def test_actions_come_back_from_the_buffer_as_they_went_in(action_space):
    """What the losses see of a rollout: log-probabilities of the same actions, so that all ratios are 1 at first."""
    env = DummyVecEnv([lambda: ActionMaskObservation(Guarded(action_space))] * 3)
    model = PPO(GumbelActorCriticPolicy, env, n_steps=16, batch_size=48, n_epochs=1, learning_rate=0.0, seed=0)
    nn.init.normal_(model.policy.action_net.weight)
    model.learn(48)
    for data in model.rollout_buffer.get(48):
        actions = data.actions.long().flatten() if isinstance(action_space, spaces.Discrete) else data.actions
        values, log_prob, _ = model.policy.evaluate_actions(data.observations, actions)
        torch.testing.assert_close(log_prob, data.old_log_prob)
        torch.testing.assert_close(values.flatten(), data.old_values)
        assert log_prob.std() > 0.1


@pytest.mark.parametrize("action_space", FROM_ZERO, ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learns_the_stock_policys_weights_from_the_same_random_numbers(monkeypatch, algorithm, action_space):
    def sample_like_stock(self: FactoredDistribution) -> torch.Tensor:
        logits = self.distribution.logits
        if self.bits:
            return Bernoulli(logits=logits[:, 1::2] - logits[:, ::2]).sample()
        parts = torch.split(logits, list(self.factors.sizes), -1)
        return self.factors.to_env(torch.stack([Categorical(logits=part).sample() for part in parts], -1))

    monkeypatch.setattr(FactoredDistribution, "sample", sample_like_stock)
    trained = []
    for policy in ("MlpPolicy", GumbelActorCriticPolicy):
        options: dict[str, Any] = {"learning_rate": 0.01, **ALGORITHMS[algorithm]}
        if algorithm is TRPO:
            # The divergence of bits is their sum for the plug-in, their mean for the stock policy.
            scale = 4 if isinstance(action_space, spaces.MultiBinary) and policy is GumbelActorCriticPolicy else 1
            options |= {"target_kl": 0.01 * scale, "cg_damping": 0.1 * scale}
        env = DummyVecEnv([lambda: Matches(action_space)] * 2)
        model = algorithm(policy, env, seed=0, policy_kwargs={"net_arch": [8]}, **options)
        before = copy(model.policy.parameters_to_vector())
        trained.append(model.learn(256).policy.parameters_to_vector())
        assert np.abs(trained[-1] - before).max() > 0.01
    np.testing.assert_allclose(trained[1], trained[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learns(algorithm):
    """Two situations, four factors of four choices: chance finds 7 of the 8 best choices once in 2500 times.

    With 40 seeds each, one run of PPO, one of A2C and none of TRPO found 7 only; all others found 8.
    """
    model = taught(algorithm, seed=0)
    obs = np.eye(2, dtype=np.float32)
    actions = model.predict(obs, deterministic=True)[0]
    assert (actions == Matches().targets).sum() >= 7


def taught(algorithm: type[OnPolicyAlgorithm], seed: int) -> OnPolicyAlgorithm:
    options = {
        PPO: {"n_steps": 32, "batch_size": 256, "n_epochs": 8, "learning_rate": 0.005, "ent_coef": 0.02},
        A2C: {"n_steps": 16, "learning_rate": 0.005, "ent_coef": 0.02},
        TRPO: {"n_steps": 32, "batch_size": 64, "n_critic_updates": 4, "target_kl": 0.05},
    }
    env = DummyVecEnv([Matches] * 8)
    return algorithm(GumbelActorCriticPolicy, env, seed=seed, gamma=0.0, **options[algorithm]).learn(10_000)


@pytest.mark.parametrize(
    ("observation_space", "options"),
    [
        (VECTOR, {}),
        # Stable-Baselines3 puts the channels first.
        (spaces.Box(0, 255, (36, 36, 3), np.uint8), {"share_features_extractor": False}),
        (DICT, {"share_features_extractor": False, "net_arch": [8]}),
        (spaces.Discrete(4, start=2), {}),
        (spaces.MultiDiscrete([3, 2], start=[-1, 4]), {}),
    ],
    ids=["vector", "image", "dict", "discrete", "multidiscrete"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_save_and_load(tmp_path, observation_space, options, masked):
    action_space = spaces.MultiDiscrete([2, 3], start=[4, 5])
    wrapper = ActionMaskObservation if masked else gym.Wrapper
    env = DummyVecEnv([lambda: wrapper(Guarded(action_space, observation_space, masked))] * 2)
    model = PPO(GumbelActorCriticPolicy, env, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs=options, seed=1)
    model.learn(32)
    obs = model.get_env().reset()
    expected = model.predict(obs, deterministic=True)[0]
    obs_tensor = model.policy.obs_to_tensor(obs)[0]

    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    loaded = PPO.load(tmp_path / "model", env=env)
    policies = [loaded.policy, GumbelActorCriticPolicy.load(tmp_path / "policy")]
    for policy in policies:
        assert isinstance(policy, GumbelActorCriticPolicy)
        assert np.array_equal(policy.predict(obs, deterministic=True)[0], expected)
        assert torch.equal(policy.predict_values(obs_tensor), model.policy.predict_values(obs_tensor))
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == 64


def test_normalisation_leaves_the_mask_alone():
    def env(mask_space: spaces.Space[Any], **options: Any) -> VecNormalize:
        wrapped = ActionMaskObservation(Guarded(spaces.Discrete(3)))
        wrapped.observation_space.spaces[MASK_KEY] = mask_space
        return VecNormalize(DummyVecEnv([lambda: wrapped]), **options)

    floats = spaces.Box(0, 1, (3,), np.float32)
    for mask_space in (spaces.MultiBinary(3), floats):
        normalised = env(mask_space, norm_obs_keys=["observation"])
        PPO(GumbelActorCriticPolicy, normalised, n_steps=32, batch_size=16, n_epochs=1, seed=0).learn(64)
        assert normalised.obs_rms["observation"].count > 60
    with pytest.raises(ValueError, match=r"entries other than 0 and 1.*norm_obs_keys"):
        PPO(GumbelActorCriticPolicy, env(floats), n_steps=32, batch_size=16, seed=0).learn(64)


# Mistakes.


@pytest.mark.parametrize(
    ("action_space", "error", "words"),
    [
        (spaces.Box(-1, 1, (2,)), TypeError, r"Box.*supported are Discrete, MultiDiscrete and MultiBinary.*MlpPolicy"),
        (OneHotBox(ActionFactors((3,))), TypeError, "leave OneHotActions out"),
        (spaces.Tuple([spaces.Discrete(2)]), TypeError, r"Tuple.*put the parts into a MultiDiscrete"),
        (spaces.Dict({"a": spaces.Discrete(2)}), TypeError, r"Dict.*put the parts into a MultiDiscrete"),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), ValueError, r"shape \(2, 2\).*one dimension"),
        (spaces.MultiBinary((2, 3)), ValueError, r"shape \(2, 3\).*MultiBinary\(6\)"),
        (spaces.MultiBinary([3]), ValueError, r"MultiBinary\(3\)"),
        (spaces.Discrete(3, start=2**24), ValueError, r"beyond 16777216.*adds the start"),
        (spaces.Discrete(3, start=-(2**24) - 1), ValueError, "beyond 16777216"),
    ],
    ids=str,
)
def test_refuses_action_spaces(action_space, error, words):
    with pytest.raises(error, match=words):
        GumbelActorCriticPolicy(VECTOR, action_space, rate)


def test_largest_actions_survive_the_buffer():
    start = 2**24 - 2
    policy = GumbelActorCriticPolicy(VECTOR, spaces.MultiDiscrete([3], start=[start]), rate)
    actions = torch.tensor([[start], [start + 1], [start + 2]])
    obs = torch.zeros(3, 5)
    assert torch.equal(policy.evaluate_actions(obs, actions.float())[1], policy.evaluate_actions(obs, actions)[1])


def test_refuses_a_continuous_environment_and_one_hots():
    with pytest.raises(TypeError, match="Box"):
        PPO(GumbelActorCriticPolicy, "Pendulum-v1")
    with pytest.raises(TypeError, match="leave OneHotActions out"):
        PPO(GumbelActorCriticPolicy, OneHotActions(gym.make("CartPole-v1")))


def test_refuses_observations_and_options():
    with pytest.raises(TypeError, match="observation space Tuple"):
        GumbelActorCriticPolicy(spaces.Tuple([VECTOR]), spaces.Discrete(3), rate)
    with pytest.raises(ValueError, match="use_sde"):
        GumbelActorCriticPolicy(VECTOR, spaces.Discrete(3), rate, use_sde=True)
    with pytest.raises(TypeError, match="estimator"):
        PPO(GumbelActorCriticPolicy, "CartPole-v1", policy_kwargs={"estimator": "exact"})


def test_refuses_masks():
    wrong = spaces.Dict({"observation": VECTOR, MASK_KEY: spaces.MultiBinary(4)})
    with pytest.raises(ValueError, match=r"mask of 5 entries, for example MultiBinary\(5\)"):
        GumbelActorCriticPolicy(wrong, spaces.MultiDiscrete([2, 3]), rate)
    with pytest.raises(ValueError, match=r"mask of 4 entries"):  # two for each bit
        GumbelActorCriticPolicy(masked_space(spaces.Discrete(2)), spaces.MultiBinary(2), rate)
    with pytest.raises(ValueError, match="nothing to observe"):
        GumbelActorCriticPolicy(spaces.Dict({MASK_KEY: spaces.MultiBinary(3)}), spaces.Discrete(3), rate)
    policy = GumbelActorCriticPolicy(masked_space(spaces.Discrete(3)), spaces.Discrete(3), rate)
    with pytest.raises(ValueError, match="at least one must be allowed"):
        policy.predict({"observation": np.zeros(5, np.float32), MASK_KEY: np.zeros(3)})


def test_single_actions_may_come_as_a_column():
    policy = GumbelActorCriticPolicy(VECTOR, spaces.Discrete(3, start=1), rate)
    obs, actions = observations(VECTOR, 3), torch.tensor([1, 3, 2])
    assert torch.equal(policy.evaluate_actions(obs, actions[:, None])[1], policy.evaluate_actions(obs, actions)[1])


@pytest.mark.parametrize("actions", [[[0.0, 4.0]], [[1.0, 5.0]], [[1.5, 4.0]]])
def test_refuses_actions_that_are_none(actions):
    policy = GumbelActorCriticPolicy(VECTOR, spaces.MultiDiscrete([2, 1], start=[1, 4]), rate)
    with pytest.raises(ValueError, match="action"):
        policy.evaluate_actions(torch.zeros(1, 5), torch.tensor(actions))
