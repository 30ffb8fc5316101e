"""What an actor hands to a critic: any estimator's gradient passes, to the policy and nowhere else."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracles import assert_mean, exact_expectation, outcome_probs, outcomes
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from gumbel_rl import ESTIMATORS, ActionFactors, FactoredCategorical, make_estimator
from gumbel_rl.critics import CRITICS, Critic
from gumbel_rl.estimators import Exact, PathwiseEstimator
from gumbel_rl.sb3 import GumbelSACPolicy, GumbelTD3Policy, OneHotActions
from gumbel_rl.sb3.networks import GumbelCritics
from gumbel_rl.sb3.policy_output import PolicyOutput, attached_output
from gumbel_rl.wrappers import OneHotBox

SIZES = (2, 3)
FACTORS = ActionFactors(SIZES)
B = 6


class Features(BaseFeaturesExtractor):
    """A layer with weights, so that a gradient towards features would show."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space, 5)
        self.layer = nn.Linear(4, 5)

    def forward(self, observations: Tensor) -> Tensor:
        output: Tensor = self.layer(observations.to(self.layer.weight)).tanh()
        return output


class Fixed(gym.Env[Any, Any]):
    """An environment that always shows the same action mask."""

    def __init__(self, observation_space: spaces.Dict, action_space: spaces.Space[Any], mask: Any) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.mask = mask

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return {"x": np.zeros(4, np.float32), "action_mask": self.mask}, {}


def make_policy(cls: Any = GumbelSACPolicy, sizes: tuple[int, ...] = SIZES, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    settings = {"net_arch": [16], "features_extractor_class": Features} | options
    policy = cls(space, OneHotBox(ActionFactors(sizes)), lambda _: 1e-3, **settings)
    policy.double()
    for parameter in policy.actor.net.parameters():
        parameter.data.mul_(30)  # the first policy is nearly uniform, and hides errors
    return policy


def observations(batch: int = B, seed: int = 1) -> Tensor:
    return torch.randn(batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaf_logits(sizes: tuple[int, ...] = SIZES, batch: int = B, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, sum(sizes), dtype=torch.float64, generator=generator).requires_grad_()


def estimator_for(name: str, critic: Critic, samples: int = 2) -> Any:
    """The estimator, which does again what it did if it is given the same noise: some draw noise of their own too."""

    class Repeatable(ESTIMATORS[name]):  # type: ignore[misc]
        def __call__(self, *arguments: Any) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(4)
                return super().__call__(*arguments)

        def relax(self, *arguments: Any) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(4)
                return super().relax(*arguments)

    options: dict[str, Any] = {"multilinear": critic.multilinear} if name == "exact" else {}
    if ESTIMATORS[name].learns:
        options["learning_rate"] = 0.0  # so that it is the same after a loss as before
    return Repeatable(samples=samples, **options)


def critic_features(critic: GumbelCritics, obs: Tensor) -> Tensor:
    return critic.extract_features(obs, critic._extractor).detach()


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_gradient_through_stock_calls_is_the_estimators_own(name: str, critic: str) -> None:
    policy = make_policy(critic=critic)
    critics, obs, leaf = policy.critic, observations(), leaf_logits()
    estimator = estimator_for(name, critics.critics[0])
    dist = FactoredCategorical(leaf, FACTORS)
    output = PolicyOutput.draw(dist, estimator)
    assert output.noise.shape == (2, B, 5)
    values = critics(obs, output.tensor())
    q1 = critics.q1_forward(obs, output.tensor())
    assert [value.shape for value in (*values, q1)] == [(B, 1)] * 3
    features = critic_features(critics, obs)
    for value, module in zip((*values, q1), (*critics.critics, critics.critics[0]), strict=True):
        own = estimator(FactoredCategorical(leaf, FACTORS), module.at(features), output.noise)
        torch.testing.assert_close(value[:, 0], own)
        (through,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
        (expected,) = torch.autograd.grad(own.sum(), leaf)
        torch.testing.assert_close(through, expected)
        assert expected.abs().sum() > 0


@pytest.mark.parametrize("cls", [GumbelSACPolicy, GumbelTD3Policy])
@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_actors_loss_trains_the_actor_alone(name: str, critic: str, cls: Any) -> None:
    policy = make_policy(cls, estimator=name, estimator_kwargs={"samples": 2}, critic=critic)
    obs = observations().requires_grad_()
    if cls is GumbelSACPolicy:
        actions, _ = policy.actor.action_log_prob(obs)
        loss = -torch.cat(policy.critic(obs, actions), 1).min(1).values.mean()
    else:
        loss = -policy.critic.q1_forward(obs, policy.actor(obs)).mean()
    loss.backward()
    for parameter_name, parameter in policy.critic.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is None, parameter_name
    for parameter in policy.actor.parameters():
        assert parameter.grad is not None
    assert policy.actor.net[-1].weight.grad.abs().sum() > 0
    assert policy.actor.features_extractor.layer.weight.grad.abs().sum() > 0
    # The critics' own loss trains them as ever.
    stored = 2 * policy.actor.distribution(obs).sample() - 1
    sum(value.square().mean() for value in policy.critic(obs, stored)).backward()
    assert all(parameter.grad is not None for parameter in policy.critic.critics.parameters())
    assert policy.critic.features_extractor.layer.weight.grad.abs().sum() > 0


def test_shared_features_are_the_actors_and_its_loss_alone_trains_them() -> None:
    policy = make_policy(share_features_extractor=True)
    obs = observations()
    layer = policy.actor.features_extractor.layer
    assert policy.critic.features_extractor is policy.actor.features_extractor
    sum(value.square().mean() for value in policy.critic(obs, 2.0 * outcomes(SIZES)[:B] - 1)).backward()
    assert layer.weight.grad is None
    # ... and only by way of the policy: the value's dependence on the features is left out.
    actions, _ = policy.actor.action_log_prob(obs)
    policy.critic(obs, actions)[0].mean().backward()
    through = layer.weight.grad.clone()
    layer.weight.grad = None
    output = attached_output(actions)
    assert output is not None
    again = policy.actor.distribution(obs)
    critic = policy.critic.critics[0]
    policy.estimator(again, critic.at(critic_features(policy.critic, obs)), output.noise).mean().backward()
    torch.testing.assert_close(through, layer.weight.grad)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_once_the_attribute_is_lost_the_entries_count(name: str, critic: str) -> None:
    policy = make_policy(critic=critic)
    critics, obs, leaf = policy.critic, observations(), leaf_logits()
    estimator = estimator_for(name, critics.critics[0])
    output = PolicyOutput.draw(FactoredCategorical(leaf, FACTORS), estimator)
    actions = output.tensor()
    assert attached_output(actions) is output
    dist = FactoredCategorical(leaf, FACTORS)
    if isinstance(estimator, PathwiseEstimator):
        entries = estimator.relax(dist, output.noise[0])
    else:
        entries = dist.sample(noise=output.noise[0])
    for lost in (actions.clone(), actions + 0.0, actions.detach().requires_grad_(), torch.cat([actions])):
        assert attached_output(lost) is None
        for value, module in zip(critics(obs, lost), critics.critics, strict=True):
            torch.testing.assert_close(value[:, 0], module(critic_features(critics, obs), entries))
    if isinstance(estimator, PathwiseEstimator):
        # What a tensor can carry, it carries: the pathwise gradient.
        through, expected = (
            torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0]
            for value in (
                critics(obs, actions.clone())[0],
                critics.critics[0](critic_features(critics, obs), entries),
            )
        )
        torch.testing.assert_close(through, expected)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("sizes", [(4,), (2, 3)], ids=str)
def test_without_gradients_the_value_is_exact_where_it_can_be(name: str, critic: str, sizes: tuple[int, ...]) -> None:
    policy = make_policy(critic=critic, sizes=sizes)
    critics, obs, leaf = policy.critic, observations(), leaf_logits(sizes)
    estimator = estimator_for(name, critics.critics[0], samples=3)
    dist = FactoredCategorical(leaf, ActionFactors(sizes))
    output = PolicyOutput.draw(dist, estimator, ent_coef=7.0)  # which belongs to the loss alone
    with torch.no_grad():
        values = critics(obs, output.tensor())
    features = critic_features(critics, obs)
    for value, module in zip(values, critics.critics, strict=True):
        assert not value.requires_grad
        if module.multilinear or name == "exact":
            expected = [exact_expectation(leaf[i], sizes, module.at(features[i]))[0] for i in range(B)]
            torch.testing.assert_close(value[:, 0], torch.stack(expected))
        else:
            # The mean over hard samples, even for an estimator whose own samples are relaxed.
            samples = dist.sample(noise=output.noise)
            assert samples.shape == (3, B, sum(sizes))
            assert set(samples.unique().tolist()) == {0.0, 1.0}
            torch.testing.assert_close(value[:, 0], module(features, samples).mean(0))


@pytest.mark.parametrize("name", ["st-gumbel-softmax", "gumbel-softmax", "rloo"])
def test_values_from_samples_are_right_on_average(name: str) -> None:
    policy = make_policy(critic="mlp")
    obs, leaf = observations(1), leaf_logits(batch=1)
    torch.manual_seed(3)
    dist = FactoredCategorical(leaf.expand(4000, -1), FACTORS)
    with torch.no_grad():
        output = PolicyOutput.draw(dist, make_estimator(name, samples=2))
        values = policy.critic(obs.expand(4000, -1), output.tensor())[0]
    critic = policy.critic.critics[0]
    exact = exact_expectation(leaf[0], SIZES, critic.at(critic_features(policy.critic, obs)[0]))[0]
    assert_mean(values, exact)


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_critics_are_compared_on_the_same_actions(name: str, no_grad: bool) -> None:
    policy = make_policy(critic="mlp", n_critics=3)
    first = policy.critic.critics[0].state_dict()
    for other in list(policy.critic.critics)[1:]:
        other.load_state_dict(first)
    output = PolicyOutput.draw(
        FactoredCategorical(leaf_logits(), FACTORS), estimator_for(name, policy.critic.critics[0])
    )
    with torch.set_grad_enabled(not no_grad):
        one, two, three = policy.critic(observations(), output.tensor())
    assert torch.equal(one, two)
    assert torch.equal(one, three)
    fresh = PolicyOutput.draw(output.dist, output.estimator)
    assert not torch.equal(fresh.noise, output.noise)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_entropy_of_a_loss_is_the_closed_form(name: str) -> None:
    policy = make_policy()
    leaf = leaf_logits()
    critics, obs = policy.critic, observations()
    output = PolicyOutput.draw(FactoredCategorical(leaf, FACTORS), estimator_for(name, critics.critics[0]), 0.7)
    plain = PolicyOutput(output.dist, output.estimator, output.noise)
    difference = critics.q1_forward(obs, output.tensor()) - critics.q1_forward(obs, plain.tensor())
    entropy = torch.stack([-(p * p.log()).sum() for p in (outcome_probs(row, SIZES) for row in leaf)])
    torch.testing.assert_close(difference[:, 0], 0.7 * entropy)
    through, expected = (torch.autograd.grad(x.sum(), leaf)[0] for x in (difference, 0.7 * entropy))
    torch.testing.assert_close(through, expected)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if not ESTIMATORS[name].leaves_vertices])
def test_the_tensors_entries_are_exactly_plus_and_minus_one(name: str) -> None:
    dist = FactoredCategorical(leaf_logits().float(), FACTORS)
    actions = PolicyOutput.draw(dist, make_estimator(name, samples=2)).tensor()
    assert actions.shape == (B, 5)
    if name == "exact":
        torch.testing.assert_close(actions, 2 * dist.probs - 1)
    else:
        assert set(actions.unique().tolist()) == {-1.0, 1.0}
        assert torch.equal((actions > 0).float().split(SIZES, -1)[1].sum(-1), torch.ones(B))


def test_the_exact_estimator_of_a_policy_fits_its_critic() -> None:
    for critic, sizes in [("mlp", (4,)), ("interpolated", (4,)), ("interpolated", SIZES), ("multilinear", SIZES)]:
        policy = make_policy(sizes=sizes, critic=critic, estimator="exact")
        assert isinstance(policy.estimator, Exact)
        assert policy.estimator.multilinear == policy.critic.critics[0].multilinear


@pytest.mark.parametrize("learning", [False, True])
def test_interpolated_learning_moves_the_points_of_the_critics_loss_alone(
    learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(critic="mlp", critic_kwargs={"interpolated_learning": learning})
    critics, obs = policy.critic, observations()
    seen: list[Tensor] = []
    forward = Critic.forward
    monkeypatch.setattr(Critic, "forward", lambda self, f, z: seen.append(z.detach()) or forward(self, f, z))
    actions = 2.0 * outcomes(SIZES)[:B] - 1.0
    critics(obs, actions)
    one, two = seen
    assert torch.equal(one, two)  # both critics are fitted at the same points
    assert torch.equal(one, outcomes(SIZES)[:B]) == (not learning)
    for block in one.split(SIZES, -1):
        torch.testing.assert_close(block.sum(-1), torch.ones(B, dtype=torch.float64))
    seen.clear()
    with torch.no_grad():
        critics(obs, actions)
    assert all(torch.equal(points, outcomes(SIZES)[:B]) for points in seen)
    assert len(seen) == 2


# What the environment executed, and what the critic learns that it executed.


@pytest.mark.parametrize("sizes", [(4,), (2, 5, 1, 3), (3, 3)], ids=str)
def test_the_critic_knows_what_the_environment_executed_instead_of_the_forbidden(sizes: tuple[int, ...]) -> None:
    factors = ActionFactors(sizes)
    space = spaces.Dict({"x": spaces.Box(-1.0, 1.0, (4,)), "action_mask": spaces.MultiBinary(factors.width)})
    torch.manual_seed(0)
    policy = GumbelSACPolicy(space, OneHotBox(factors), lambda _: 1e-3, net_arch=[8])
    action_space = OneHotBox(factors, seed=0)
    generator = np.random.default_rng(1)
    wanted, masks, executed = [], [], []
    for _ in range(200):
        blocks = [generator.random(n) < 0.4 for n in sizes]
        for block in blocks:
            block[generator.integers(len(block))] = True
        mask = np.concatenate(blocks)
        env = OneHotActions(Fixed(space, spaces.MultiDiscrete(sizes), mask.astype(np.int8)))
        env.reset()
        action = action_space.sample()
        wanted.append(action)
        masks.append(mask)
        executed.append(env.action(action))
    obs = {"x": torch.zeros(200, 4), "action_mask": torch.tensor(np.stack(masks).astype(np.int8))}
    actions = torch.tensor(np.stack(wanted))
    one_hots = policy.critic._executed(obs, (actions + 1) / 2)
    assert np.array_equal(factors.decode(one_hots), np.stack(executed))
    assert not torch.equal(one_hots, (actions + 1) / 2)
    # And that is where the values come from.
    for value, critic in zip(policy.critic(obs, actions), policy.critic.critics, strict=True):
        torch.testing.assert_close(value[:, 0], critic(torch.zeros(200, 4), factors.encode(np.stack(executed))))


# Features of observations


@pytest.mark.parametrize("cls", [GumbelSACPolicy, GumbelTD3Policy])
def test_features_leave_the_mask_out_and_integers_may_begin_anywhere(cls: Any) -> None:
    space = spaces.Dict(
        {
            "a": spaces.Discrete(3, start=-2),
            "action_mask": spaces.MultiBinary(5),
            "b": spaces.MultiDiscrete([2, 3], start=[5, -1]),
            "c": spaces.Box(-1.0, 1.0, (2,), np.float32),
        }
    )
    policy = cls(space, OneHotBox(FACTORS), lambda _: 1e-3, net_arch=[8])
    obs = {
        "a": torch.tensor([[-2], [0]]),
        "action_mask": torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]]),
        "b": torch.tensor([[5, 1], [6, -1]]),
        "c": torch.tensor([[0.25, 0.5], [-0.25, -0.5]]),
    }
    expected = [[1, 0, 0, 1, 0, 0, 0, 1, 0.25, 0.5], [0, 0, 1, 0, 1, 1, 0, 0, -0.25, -0.5]]
    for model in (policy.actor, policy.critic, policy.critic_target):
        assert model.extract_features(obs, model.features_extractor).tolist() == expected
    # The mask is respected instead: what it forbids has no probability.
    probs = policy.actor.distribution(obs).probs
    assert (probs > 0).long().tolist() == obs["action_mask"].tolist()
    assert obs["a"].tolist() == [[-2], [0]]


def test_integer_observations_that_are_all_there_is_may_begin_anywhere_too() -> None:
    for space, values, expected in (
        (spaces.Discrete(3, start=4), [[4], [6]], [[1, 0, 0], [0, 0, 1]]),
        (spaces.MultiDiscrete([2, 2], start=[1, 0]), [[1, 1], [2, 0]], [[1, 0, 0, 1], [0, 1, 1, 0]]),
    ):
        policy = GumbelSACPolicy(space, OneHotBox(FACTORS), lambda _: 1e-3, net_arch=[8])
        for model in (policy.actor, policy.critic):
            assert model.extract_features(torch.tensor(values), model.features_extractor).tolist() == expected
