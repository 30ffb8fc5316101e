"""TabularMDP: exact answers against sums over time and trajectories, and both engines against the tables."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy import stats

from envs import TabularMDP, make_vec_env

MDP = "gumbel_rl/TabularMDP-v0"
GAMMAS = [0.0, 0.9, 1.0]


def random_logits(mdp, seed=0, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(mdp.states, mdp.actions, generator=generator, dtype=torch.float64)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def summed_return(mdp, logits, gamma):
    """The definition as a sum over time: what is collected at step k by those that are still on."""
    policy = softmax(logits)
    reward = (policy * mdp.rewards).sum(-1)
    step = np.einsum("sa,sat->st", policy, mdp.transitions)
    on, total = mdp.start, 0.0
    for _ in range(400):  # (1 - 0.1)^400 is 5e-19
        total += on @ reward
        on = gamma * (1 - mdp.termination) * on @ step
    return total


def enumerated_return(mdp, policy, gamma, depth):
    """The definition as a sum over all trajectories of up to `depth` steps."""
    total = 0.0
    for length in range(1, depth + 1):
        steps = itertools.product(range(mdp.states), range(mdp.actions))
        for path in itertools.product(steps, repeat=length):
            probability = mdp.start[path[0][0]]
            for k, (state, action) in enumerate(path):
                probability *= policy[state, action]
                if k + 1 < length:
                    probability *= (1 - mdp.termination) * mdp.transitions[state, action, path[k + 1][0]]
            # The last reward of the path, on behalf of all trajectories that begin with it.
            total += probability * gamma ** (length - 1) * mdp.rewards[path[-1]]
    return total


@pytest.mark.parametrize("options", [{}, {"one_hot": True}, {"states": 1, "actions": 1, "termination": 1.0}])
def test_gymnasium_accepts_it(options):
    check_env(gym.make(MDP, **options).unwrapped)


def test_spaces_and_dynamics():
    env = gym.make(MDP)
    assert env.observation_space == gym.spaces.Discrete(6)
    assert env.action_space == gym.spaces.Discrete(3)
    assert env.spec.max_episode_steps is None
    mdp = env.unwrapped
    np.testing.assert_allclose(mdp.transitions.sum(-1), 1)
    assert mdp.transitions.shape == (6, 3, 6)
    assert mdp.start.sum() == pytest.approx(1)
    np.testing.assert_array_equal(mdp.rewards, TabularMDP().rewards)
    assert (mdp.rewards != TabularMDP(table_seed=1).rewards).all()
    env = gym.make(MDP, states=4, one_hot=True)
    assert env.observation_space == gym.spaces.Box(0, 1, (4,), np.float32)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_exact_return_and_gradient(gamma):
    mdp = TabularMDP()
    logits = random_logits(mdp)
    array = logits.numpy()
    assert mdp.expected_return(logits, gamma).item() == pytest.approx(summed_return(mdp, array, gamma), abs=1e-12)
    differences = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        step = np.zeros_like(array)
        step[index] = 1e-5
        differences[index] = (summed_return(mdp, array + step, gamma) - summed_return(mdp, array - step, gamma)) / 2e-5
    np.testing.assert_allclose(mdp.policy_gradient(logits, gamma), differences, atol=2e-9)
    assert torch.autograd.gradcheck(lambda x: mdp.expected_return(x, gamma), logits.requires_grad_())


def test_return_is_the_sum_over_all_trajectories():
    mdp = TabularMDP(states=2, actions=2, termination=0.9)
    logits = random_logits(mdp)
    exact = mdp.expected_return(logits, 0.8).item()
    # What is cut off after 7 steps is at most 0.08^7 / 0.92 of the largest reward: 2.3e-8.
    assert exact == pytest.approx(enumerated_return(mdp, softmax(logits.numpy()), 0.8, 7), abs=1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_values_occupancy_and_gradient_are_consistent(gamma):
    mdp = TabularMDP(table_seed=2)
    logits = random_logits(mdp)
    policy = logits.softmax(-1)
    action_values = mdp.action_values(logits, gamma)
    values = (policy * action_values).sum(-1)
    torch.testing.assert_close(values, mdp.state_values(logits, gamma))
    # Bellman's equation
    next_values = torch.as_tensor(mdp.transitions) @ values
    torch.testing.assert_close(action_values, torch.as_tensor(mdp.rewards) + gamma * 0.9 * next_values)
    occupancy = mdp.occupancy(logits, gamma)
    mean_reward = (policy * torch.as_tensor(mdp.rewards)).sum(-1)
    torch.testing.assert_close(occupancy @ mean_reward, mdp.expected_return(logits, gamma))
    # all time steps together: 1 + g + g^2 + ..., with g = gamma * 0.9
    assert occupancy.sum().item() == pytest.approx(1 / (1 - 0.9 * gamma))
    # the policy gradient theorem
    expected = occupancy[:, None] * policy * (action_values - values[:, None])
    torch.testing.assert_close(mdp.policy_gradient(logits, gamma), expected)


def test_gradients_flow_through_every_answer():
    mdp = TabularMDP()
    for method in (mdp.state_values, mdp.action_values, mdp.occupancy):
        assert torch.autograd.gradcheck(method, random_logits(mdp).requires_grad_())
    logits = random_logits(mdp).float().requires_grad_()
    gradient = mdp.policy_gradient(logits)
    assert gradient.dtype == torch.float32
    assert logits.grad is None
    assert not gradient.requires_grad


@pytest.mark.parametrize("gamma", GAMMAS)
def test_optimum_bounds_every_policy_and_is_attained(gamma):
    mdp = TabularMDP(states=5, actions=3, table_seed=1)
    best = mdp.optimal_return(gamma)
    assert all(mdp.expected_return(random_logits(mdp, seed, 5.0), gamma) < best for seed in range(50))
    far = 1e4 * torch.eye(mdp.actions, dtype=torch.float64)  # exactly deterministic in float64
    assert mdp.expected_return(far[mdp.optimal_actions(gamma)], gamma).item() == pytest.approx(best, abs=1e-12)
    for table_seed in range(10):
        mdp = TabularMDP(states=3, actions=3, table_seed=table_seed)
        deterministic = itertools.product(range(mdp.actions), repeat=mdp.states)
        returns = [mdp.expected_return(far[list(actions)], gamma).item() for actions in deterministic]
        assert mdp.optimal_return(gamma) == pytest.approx(max(returns), abs=1e-12)


def run(engine, count, n_envs, policy=None, **options):
    """Transitions `(state, action, reward, next state, done)`, first states and episodes of a policy `[S, A]`."""
    env = make_vec_env(MDP, n_envs, 3, engine, env_kwargs=options)
    states, actions = env.get_attr("states")[0], env.get_attr("actions")[0]
    policy = np.full((states, actions), 1 / actions) if policy is None else policy
    generator = np.random.default_rng(0)
    decode = (lambda x: np.argmax(x, -1)) if options.get("one_hot") else np.array
    state, rows, episodes = decode(env.reset()), [], []
    firsts = state.tolist()
    for _ in range(count):
        action = (policy[state].cumsum(-1)[:, :-1] <= generator.random(n_envs)[:, None]).sum(-1)
        observations, rewards, dones, infos = env.step(action)
        following = decode(observations)
        reached = following.copy()
        for i in np.flatnonzero(dones):
            reached[i] = decode(infos[i]["terminal_observation"])
            firsts.append(following[i])
            episodes.append(infos[i]["episode"])
            assert not infos[i]["TimeLimit.truncated"]
        rows.append(np.stack([state, action, rewards, reached, dones], -1))
        state = following
    env.close()
    assert sum(episode["l"] for episode in episodes) <= count * n_envs
    return np.concatenate(rows), np.array(firsts), episodes


def pvalue(counts, probabilities):
    """Of Pearson's test, with rare cells merged until each is expected five times."""
    order = np.argsort(probabilities)
    counts, expected = counts[order].astype(float), probabilities[order] * counts.sum()
    while len(expected) > 2 and expected[0] < 5:
        counts, expected = [np.concatenate([[x[0] + x[1]], x[2:]]) for x in (counts, expected)]
        order = np.argsort(expected)
        counts, expected = counts[order], expected[order]
    return stats.chisquare(counts, expected).pvalue


@pytest.mark.parametrize("engine", ["vector", "dummy"])
@pytest.mark.parametrize("options", [{}, {"one_hot": True}], ids=["index", "one-hot"])
def test_transitions_follow_the_tables(engine, options):
    # False-alarm rate below 1e-6: 18 + 2 tests at 2e-8 each (5.6 standard errors have 2.2e-8).
    mdp = TabularMDP()
    rows, firsts, _ = run(engine, 1500 if engine == "vector" else 300, 32, **options)
    state, action, next_state, done = (rows[:, k].astype(int) for k in (0, 1, 3, 4))
    np.testing.assert_array_equal(rows[:, 2], mdp.rewards[state, action].astype(np.float32))
    for s, a in itertools.product(range(6), range(3)):
        counts = np.bincount(next_state[(state == s) & (action == a)], minlength=6)
        assert pvalue(counts, mdp.transitions[s, a]) > 2e-8
    assert pvalue(np.bincount(firsts, minlength=6), mdp.start) > 2e-8
    assert abs(done.mean() - 0.1) < 5.6 * (0.09 / len(done)) ** 0.5


@pytest.mark.parametrize("engine", ["vector", "dummy"])
def test_transitions_are_those_of_a_single_environment(engine):
    # One action only and a termination that is certain or nearly impossible leave nothing to chance but the next state,
    # which a table of zeros and ones decides.
    for termination in (1.0, 1e-12):
        env = make_vec_env(MDP, 8, 0, engine, env_kwargs={"termination": termination})
        single = gym.make(MDP, termination=termination)
        single.reset(seed=0)
        table = np.eye(6)[np.random.default_rng(0).integers(6, size=(6, 3))]
        env.set_attr("transitions", table)
        single.unwrapped.transitions = table
        if engine == "dummy":
            for sub_env in env.unwrapped.envs:
                sub_env.unwrapped.transitions = table
        state = env.reset()
        actions = np.random.default_rng(1)
        for _ in range(400):
            action = actions.integers(3, size=8)
            following, rewards, dones, infos = env.step(action)
            for i in range(8):
                single.unwrapped._state = int(state[i])
                expected, reward, terminated, truncated, _ = single.step(action[i])
                assert (infos[i]["terminal_observation"] if dones[i] else following[i]) == expected
                assert rewards[i] == np.float32(reward)
                assert dones[i] == terminated == (termination == 1)
                assert not truncated
            state = following


@pytest.mark.parametrize("engine", ["vector", "dummy"])
def test_sampled_returns_agree_with_the_exact_one(engine):
    # False-alarm rate below 1e-6: two-sided at 4.9 standard errors, 9.6e-7.
    mdp = TabularMDP(termination=0.25)
    logits = random_logits(mdp, 1)
    count = 1500 if engine == "vector" else 400
    _, _, episodes = run(engine, count, 32, softmax(logits.numpy()), termination=0.25)
    # As many episodes of each sub-environment as are surely finished: the last ones would be short of long episodes.
    returns = np.array([episode["r"] for episode in episodes])[: int(0.2 * 32 * count)]
    error = returns.mean() - mdp.expected_return(logits).item()
    assert abs(error) < 4.9 * returns.std(ddof=1) / len(returns) ** 0.5


def test_bad_arguments():
    with pytest.raises(ValueError, match="states and actions must be positive, got 0 and 3"):
        TabularMDP(states=0)
    for termination in (0.0, 1.5):
        with pytest.raises(ValueError, match="termination must be a probability above 0"):
            TabularMDP(termination=termination)
    mdp = TabularMDP()
    with pytest.raises(ValueError, match=r"shape \(3, 6\) do not fit 6 states and 3 actions"):
        mdp.expected_return(torch.zeros(3, 6))
    for method in (lambda: mdp.optimal_return(1.1), lambda: mdp.occupancy(torch.zeros(6, 3), -0.1)):
        with pytest.raises(ValueError, match="gamma must lie between 0 and 1"):
            method()
