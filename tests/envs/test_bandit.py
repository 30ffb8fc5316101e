"""FactoredBandit: exact answers against enumeration and finite differences, and both engines against the table."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy import stats

from envs import FactoredBandit, make_vec_env
from envs.bandit import FactoredBanditVectorEnv

BANDIT = "gumbel_rl/FactoredBandit-v0"


def random_logits(bandit, seed=0, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(bandit.contexts, sum(bandit.sizes), generator=generator, dtype=torch.float64)


def enumerated_return(bandit, logits):
    """The definition: a sum over contexts and joint actions."""
    total = 0.0
    for context in range(bandit.contexts):
        blocks = [
            np.exp(block) / np.exp(block).sum() for block in np.split(logits[context], np.cumsum(bandit.sizes)[:-1])
        ]
        for action in itertools.product(*map(range, bandit.sizes)):
            probability = np.prod([block[choice] for block, choice in zip(blocks, action, strict=True)])
            total += probability * bandit.rewards[(context, *action)] / bandit.contexts
    return total


@pytest.mark.parametrize("options", [{}, {"one_hot": True, "noise": 0.5}, {"sizes": (5,), "contexts": 1}])
def test_gymnasium_accepts_it(options):
    check_env(gym.make(BANDIT, **options).unwrapped)


def test_spaces():
    env = gym.make(BANDIT)
    assert env.observation_space == gym.spaces.Discrete(4)
    assert env.action_space == gym.spaces.MultiDiscrete([3, 4, 2])
    env = gym.make(BANDIT, contexts=5, sizes=(6,), one_hot=True)
    assert env.observation_space == gym.spaces.Box(0, 1, (5,), np.float32)
    assert env.action_space == gym.spaces.Discrete(6)
    assert env.reset()[0].sum() == 1


@pytest.mark.parametrize("sizes", [(3, 4, 2), (5,), (2, 2, 2, 2), (1, 3)])
def test_exact_return_and_gradient(sizes):
    bandit = FactoredBandit(contexts=3, sizes=sizes, table_seed=4)
    logits = random_logits(bandit)
    array = logits.numpy()
    assert bandit.expected_return(logits).item() == pytest.approx(enumerated_return(bandit, array), abs=1e-12)
    differences = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        step = np.zeros_like(array)
        step[index] = 1e-5
        differences[index] = (enumerated_return(bandit, array + step) - enumerated_return(bandit, array - step)) / 2e-5
    np.testing.assert_allclose(bandit.policy_gradient(logits), differences, atol=1e-9)
    assert torch.autograd.gradcheck(bandit.expected_return, logits.requires_grad_())


def test_gradient_keeps_the_dtype_and_leaves_the_logits_alone():
    bandit = FactoredBandit()
    logits = random_logits(bandit).float().requires_grad_()
    gradient = bandit.policy_gradient(logits)
    assert gradient.dtype == torch.float32
    assert gradient.shape == logits.shape
    assert logits.grad is None
    assert not gradient.requires_grad


def test_optimum_bounds_every_policy_and_is_attained():
    bandit = FactoredBandit()
    best = bandit.optimal_return
    assert all(bandit.expected_return(random_logits(bandit, seed, 5.0)) < best for seed in range(50))
    greedy = torch.full((4, 9), -1e4, dtype=torch.float64)
    for context, action in enumerate(bandit.optimal_actions):
        greedy[context, action + np.array([0, 3, 7])] = 0
    assert bandit.expected_return(greedy).item() == pytest.approx(best, abs=1e-12)
    assert best == pytest.approx(np.mean([bandit.rewards[context].max() for context in range(4)]))


def test_no_additive_model_fits_the_rewards():
    bandit = FactoredBandit()
    actions = np.array(list(itertools.product(*map(range, bandit.sizes))))
    features = np.concatenate([np.eye(size)[actions[:, d]] for d, size in enumerate(bandit.sizes)], axis=1)
    for context in range(bandit.contexts):
        rewards = bandit.rewards[context].reshape(-1)
        fit = features @ np.linalg.lstsq(features, rewards, rcond=None)[0]
        assert np.var(rewards - fit) > 0.3 * np.var(rewards)
    assert FactoredBandit(table_seed=0).rewards.tolist() == bandit.rewards.tolist()
    assert FactoredBandit(table_seed=1).rewards.tolist() != bandit.rewards.tolist()


@pytest.mark.parametrize("engine", ["vector", "dummy"])
@pytest.mark.parametrize("options", [{}, {"one_hot": True}, {"sizes": (5,)}], ids=["default", "one-hot", "one factor"])
def test_transitions_are_those_of_a_single_environment(engine, options):
    env = make_vec_env(BANDIT, 4, 0, engine, env_kwargs=options)
    single = gym.make(BANDIT, **options)
    single.reset()
    env.action_space.seed(0)
    observations = env.reset()
    contexts = []
    for _ in range(600):
        actions = np.array([env.action_space.sample() for _ in range(4)])
        previous, (observations, rewards, dones, infos) = observations, env.step(actions)
        for i in range(4):
            context = previous[i].argmax() if options.get("one_hot") else previous[i]
            contexts.append(int(context))
            single.unwrapped._context = int(context)
            expected, reward, terminated, truncated, _ = single.step(actions[i])
            np.testing.assert_array_equal(infos[i]["terminal_observation"], expected)
            assert rewards[i] == np.float32(reward)
            assert dones[i]
            assert terminated
            assert not truncated
            assert not infos[i]["TimeLimit.truncated"]
            assert infos[i]["episode"]["l"] == 1
            assert infos[i]["episode"]["r"] == pytest.approx(reward, abs=1e-6)
    assert stats.chisquare(np.bincount(contexts, minlength=4)).pvalue > 1e-6  # the false-alarm rate


def test_contexts_are_uniform_after_a_reset():
    first = make_vec_env(BANDIT, 2000, 0, "vector").reset()
    assert stats.chisquare(np.bincount(first, minlength=4)).pvalue > 1e-6  # the false-alarm rate


@pytest.mark.parametrize("engine", ["vector", "dummy"])
def test_sampled_returns_and_score_function_agree_with_the_exact_ones(engine):
    # False-alarm rate of each of the three claims at most 1e-6: two-sided, 4.9 standard errors have 9.6e-7, and 6 have
    # 2e-9 for each of 36 coordinates.
    noise = 0.7
    env = make_vec_env(BANDIT, 64, 3, engine, env_kwargs={"noise": noise})
    bandit = FactoredBandit()
    logits = random_logits(bandit, 1)
    probabilities = torch.cat([block.softmax(-1) for block in logits.split(bandit.sizes, -1)], -1)
    generator = torch.Generator().manual_seed(0)
    rewards, scores, residuals = [], [], []
    context = env.reset()
    for _ in range(150):
        chosen = torch.cat(
            [
                torch.nn.functional.one_hot(torch.multinomial(block[context], 1, generator=generator)[:, 0], size)
                for block, size in zip(probabilities.split(bandit.sizes, -1), bandit.sizes, strict=True)
            ],
            -1,
        )
        actions = torch.stack([block.argmax(-1) for block in chosen.split(bandit.sizes, -1)], -1).numpy()
        score = torch.zeros(64, *logits.shape, dtype=torch.float64)
        score[torch.arange(64), context] = chosen - probabilities[context]
        residuals.append(-bandit.rewards[(context, *actions.T)])
        context, reward, _, _ = env.step(actions)
        residuals[-1] += reward
        rewards.append(reward)
        scores.append(score * torch.as_tensor(reward)[:, None, None])
    rewards, scores, residuals = np.concatenate(rewards), torch.cat(scores), np.concatenate(residuals)
    count = len(rewards)

    error = rewards.mean() - bandit.expected_return(logits).item()
    assert abs(error) < 4.9 * rewards.std(ddof=1) / count**0.5
    error = scores.mean(0) - bandit.policy_gradient(logits)
    assert (error.abs() < 6 * scores.std(0) / count**0.5).all()
    assert abs(residuals.std() / noise - 1) < 4.9 / (2 * count) ** 0.5


def test_bad_arguments():
    with pytest.raises(ValueError, match="contexts and sizes must be positive, got 0"):
        FactoredBandit(contexts=0)
    with pytest.raises(ValueError, match=r"must be positive, got 4 and \(3, 0\)"):
        FactoredBandit(sizes=(3, 0))
    with pytest.raises(ValueError, match="noise is a standard deviation"):
        FactoredBandit(noise=-1.0)
    with pytest.raises(ValueError, match=r"would have 4\d+ entries, and at most 1048576"):
        FactoredBandit(sizes=(10,) * 30)
    with pytest.raises(ValueError, match=r"shape \(4, 8\) do not fit 4 contexts and 9 choices"):
        FactoredBandit().expected_return(torch.zeros(4, 8))


def test_vector_engine_serves_plain_gymnasium_too():
    env = gym.make_vec(BANDIT, 5, vectorization_mode="vector_entry_point")
    assert isinstance(env, FactoredBanditVectorEnv)
    observations, _ = env.reset(seed=0)
    _, rewards, terminations, truncations, infos = env.step(env.action_space.sample())
    assert rewards.shape == (5,)
    assert terminations.all()
    assert not truncations.any()
    assert [infos["final_obs"][i] for i in range(5)] == observations.tolist()
