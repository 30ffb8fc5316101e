"""RELAX as a policy gradient: unbiased in a bandit and over trajectories, and how its variance is learnt.

False-alarm rate of each statistical check: 1e-6 (see `oracles`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from oracles import assert_mean, weights
from torch import Tensor, nn

from examples.relax_cartpole import gradients
from examples.relax_cartpole.gradients import (
    Episode,
    Relax,
    ScoreFunction,
    Settings,
    discounted_returns,
    squared_norm,
)
from gumbel_rl import ActionFactors, FactoredCategorical
from gumbel_rl import estimators as library
from gumbel_rl.gumbel import gumbel_max, gumbel_noise, log_softmax

SETTINGS = Settings(learning_rate=0.01, critic_learning_rate=0.01, critic_scale=3.0)
STATES, ACTIONS, STEPS = 2, 3, 3
REPEATS = 40_000


pytestmark = pytest.mark.usefixtures("double_precision")


class Table(nn.Module):
    """A tabular policy on one-hot states, with a table of its own for each of `R` rows: `R` estimates at once.

    `rows` says which table an observation is looked up in.
    """

    def __init__(self, logits: Tensor, rows: Tensor) -> None:
        super().__init__()
        copies = int(rows.max()) + 1
        self.logits = nn.Parameter(logits.expand(copies, *logits.shape).clone())
        self.rows = rows

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits[self.rows, observations.argmax(-1)]


def logits() -> Tensor:
    return 0.9 * weights(STATES * ACTIONS, 20).reshape(STATES, ACTIONS)


def opinionated(relax: Relax) -> Relax:
    """With a control variate that says something of its own about every action."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in relax.net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        relax.log_temperature.fill_(-0.4)
    return relax


def estimator(name: str) -> Relax | ScoreFunction:
    torch.manual_seed(3)
    if name == "relax":
        return opinionated(Relax(STATES, ACTIONS, SETTINGS))
    return ScoreFunction(STATES, ACTIONS, SETTINGS)


# A contextual bandit.

VALUES = 2 * weights(STATES * ACTIONS, 21).reshape(STATES, ACTIONS) + 1


def bandit(repeats: int, seed: int = 0) -> tuple[Table, Episode]:
    """`repeats` pulls in each state, as the steps of one episode that does not care."""
    torch.manual_seed(seed)
    states = torch.arange(STATES).repeat(repeats)
    noise = gumbel_noise((len(states), ACTIONS), dtype=torch.float64)
    actions = gumbel_max(log_softmax(logits())[states], noise)
    returns = (VALUES[states] * actions).sum(-1)
    rows = torch.arange(repeats).repeat_interleave(STATES)
    return Table(logits(), rows), Episode(torch.eye(STATES)[states], actions, noise, returns)


def exact_bandit() -> Tensor:
    p = logits().softmax(-1)
    return p * (VALUES - (p * VALUES).sum(-1, keepdim=True))


@pytest.mark.parametrize("name", ["relax", "score-function"])
def test_a_bandit_has_the_exact_gradient_on_average(name: str) -> None:
    policy, pulls = bandit(REPEATS)
    (gradient,) = estimator(name).gradient(policy, pulls)
    assert_mean(gradient.detach(), exact_bandit())


def posterior(log_weights: Tensor, actions: Tensor, top: Tensor) -> Tensor:
    """Noise of a conditional sample: the largest `z` is `top` `[T, 1]`, the others Gumbels below it."""
    exponential = torch.empty_like(log_weights).exponential_()
    others = -(exponential / log_weights.exp() + (-top).exp()).log()
    return torch.where(actions > 0, top, others) - log_weights


def standard_top(log_weights: Tensor, actions: Tensor) -> Tensor:
    return posterior(log_weights, actions, gumbel_noise((len(actions), 1), dtype=torch.float64))


def unnormalised(log_pi: Tensor, actions: Tensor) -> Tensor:
    """The largest of Gumbels at logits is a Gumbel at the logarithm of their sum, not at 0."""
    raw = log_pi + 0.8
    return standard_top(raw, actions) + raw - log_pi


def prior_top(log_pi: Tensor, actions: Tensor) -> Tensor:
    """The largest is a Gumbel at 0, not at the log-probability of the action: the published code's mistake."""
    location = (log_pi * actions).sum(-1, keepdim=True)
    return posterior(log_pi, actions, location + gumbel_noise((len(actions), 1), dtype=torch.float64))


@pytest.mark.parametrize(("sampler", "right"), [(standard_top, True), (unnormalised, False), (prior_top, False)])
def test_a_sampler_at_a_wrong_location_is_noticed(
    sampler: Callable[[Tensor, Tensor], Tensor], right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "posterior_gumbel", sampler)
    policy, pulls = bandit(REPEATS)
    (gradient,) = estimator("relax").gradient(policy, pulls)
    with nullcontext() if right else pytest.raises(AssertionError, match="expected"):
        assert_mean(gradient.detach(), exact_bandit())


def test_it_is_the_library_s_estimator() -> None:
    # Where an episode is one step its gradient with respect to the logits is what the registry's `relax` computes.
    policy, pulls = bandit(200)
    ours = estimator("relax")
    theirs = library.Relax(coupled=False, uses_objective=False)
    dist = FactoredCategorical(policy(pulls.observations).detach().requires_grad_(), ActionFactors((ACTIONS,)))
    theirs.learnt.double()
    # Ours reads the state first, theirs the action.
    theirs.learnt.net = nn.Sequential(*ours.net)
    columns = [*range(STATES, STATES + ACTIONS), *range(STATES)]
    theirs.learnt.net[0] = nn.Linear(STATES + ACTIONS, 10)
    theirs.learnt.net[-1] = nn.Linear(10, 1)
    with torch.no_grad():
        theirs.learnt.net[0].weight.copy_(ours.net[0].weight[:, columns])
        theirs.learnt.net[0].bias.copy_(ours.net[0].bias)
        theirs.learnt.net[-1].weight.copy_(SETTINGS.critic_scale * ours.net[-1].weight)
        theirs.learnt.net[-1].bias.copy_(SETTINGS.critic_scale * ours.net[-1].bias)
        theirs.learnt.log_temperature.copy_(ours.log_temperature)
    arguments = (dist, lambda z: pulls.returns.expand(z.shape[:-1]), pulls.noise[None], pulls.observations)
    torch.manual_seed(4)
    (expected,) = torch.autograd.grad(theirs(*arguments).sum(), dist.logits)
    torch.manual_seed(4)
    mean_square = theirs.mean_square(*arguments)
    torch.manual_seed(4)
    gradient = ours.gradient(policy, pulls)
    assert expected.abs().min() > 0
    torch.testing.assert_close(gradient[0].reshape(-1, ACTIONS), expected)
    torch.testing.assert_close(squared_norm(gradient) / len(pulls.returns), mean_square)


# Trajectories.

START = weights(STATES, 22).softmax(-1)
TRANSITIONS = (2 * weights(STATES * ACTIONS * STATES, 23)).reshape(STATES, ACTIONS, STATES).softmax(-1)
REWARDS = weights(STATES * ACTIONS, 24).reshape(STATES, ACTIONS)


def exact_trajectories() -> Tensor:
    """Gradient of the expected return over `STEPS` steps, by all trajectories."""
    table = logits().requires_grad_()
    log_pi = table.log_softmax(-1)
    expected = torch.zeros(())
    for states in itertools.product(range(STATES), repeat=STEPS):
        for actions in itertools.product(range(ACTIONS), repeat=STEPS):
            probability = START[states[0]] * log_pi[list(states), list(actions)].sum().exp()
            for t in range(STEPS - 1):
                probability = probability * TRANSITIONS[states[t], actions[t], states[t + 1]]
            expected = expected + probability * REWARDS[list(states), list(actions)].sum()
    (gradient,) = torch.autograd.grad(expected, table)
    return gradient


def trajectories(repeats: int) -> tuple[Table, Episode]:
    """That many trajectories on end, each with a table of its own."""
    torch.manual_seed(5)
    log_pi = log_softmax(logits())
    state = torch.multinomial(START, repeats, replacement=True)
    states, actions, noises, rewards = [], [], [], []
    for _ in range(STEPS):
        noise = gumbel_noise((repeats, ACTIONS), dtype=torch.float64)
        action = gumbel_max(log_pi[state], noise)
        states.append(state)
        noises.append(noise)
        actions.append(action)
        rewards.append((REWARDS[state] * action).sum(-1))
        state = torch.multinomial(TRANSITIONS[state, action.argmax(-1)], 1).squeeze(-1)
    to_go = torch.stack(rewards).flip(0).cumsum(0).flip(0)
    policy = Table(logits(), torch.arange(repeats).repeat(STEPS))
    return policy, Episode(torch.eye(STATES)[torch.cat(states)], torch.cat(actions), torch.cat(noises), to_go.flatten())


@pytest.mark.parametrize("name", ["relax", "score-function"])
def test_trajectories_have_the_exact_gradient_on_average(name: str) -> None:
    policy, episode = trajectories(REPEATS)
    (gradient,) = estimator(name).gradient(policy, episode)
    assert_mean(gradient.detach(), exact_trajectories())


# Learning.


def net_policy() -> nn.Sequential:
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(STATES, 4), nn.Tanh(), nn.Linear(4, ACTIONS))


def test_the_control_variate_learns_from_the_numerical_gradient_of_the_squared_norm() -> None:
    # The parameters are shared by all steps: what matters is the norm of their sum.
    relax, policy = opinionated(Relax(STATES, ACTIONS, Settings(0.01, 0.0, 3.0))), net_policy()
    _, episode = bandit(6)

    def estimate() -> tuple[Tensor, ...]:
        torch.manual_seed(7)
        return relax.gradient(policy, episode)

    def norm() -> float:
        return float(torch.cat([part.detach().flatten() for part in estimate()]).square().sum())

    relax.learn(episode, estimate())
    slopes = [parameter.grad for parameter in relax.parameters]
    generator = torch.Generator().manual_seed(8)
    for parameter, slope in zip(relax.parameters, slopes, strict=True):
        direction = torch.randn(parameter.shape, generator=generator)
        around = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
            around.append(norm())
            with torch.no_grad():
                parameter.sub_(step * direction)
        numerical = (around[0] - around[1]) / 2e-6
        assert float((slope * direction).sum()) == pytest.approx(numerical, rel=1e-5, abs=1e-6)
        # The last bias moves both c alike and R - c: its slope is one of the variance too.
        assert abs(numerical) > 1e-3


def test_a_constant_control_variate_learns_from_the_closed_form() -> None:
    # A pull's squared norm is (R - b)² |e_a - p|², if c is b everywhere; every action once, weighted by its chance.
    relax = Relax(STATES, ACTIONS, SETTINGS)
    with torch.no_grad():
        for parameter in relax.parameters:
            parameter.zero_()
        relax.net[-1].bias.fill_(0.7 / SETTINGS.critic_scale)
    p, one_hots = logits()[0].softmax(-1), torch.eye(ACTIONS)
    slope = torch.zeros(())
    for action, one_hot in enumerate(one_hots):
        policy = Table(logits(), torch.zeros(1, dtype=torch.int64))
        pull = Episode(torch.eye(STATES)[:1], one_hot[None], 50 * one_hot[None], VALUES[0, action : action + 1])
        (of_bias,) = torch.autograd.grad(squared_norm(relax.gradient(policy, pull)), [relax.net[-1].bias])
        slope = slope + p[action] * of_bias.squeeze() / SETTINGS.critic_scale
    sizes = (one_hots - p).square().sum(-1)
    torch.testing.assert_close(slope, (p * -2 * (VALUES[0] - 0.7) * sizes).sum())


def test_learning_lowers_the_variance_below_that_of_the_value_baseline() -> None:
    # In a bandit a control variate that knows the action can do what no baseline can: leave next to no variance.
    spread: dict[str, float] = {}
    for name in ("relax", "score-function"):
        learner = (Relax if name == "relax" else ScoreFunction)(STATES, ACTIONS, Settings(0.01, 0.02, 3.0))
        for step in range(250):
            policy, pulls = bandit(50, seed=step)
            learner.learn(pulls, learner.gradient(policy, pulls))
        policy, pulls = bandit(5000, seed=1000)
        (gradient,) = learner.gradient(policy, pulls)
        spread[name] = float(gradient.detach().var(0).sum())
    assert spread["relax"] < 0.3 * spread["score-function"]


@pytest.mark.parametrize("name", ["relax", "score-function"])
def test_learning_leaves_the_policy_alone(name: str) -> None:
    learner, policy = estimator(name), net_policy()
    before = [parameter.clone() for parameter in policy.parameters()]
    own = [parameter.clone() for parameter in learner.net.parameters()]
    _, episode = bandit(6)
    learner.learn(episode, learner.gradient(policy, episode))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(own, learner.net.parameters(), strict=True))


def test_the_value_learns_the_mean_return_of_a_state() -> None:
    learner = ScoreFunction(STATES, ACTIONS, Settings(0.01, 0.03, 3.0))
    _, pulls = bandit(500)
    for _ in range(600):
        learner.learn(pulls, ())
    means = torch.stack([pulls.returns[state::STATES].mean() for state in range(STATES)])
    torch.testing.assert_close(learner.value(torch.eye(STATES)).detach(), means, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("rewards", "gamma", "expected"),
    [([1, 1, 1], 0.5, [1.75, 1.5, 1]), ([0, 2, -1], 1.0, [1, 1, -1]), ([3], 0.99, [3])],
)
def test_returns(rewards: list[float], gamma: float, expected: list[float]) -> None:
    assert discounted_returns(rewards, gamma) == pytest.approx(expected)
