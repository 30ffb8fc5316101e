"""Every estimator on the tasks with known answers: the gradient in the logits and in the parameters of a network.

Where an estimator is unbiased, its mean is the environment's own exact gradient; where it is biased, it is the gradient
that enumeration or numerical integration predicts. False-alarm rate of each comparison: `oracles.FALSE_ALARM`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from oracles import assert_mean
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from envs import FactoredBandit, TabularMDP
from gumbel_rl import ESTIMATORS, ActionFactors, FactoredCategorical, make_estimator
from gumbel_rl.estimators import Objective

REPEATS = 20_000
TEMPERATURE = 0.7
# Biased in general, and not where the objective is linear in each factor.
UNBIASED_HERE = ("straight-through", "zgr", "mixture")
OPTIONS = {name: {"temperature": TEMPERATURE} for name, cls in ESTIMATORS.items() if cls.has_temperature}


@dataclass
class Task:
    """States, a policy network, and an objective whose sum over the states has the return's gradient."""

    sizes: tuple[int, ...]
    net: nn.Module
    states: int
    objective: Objective
    exact: Tensor

    @property
    def logits(self) -> Tensor:
        return self.net(torch.eye(self.states, dtype=torch.float64))


def network(states: int, width: int, seed: int) -> nn.Module:
    """Not so wide that it is a table: states share parameters."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(states, 3), nn.Tanh(), nn.Linear(3, width)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


def multilinear(table: Tensor) -> Objective:
    """`f(z)[s] = sum_a table[s, a] prod_d z[s, d, a_d]`, which is the table at the one-hots."""

    def f(actions: Tensor) -> Tensor:
        letters = "abc"[: table.ndim - 1]
        blocks = actions.split(table.shape[1:], -1)
        spec = f"s{letters}," + ",".join(f"...s{letter}" for letter in letters) + "->...s"
        return torch.einsum(spec, table, *blocks)

    return f


@cache
def bandit() -> Task:
    """Reward table of a bandit with interacting factors, weighted by the contexts' probabilities."""
    env = FactoredBandit(contexts=3, sizes=(2, 3), table_seed=1)
    net = network(3, 5, seed=0)
    task = Task((2, 3), net, 3, multilinear(torch.as_tensor(env.rewards) / 3), torch.empty(0))
    task.exact = env.policy_gradient(task.logits)
    return task


@cache
def mdp() -> Task:
    """Action values of the policy in a decision process, weighted by the discounted occupancy of the states."""
    env, gamma = TabularMDP(states=4, actions=3, termination=0.2, table_seed=2), 0.9
    net = network(4, 3, seed=1)
    logits = net(torch.eye(4, dtype=torch.float64)).detach()
    table = env.occupancy(logits, gamma)[:, None] * env.action_values(logits, gamma)
    return Task((3,), net, 4, multilinear(table), env.policy_gradient(logits, gamma))


TASKS = {"bandit": bandit, "mdp": mdp}


def estimate(estimator, task: Task, f: Objective) -> tuple[Tensor, Tensor]:
    """Independent estimates in the logits `[R, S, N]`, and their mean in the parameters `[P]`."""
    torch.manual_seed(0)
    task.net.zero_grad()
    # A copy for every repeat, each with a way back to the parameters.
    logits = task.logits.expand(REPEATS, -1, -1).clone()
    logits.retain_grad()
    estimator(FactoredCategorical(logits, ActionFactors(task.sizes)), f).sum().backward()
    parameters = parameters_to_vector([parameter.grad for parameter in task.net.parameters()]) / REPEATS
    return logits.grad, parameters


def through_network(task: Task, gradient: Tensor) -> Tensor:
    """Gradients in the logits `[R, S, N]` to gradients in the parameters `[R, P]`, by the network's Jacobian."""
    rows = [
        parameters_to_vector(torch.autograd.grad(logit, list(task.net.parameters()), retain_graph=True))
        for logit in task.logits.flatten()
    ]
    return gradient.flatten(1) @ torch.stack(rows)


def assert_gradient(estimator, task: Task, f: Objective, expected: Tensor) -> Tensor:
    """Compare with an expected gradient in the logits, in the logits and in the parameters; returns the estimates."""
    draws, parameters = estimate(estimator, task, f)
    assert_mean(draws, expected)
    projected = through_network(task, draws)
    torch.testing.assert_close(parameters, projected.mean(0))  # what autograd does with the whole batch
    assert_mean(projected, through_network(task, expected[None])[0])
    return draws


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [name for name, cls in ESTIMATORS.items() if cls.unbiased])
def test_unbiased_estimators_give_the_exact_policy_gradient(name, task):
    task = TASKS[task]()
    assert_gradient(make_estimator(name, **OPTIONS.get(name, {})), task, task.objective, task.exact)


def test_the_exact_estimator_needs_no_statistics():
    task = mdp()
    dist = FactoredCategorical(task.logits, ActionFactors(task.sizes))
    for estimator in (make_estimator("exact"), make_estimator("exact", multilinear=True)):
        (gradient,) = torch.autograd.grad(estimator(dist, task.objective).sum(), dist.logits, retain_graph=True)
        torch.testing.assert_close(gradient, task.exact, rtol=1e-12, atol=1e-14)


def relaxed_mean(logits: Tensor, temperature: float) -> Tensor:
    """`E softmax((logits + g) / temperature)` for 2 or 3 choices `[S, K]`, by numerical integration.

    Differences of Gumbel noise have the multivariate logistic density `(K-1)! exp(-sum x) / (1 + sum exp(-x))^K`. The
    trapezoidal rule is exact to rounding for a smooth integrand that vanishes at both ends.
    """
    choices = logits.shape[-1]
    axis = torch.arange(-30, 30, 0.15, dtype=torch.float64)
    x = torch.cartesian_prod(*[axis] * (choices - 1)).reshape(-1, choices - 1)
    log_sum = torch.cat([torch.zeros(len(x), 1, dtype=torch.float64), -x], -1).logsumexp(-1)
    density = (math.lgamma(choices) - x.sum(-1) - choices * log_sum).exp()
    noise = torch.cat([x, torch.zeros(len(x), 1, dtype=torch.float64)], -1)
    keep = density > 1e-14
    weights = density[keep] * 0.15 ** (choices - 1)
    relaxed = ((logits[:, None] + noise[keep]) / temperature).softmax(-1)
    return torch.einsum("q,sqk->sk", weights, relaxed)


def test_relaxed_mean_of_a_low_temperature_is_the_probability():
    logits = torch.tensor([[0.3, -0.5, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(relaxed_mean(logits, 0.5).sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(relaxed_mean(logits, 0.15), logits.softmax(-1), rtol=0, atol=0.01)


def jacobian_given(name: str, logits: Tensor, choice: int) -> Tensor:
    """Derivative `[K, K]` of the surrogate in the logits `[K]` of a factor, given the sample."""

    def of_softmax(p: Tensor) -> Tensor:
        return torch.diag(p) - torch.outer(p, p)

    p, z = logits.softmax(-1), torch.eye(len(logits), dtype=torch.float64)[choice]
    if name == "reinmax":
        return 2 * of_softmax(((logits / TEMPERATURE).softmax(-1) + z) / 2) - of_softmax(p) / 2
    assert name == "gapped-st"
    top = logits.max()
    moved = torch.stack([top if k == choice else min(logit, top - 1.0) for k, logit in enumerate(logits)])
    return of_softmax((moved / TEMPERATURE).softmax(-1)) / TEMPERATURE


def mean_jacobian(name: str, logits: Tensor) -> Tensor:
    """The mean over the samples, `[S, K, K]` for logits `[S, K]`."""
    means = [
        sum(p * jacobian_given(name, row, choice) for choice, p in enumerate(row.softmax(-1)))
        for row in logits.detach()
    ]
    return torch.stack(means)


def predict(name: str, task: Task) -> Tensor:
    """Expected gradient of a biased estimator on the task's objective, which is linear in each factor."""
    logits = task.logits.detach().requires_grad_()
    blocks = logits.split(task.sizes, -1)
    probs = torch.cat([block.softmax(-1) for block in blocks], -1)
    if name in UNBIASED_HERE:
        surrogates = [probs]  # the slope in a factor is linear in the others: its mean is the slope at their mean
    elif name == "gumbel-softmax":
        surrogates = [torch.cat([relaxed_mean(block, TEMPERATURE) for block in blocks], -1)]
    elif name in ("st-gumbel-softmax", "gumbel-rao", "reinmax", "gapped-st"):
        # Factor by factor: its own surrogate, and hard samples of the others.
        surrogates = []
        for factor, block in enumerate(blocks):
            parts = [part.detach() for part in probs.split(task.sizes, -1)]
            if name in ("st-gumbel-softmax", "gumbel-rao"):  # the second is the first's conditional expectation
                parts[factor] = relaxed_mean(block, TEMPERATURE)
            else:
                parts[factor] = torch.einsum("skl,sl->sk", mean_jacobian(name, block), block)
            surrogates.append(torch.cat(parts, -1))
    else:
        pytest.fail(f"no prediction for the biased estimator {name!r}: give one")
    (gradient,) = torch.autograd.grad(sum(task.objective(actions).sum() for actions in surrogates), logits)
    return gradient


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", [name for name, cls in ESTIMATORS.items() if not cls.unbiased])
def test_biased_estimators_have_the_predicted_bias(name, task):
    task = TASKS[task]()
    expected = predict(name, task)
    draws = assert_gradient(make_estimator(name, **OPTIONS.get(name, {})), task, task.objective, expected)
    if name in UNBIASED_HERE:
        torch.testing.assert_close(expected, task.exact)
    else:  # the comparison is sharp enough to see the bias
        error = draws.std(0) / math.sqrt(REPEATS)
        assert ((expected - task.exact).abs() / error).max() > 10


def test_straight_through_is_biased_where_the_objective_is_bent():
    # The same rewards at the one-hots, and another slope between them.
    task = bandit()
    pull = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def bent(actions: Tensor) -> Tensor:
        return task.objective(actions) + (pull * (actions.square() - actions)).sum(-1)

    # By enumeration: sum_z p(z) J^T f'(z), J being the Jacobian of the probabilities.
    logits = task.logits.detach().requires_grad_()
    dist = FactoredCategorical(logits, ActionFactors(task.sizes))
    vertices = dist.enumerate_support().clone().requires_grad_()
    (slope,) = torch.autograd.grad(bent(vertices).sum(), vertices)
    mean_slope = (dist.log_prob(vertices.detach()).exp()[..., None] * slope).sum(0).detach()
    (expected,) = torch.autograd.grad((dist.probs * mean_slope).sum(), logits)

    draws = assert_gradient(make_estimator("straight-through"), task, bent, expected)
    assert ((expected - task.exact).abs() / (draws.std(0) / math.sqrt(REPEATS))).max() > 10
    assert_gradient(make_estimator("rloo"), task, bent, task.exact)
