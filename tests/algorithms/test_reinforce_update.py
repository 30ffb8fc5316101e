"""One update of Reinforce against the exact policy gradient, and against a plain recomputation.

`(1 / episodes) sum_t (G_t - b_t) d log pi(a_t | s_t)`, summed over the steps of whole episodes, has the mean
`sum_s d(s) sum_a Q(s, a) d pi(a | s)`, with `d` the *undiscounted* occupancy, because no step is weighted by `gamma^t`.
For gamma = 1 that is the policy gradient.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from oracles import assert_mean
from scripted import LimitedMDP, Scale, Scripted, limited_mdp, one_step_agent, vectorised
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from gumbel_rl import Reinforce
from gumbel_rl.algorithms.reinforce import BASELINES

EPISODES = 24
UPDATES = 300
STATES = 4
OPTIONS = {"states": STATES, "actions": 3, "termination": 0.3, "table_seed": 10}
NEVER = 1000


def episode_returns(model: Reinforce, env: int, bootstrap: bool) -> np.ndarray:
    """Discounted returns from every step of the first episode of an environment, by the definition."""
    rollout = model.rollout
    length = int(rollout.dones[:, env].argmax()) + 1
    rewards = list(rollout.rewards[:length, env].astype(float))
    for step, where, last in rollout.truncations:
        if bootstrap and (step, where) == (length - 1, env):
            rewards.append(float(model.policy.predict_values(torch.as_tensor(last)[None]).detach()))
    powers = model.gamma ** np.arange(len(rewards))
    return np.array([rewards[t:] @ powers[: len(rewards) - t] for t in range(length)])


class Repeating(Reinforce):
    """Makes every update from the same parameters, with each of some baselines, and remembers what it would change."""

    changes: dict[str, list[Tensor]]
    mean_returns: list[float]

    def train(self) -> None:
        if not self.rollout.dones.any(0).all():
            return
        returns = [episode_returns(self, env, bootstrap=False) for env in range(self.n_envs)]
        self.mean_returns.append(float(np.concatenate(returns).mean()))
        steps = sum(map(len, returns))
        start = {name: value.clone() for name, value in self.policy.state_dict().items()}
        before = parameters_to_vector(self.policy.actor_parameters).detach()
        for baseline, changes in self.changes.items():
            self.baseline = baseline
            super().train()
            after = parameters_to_vector(self.policy.actor_parameters).detach()
            changes.append((after - before).double() * steps / EPISODES)
            self.policy.load_state_dict(start)


def agent(cls: type[Reinforce], env, **options) -> Reinforce:
    """An agent whose policy is far from uniform, and whose every update shows the whole gradient."""
    return one_step_agent(cls, env, **{"normalize_advantage": False, "value_epochs": 0} | options)


def collect_updates(limit: int, gamma: float, baselines: tuple[str, ...], values: Tensor | None) -> Repeating:
    """An agent after `UPDATES` updates; its critic says `values` `[S]`, by default the truth."""
    model = agent(Repeating, limited_mdp(limit, EPISODES, **OPTIONS), gamma=gamma)
    model.changes, model.mean_returns = {baseline: [] for baseline in baselines}, []
    (layer,) = model.policy.critic.net
    with torch.no_grad():
        truth = LimitedMDP(limit, 1, **OPTIONS).state_values(all_logits(model), gamma)
        layer.weight[0], layer.bias[0] = truth.float() if values is None else values, 0.0
    while len(model.mean_returns) < UPDATES:
        model.learn(5_000)
    return model


def all_logits(model: Reinforce) -> Tensor:
    return model.policy.distribution(torch.arange(STATES)).logits


def actor_gradient(model: Reinforce, objective: Tensor) -> Tensor:
    return parameters_to_vector(torch.autograd.grad(objective, model.policy.actor_parameters)).double()


def expected_change(model: Reinforce, limit: int, bootstrap: bool) -> Tensor:
    """`sum_t sum_s P(s_t = s) sum_a Q_t(s, a) d pi(a | s)` in the actor's parameters, over the steps before the limit.

    `Q_t` is the action value without the limit if what it cuts off is bootstrapped, and with it otherwise.
    """
    task = LimitedMDP(limit, 1, **OPTIONS)
    transitions, rewards = torch.as_tensor(task.transitions), torch.as_tensor(task.rewards)
    logits = all_logits(model)
    policy = logits.detach().double().softmax(-1)
    follow = torch.einsum("sa,sat->st", policy, transitions)
    now, weights = torch.as_tensor(task.start), torch.zeros_like(policy)
    values = [task.action_values(logits.detach(), model.gamma)] * limit
    if not bootstrap:
        values = [rewards]
        for _ in range(limit - 1):
            later = (policy * values[0]).sum(-1)
            values.insert(0, rewards + model.gamma * (1 - task.termination) * transitions @ later)
    for value in values:
        weights += now[:, None] * value
        now = (1 - task.termination) * now @ follow
    return actor_gradient(model, (weights * logits.double().softmax(-1)).sum())


@cache
def unlimited(gamma: float) -> tuple[Repeating, Tensor]:
    """Updates without a time limit with every baseline, the value being wrong, and the change to expect."""
    model = collect_updates(NEVER, gamma, BASELINES, torch.tensor([1.0, -0.5, 2.0, 0.3]))
    return model, expected_change(model, NEVER, bootstrap=True)


def test_the_expected_change_is_the_policy_gradient_without_discount():
    model, expected = unlimited(1.0)
    logits = all_logits(model)
    exact = LimitedMDP(NEVER, 1, **OPTIONS).policy_gradient(logits)
    torch.testing.assert_close(expected, actor_gradient(model, (exact * logits).sum()), rtol=1e-4, atol=1e-5)


def assert_update(changes: list[Tensor], expected: Tensor) -> None:
    draws = torch.stack(changes)
    assert_mean(draws, expected)
    # Sharp enough: the standard error of the mean is small beside the gradient.
    assert draws.std(0).norm() / math.sqrt(len(draws)) < 0.06 * expected.norm()


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("baseline", ["value", "rloo", "none"])
def test_update_is_the_policy_gradient(baseline, gamma):
    model, expected = unlimited(gamma)
    assert_update(model.changes[baseline], expected)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_bias_of_the_mean_baseline_is_small(gamma):
    # The mean b over all steps contains the return that it serves. With S = (1 / episodes) sum_t d log pi(a_t | s_t),
    # whose mean is zero, the bias is -E b S = -cov(b, S), at most std(b) std(S): of the order of 1 / episodes.
    model, expected = unlimited(gamma)
    with_mean, without = (torch.stack(model.changes[baseline]) for baseline in ("mean", "none"))
    b = torch.tensor(model.mean_returns, dtype=torch.float64)
    score = (without - with_mean) / b[:, None]
    bound = b.std() * score.std(0)
    assert bound.norm() < 0.25 * expected.norm()
    assert_mean(with_mean, expected, slack=bound)
    # And predicted: minus the covariance, whose own error is that of the difference.
    bias = -((b - b.mean())[:, None] * score).mean(0)
    torch.testing.assert_close(with_mean.mean(0) - without.mean(0) + b.mean() * score.mean(0), bias)


@cache
def limited(gamma: float) -> Repeating:
    """Updates where a time limit cuts most episodes short, the value being right."""
    return collect_updates(2, gamma, ("value", "none"), None)


def test_a_right_value_makes_up_for_a_time_limit():
    model = limited(0.9)
    expected = expected_change(model, 2, bootstrap=True)
    assert_update(model.changes["value"], expected)
    # As if truncation were termination: the comparison tells them apart.
    with pytest.raises(AssertionError):
        assert_update(model.changes["value"], expected_change(model, 2, bootstrap=False))


def test_without_a_value_the_limited_return_is_followed():
    model = limited(0.9)
    assert_update(model.changes["none"], expected_change(model, 2, bootstrap=False))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("baseline", BASELINES)
def test_update_recomputed(baseline, normalize):
    # Lengths 3 and 1, 2 and 2, 4: the second episodes must not matter, and two of the first are truncated.
    ends = ([(3, "truncated"), (1, "terminated")], [(2, "terminated")], [(4, "truncated")])
    model = agent(
        Reinforce,
        vectorised(*map(Scripted, ends)),
        gamma=0.8,
        baseline=baseline,
        normalize_advantage=normalize,
        ent_coef=0.3,
        value_epochs=1,
    )
    policy = model.policy
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    model.learn(12)
    after = {name: value.clone() for name, value in policy.state_dict().items()}
    assert model._n_updates == 1
    policy.load_state_dict(before)

    returns = [episode_returns(model, env, bootstrap=baseline == "value") for env in range(3)]
    rows = [(t, env) for env in range(3) for t in range(len(returns[env]))]
    assert len(rows) == 3 + 2 + 4
    observations = torch.stack([model.rollout.observations[row] for row in rows])
    targets = torch.tensor([returns[env][t] for t, env in rows], dtype=torch.float32)
    if baseline == "value":
        baselines = policy.predict_values(observations).detach()
    elif baseline == "mean":
        baselines = targets.mean()
    elif baseline == "rloo":
        others = [[returns[e][t] for e in range(3) if e != env and t < len(returns[e])] for t, env in rows]
        baselines = torch.tensor([sum(values) / 2 for values in others])
    else:
        baselines = 0.0
    advantages = targets - baselines
    if normalize:
        advantages = advantages / advantages.square().mean().sqrt()

    log_probs = policy.actor(observations).log_softmax(-1)
    taken = torch.stack([model.rollout.indices[row] for row in rows])
    gain = (advantages * log_probs.gather(-1, taken).squeeze(-1)).mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    expected = parameters_to_vector(policy.actor_parameters) + actor_gradient(model, gain + 0.3 * entropy)
    moved = torch.cat([after[f"actor.{name}"].flatten() for name, _ in policy.actor.named_parameters()])
    torch.testing.assert_close(moved.double(), expected.detach(), rtol=1e-4, atol=1e-4)

    # The value: one step of regression on the returns, with its own baseline only. For a value that is linear in its
    # parameters the step is the same in whatever units they are.
    values = policy.predict_values(observations)
    if baseline == "value":
        parameters = list(policy.critic.parameters())
        loss = (values - targets).square().mean()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= gradient
        values = policy.predict_values(observations)
    policy.load_state_dict(after)
    torch.testing.assert_close(policy.predict_values(observations), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_the_whole_step_of_the_policy_is_clipped(shared):
    kwargs = {"features_extractor_class": Scale, "share_features_extractor": shared}
    kwargs |= {"net_arch": [3], "optimizer_class": torch.optim.SGD}
    env = vectorised(*(Scripted([(3, "terminated")]) for _ in range(2)))
    model = agent(Reinforce, env, max_grad_norm=0.01, policy_kwargs=kwargs)
    before = {name: value.detach().clone() for name, value in model.policy.named_parameters()}
    model.learn(6)
    moved = {name: value.detach() - before[name] for name, value in model.policy.named_parameters()}
    policy_change = [change.flatten() for name, change in moved.items() if not name.startswith("critic")]
    assert float(torch.cat(policy_change).norm()) == pytest.approx(0.01, rel=1e-3)
    assert bool(moved["features_extractor.scale"].any())
    if not shared:
        assert not bool(moved["critic_extractor.scale"].any())


def test_no_update_from_unfinished_episodes():
    env = vectorised(Scripted([(2, "terminated")]), Scripted([(9, "terminated")]))
    model = agent(Reinforce, env, seed=0)
    before = parameters_to_vector(model.policy.parameters()).detach().clone()
    model.learn(10)  # 5 steps each: only the first environment finishes
    torch.testing.assert_close(parameters_to_vector(model.policy.parameters()).detach(), before, rtol=0, atol=0)


def test_an_episode_of_the_greatest_length_is_fine_and_a_longer_one_is_not():
    model = agent(Reinforce, vectorised(Scripted([(4, "terminated")])), max_episode_steps=4)
    model.learn(8)
    assert model._n_updates == 2
    model = agent(Reinforce, vectorised(Scripted([(5, "terminated")])), max_episode_steps=4)
    with pytest.raises(ValueError, match="did not end within 4 steps"):
        model.learn(10)


def test_a_run_goes_on_with_fresh_episodes_after_a_callback_ended_it():
    starts = []

    class Watching(Reinforce):
        def train(self):
            starts.append(self.rollout.observations[0, 0, 2].item())
            super().train()

    model = agent(Watching, vectorised(Scripted([(4, "terminated")])))
    model.learn(40, callback=lambda arguments, _: arguments["self"].num_timesteps < 6)
    assert model.num_timesteps == 6
    model.learn(8, reset_num_timesteps=False)
    assert starts == [0.0] * 3
