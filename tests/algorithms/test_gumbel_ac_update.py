"""One update of GumbelActorCritic against the exact policy gradient, and against a plain recomputation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripted import LimitedMDP, Scale, Scripted, limited_mdp, one_step_agent, vectorised
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from envs import FactoredBandit, make_vec_env
from gumbel_rl import GumbelActorCritic
from gumbel_rl.algorithms.rollouts import Rollout


class Given(GumbelActorCritic):
    """Learns from transitions that are given to it."""

    given: Rollout

    def collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps):
        self.rollout = self.given
        self.num_timesteps = self._total_timesteps
        return True


def agent(cls: type[GumbelActorCritic], env, **options) -> GumbelActorCritic:
    """An agent whose policy is far from uniform, and whose one update is one plain gradient step of length 1."""
    arguments = {"estimator": "exact", "n_epochs": 1, "batch_size": 100_000, "ent_coef": 0.0}
    return one_step_agent(cls, env, **arguments | options)


def actor_gradient(model: GumbelActorCritic, objective: Tensor) -> Tensor:
    return parameters_to_vector(torch.autograd.grad(objective, model.policy.actor_parameters)).double()


def actor_change(model: GumbelActorCritic, states: Tensor, heads: Tensor) -> Tensor:
    """What the actor's parameters change by in one update in some states `[B]`, from advantages `[S, N]`."""
    (layer,) = model.policy.critic.net
    with torch.no_grad():
        layer.weight[1:] = heads.T
        layer.bias[1:] = 0.0
        logits = model.policy.distribution(states).logits
    rows = len(states)
    nothing = np.zeros((rows, 1), dtype=np.float32)
    indices = torch.zeros(rows, 1, len(model.factors.sizes), dtype=torch.int64)
    over = np.ones((rows, 1), dtype=bool)
    model.given = Rollout(states[:, None], indices, logits[:, None], nothing, over, states[:1], [])
    before = parameters_to_vector(model.policy.actor_parameters).detach()
    model.learn(rows)
    return (parameters_to_vector(model.policy.actor_parameters).detach() - before).double()


def factor_advantages(table: Tensor, blocks: list[Tensor]) -> Tensor:
    """`E[r | a_d] - E r` of each choice of each of independent factors, `[C, N]` from a table `[C, *sizes]`."""
    heads = []
    for kept in range(len(blocks)):
        values = table
        # From the last factor to the first, so that the dimensions before keep their places.
        for factor in reversed(range(len(blocks))):
            if factor != kept:
                weights = blocks[factor].reshape(len(table), *[1] * factor, -1, *[1] * (values.ndim - factor - 2))
                values = (values * weights).sum(factor + 1)
        heads.append(values - (values * blocks[kept]).sum(-1, keepdim=True))
    return torch.cat(heads, -1)


@pytest.mark.parametrize("estimator", ["exact", "straight-through"])
def test_true_advantages_give_the_policy_gradient_of_the_bandit(estimator):
    task = FactoredBandit()
    model = agent(Given, make_vec_env("gumbel_rl/FactoredBandit-v0", 4), estimator=estimator)
    contexts = torch.arange(4)
    logits = model.policy.distribution(contexts).logits
    expected = actor_gradient(model, (task.policy_gradient(logits) * logits).sum())
    blocks = [block.softmax(-1) for block in logits.detach().double().split(task.sizes, -1)]
    heads = factor_advantages(torch.as_tensor(task.rewards), blocks)
    change = actor_change(model, contexts, heads.float())
    torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("estimator", ["exact", "straight-through"])
def test_true_advantages_give_the_policy_gradient_of_the_decision_process(estimator):
    options = {"states": 5, "actions": 3, "termination": 0.2, "table_seed": 4}
    task = LimitedMDP(1000, 1, **options)
    model = agent(Given, limited_mdp(1000, 4, **options), estimator=estimator)
    logits = model.policy.distribution(torch.arange(5)).logits
    expected = actor_gradient(model, (task.policy_gradient(logits) * logits).sum())
    # Every state as often as the policy visits it.
    occupancy = task.occupancy(logits.detach())
    states = torch.arange(5).repeat_interleave((occupancy / occupancy.sum() * 20_000).round().long())
    heads = task.action_values(logits.detach()) - task.state_values(logits.detach())[:, None]
    change = actor_change(model, states, heads.float())
    torch.testing.assert_close(change * float(occupancy.sum()), expected, rtol=2e-3, atol=2e-3)


def advantages_and_returns(model: GumbelActorCritic) -> tuple[np.ndarray, np.ndarray]:
    """GAE by its definition `sum_l (gamma lambda)^l delta_(t+l)`, over what there is of the episode."""
    rollout, gamma, lam = model.rollout, model.gamma, model.gae_lambda
    value = model.policy.predict_values
    values = value(rollout.observations.flatten(0, 1)).detach().numpy().reshape(rollout.rewards.shape)
    last = value(rollout.last_observations).detach().numpy()
    cut = {(t, e): float(value(torch.as_tensor(final)[None]).detach()) for t, e, final in rollout.truncations}
    steps, envs = rollout.rewards.shape
    result = np.zeros((steps, envs))
    for e in range(envs):
        for t in range(steps):
            for k in range(t, steps):
                if rollout.dones[k, e]:
                    following = cut.get((k, e), 0.0)
                else:
                    following = last[e] if k + 1 == steps else values[k + 1, e]
                delta = rollout.rewards[k, e] + gamma * following - values[k, e]
                result[t, e] += (gamma * lam) ** (k - t) * delta
                if rollout.dones[k, e]:
                    break
    return result, result + values


class Stale(GumbelActorCritic):
    """Has been updated since it collected: the behaviour policy is another one than the policy."""

    def train(self):
        generator = torch.Generator().manual_seed(0)
        self.rollout.logits = torch.randn(self.rollout.logits.shape, generator=generator)
        super().train()


@pytest.mark.parametrize("units", [None, (30.0, 20.0)])
def test_update_recomputed(units):
    env = vectorised(
        Scripted([(2, "terminated"), (3, "truncated")]),
        Scripted([(4, "truncated"), (5, "terminated")]),
        Scripted([(6, "terminated")]),
    )
    model = agent(Stale, env, n_steps=7, gamma=0.8, gae_lambda=0.7, kl_coef=2.5, ent_coef=0.3, vf_coef=0.05)
    policy = model.policy
    if units is not None:
        policy.critic.set_value_scale(*map(torch.tensor, units))
        model._n_updates = 1  # so that the units are a moving average from now on
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    model.learn(21)
    after = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.load_state_dict(before)
    rollout = model.rollout
    assert rollout.dones.sum() == 5
    assert len(rollout.truncations) == 2

    advantages, returns = (torch.as_tensor(x).float().flatten() for x in advantages_and_returns(model))
    advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
    observations = rollout.observations.flatten(0, 1)
    behaviour = rollout.logits.flatten(0, 1).softmax(-1)
    outputs = policy.critic.net(observations)[:, 1:]
    heads = outputs - (behaviour * outputs).sum(-1, keepdim=True)

    # Actor: along the true expectation of the critic's advantage, back to the behaviour policy, and to entropy.
    log_probs = policy.actor(observations).log_softmax(-1)
    gain = (log_probs.exp() * heads.detach()).sum(-1).mean()
    divergence = (behaviour * (behaviour.log() - log_probs)).sum(-1).mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    step = actor_gradient(model, gain - 2.5 * divergence + 0.3 * entropy)
    moved = torch.cat([after[f"actor.{name}"].flatten() for name, _ in policy.actor.named_parameters()])
    start = parameters_to_vector(policy.actor_parameters).detach()
    torch.testing.assert_close((moved - start).double(), step, rtol=1e-4, atol=1e-4)

    # Critic: the heads follow the advantages of the actions taken, the value the returns. For a value that is linear in
    # its parameters the step is the same in whatever units they are.
    (layer,) = policy.critic.net
    errors = heads.gather(-1, rollout.indices.reshape(-1, 1)).squeeze(-1) - advantages
    (gradient,) = torch.autograd.grad(errors.square().mean(), layer.weight)
    torch.testing.assert_close(
        after["critic.net.0.weight"][1:], (layer.weight - gradient)[1:].detach(), rtol=1e-4, atol=1e-4
    )

    values = policy.predict_values(observations).detach()
    inputs = torch.cat([observations, torch.ones(len(values), 1)], -1)
    change = -0.05 * inputs @ (2 * (values - returns)[:, None] * inputs).mean(0)
    policy.load_state_dict(after)
    torch.testing.assert_close(policy.predict_values(observations).detach(), values + change, rtol=1e-4, atol=1e-3)


def test_a_large_gradient_of_the_critic_does_not_starve_the_actor():
    # With one norm for both, the actor would get next to nothing of it.
    env = vectorised(*(Scripted([(4, "terminated")]) for _ in range(2)))
    model = agent(GumbelActorCritic, env, n_steps=8, max_grad_norm=0.01, vf_coef=1e6, ent_coef=1.0)
    before = parameters_to_vector(model.policy.actor_parameters).detach()
    model.learn(16)
    change = parameters_to_vector(model.policy.actor_parameters).detach() - before
    assert float(change.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_an_extractor_is_clipped_with_the_critic(shared):
    kwargs = {"features_extractor_class": Scale, "share_features_extractor": shared}
    kwargs |= {"net_arch": [3], "optimizer_class": torch.optim.SGD}
    env = vectorised(*(Scripted([(4, "terminated")]) for _ in range(2)))
    model = agent(GumbelActorCritic, env, n_steps=8, max_grad_norm=0.01, vf_coef=1e6, policy_kwargs=kwargs)
    policy = model.policy
    before = [parameter.detach().clone() for parameter in policy.critic_parameters]
    model.learn(16)
    changes = [now.detach() - old for now, old in zip(policy.critic_parameters, before, strict=True)]
    *_, weight, bias, scale = changes
    # The row of the value changes with its units as well.
    rest = [*changes[:-3], weight[1:], bias[1:], scale]
    assert float(scale.norm()) > 0
    assert float(torch.cat([change.flatten() for change in rest]).norm()) < 0.01 * (1 + 1e-3)


@pytest.mark.parametrize(("n_epochs", "batch_size", "steps"), [(1, 16, 1), (3, 16, 3), (2, 5, 8), (2, 1, 32)])
def test_epochs_and_minibatches(n_epochs, batch_size, steps):
    taken = []
    env = vectorised(*(Scripted([(4, "terminated")]) for _ in range(2)))
    model = GumbelActorCritic("MlpPolicy", env, n_steps=8, n_epochs=n_epochs, batch_size=batch_size)
    model.policy.optimizer.register_step_post_hook(lambda *_: taken.append(1))
    model.learn(16)
    assert len(taken) == steps
    assert model._n_updates == n_epochs


def test_units_of_the_value_follow_the_returns():
    model = agent(GumbelActorCritic, vectorised(Scripted([(4, "terminated")])))
    critic, generator = model.policy.critic, torch.Generator().manual_seed(0)
    batches = [10_000 + 8 * (i % 3) + 3 * torch.randn(64, generator=generator) for i in range(5)]
    mean = square = None
    for n_updates, batch in enumerate(batches):
        model._n_updates = n_updates
        before = model.policy.predict_values(torch.eye(3))
        model._update_value_scale(batch)
        torch.testing.assert_close(model.policy.predict_values(torch.eye(3)), before, rtol=0, atol=5e-3)
        new = batch.double().mean(), batch.double().square().mean()
        mean, square = new if mean is None else (0.95 * mean + 0.05 * new[0], 0.95 * square + 0.05 * new[1])
        assert float(critic.value_mean) == pytest.approx(float(mean), rel=1e-5)
        assert float(critic.value_std) == pytest.approx(float((square - mean**2).sqrt()), rel=1e-2)
    model._update_value_scale(torch.full((8,), 5.0))
    model._n_updates = 0
    model._update_value_scale(torch.full((8,), 5.0))  # returns that do not differ
    assert float(critic.value_std) > 0
