"""Returns, advantages and what is collected, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripted import Scripted, vectorised

from gumbel_rl import GumbelActorCritic, Reinforce
from gumbel_rl.algorithms.reinforce import discounted_returns, first_episodes, leave_one_out
from gumbel_rl.algorithms.rollouts import Rollout, gae, minibatches, select, split, stack


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


# Rewards 1, 2, 3, values 1/2, 1, 3/2 and 2 after the last step, gamma = lambda = 1/2.
@pytest.mark.parametrize(
    ("ends", "extra", "advantages"),
    [
        # unfinished: delta = 1, 7/4, 5/2; A_2 = 5/2, A_1 = 7/4 + 5/8, A_0 = 1 + 19/32
        ((), 0.0, (1.59375, 2.375, 2.5)),
        # terminated by the second step: delta_1 = 2 - 1, and nothing flows back over the end
        ((1,), 0.0, (1.25, 1.0, 2.5)),
        # truncated there, with value 4 of the last observation: delta_1 = 2 + 4/2 - 1
        ((1,), 2.0, (1.75, 3.0, 2.5)),
        # terminated by the last step: delta_2 = 3 - 3/2, the value after it does not count
        ((2,), 0.0, (1.53125, 2.125, 1.5)),
        # every step an episode
        ((0, 1, 2), 0.0, (0.5, 1.0, 1.5)),
    ],
    ids=["unfinished", "terminated", "truncated", "terminated-last", "bandit"],
)
def test_gae_by_hand(ends, extra, advantages):
    dones = np.zeros((3, 1), dtype=bool)
    dones[list(ends)] = True
    rewards = column(1, 2 + extra, 3)
    result = gae(rewards, column(0.5, 1, 1.5), np.array([2], dtype=np.float32), dones, 0.5, 0.5)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, column(*advantages))


def test_gae_keeps_environments_apart():
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, 7, 3)).astype(np.float32)
    last, dones = generator.normal(size=3).astype(np.float32), generator.random((7, 3)) < 0.3
    together = gae(rewards, values, last, dones, 0.9, 0.7)
    for env in range(3):
        alone = gae(*(x[:, [env]] for x in (rewards, values)), last[[env]], dones[:, [env]], 0.9, 0.7)
        np.testing.assert_array_equal(together[:, [env]], alone)


def test_gae_of_lambda_one_is_return_minus_value():
    rewards, values = column(1, 2, 3), column(0.5, 1, 1.5)
    dones = np.array([[False], [False], [True]])
    advantages = gae(rewards, values, np.array([9], dtype=np.float32), dones, 0.5, 1.0)
    np.testing.assert_allclose(advantages + values, column(1 + 2 / 2 + 3 / 4, 2 + 3 / 2, 3))


def test_discounted_returns_by_hand():
    rewards = np.array([[1, 4], [2, 0], [3, 0]], dtype=np.float32)
    np.testing.assert_array_equal(discounted_returns(rewards, 0.5), [[2.75, 4], [3.5, 0], [3, 0]])


def test_first_episodes_by_hand():
    dones = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=bool)
    expected = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(first_episodes(dones), expected)


def test_leave_one_out_by_hand():
    # Three episodes of 2, 1 and 2 steps: the one that has ended counts with 0, and nobody counts himself.
    returns = np.array([[1, 5, 9], [2, 0, 4]], dtype=np.float32)
    np.testing.assert_array_equal(leave_one_out(returns), [[7, 5, 3], [2, 3, 1]])


@pytest.mark.parametrize(("size", "batch_size", "batches"), [(10, 4, 3), (8, 4, 2), (3, 4, 1), (1, 1, 1), (9, 4, 3)])
def test_minibatches_are_a_partition(size, batch_size, batches):
    rows = list(minibatches(size, batch_size, torch.device("cpu")))
    lengths = [len(part) for part in rows]
    assert sorted(torch.cat(rows).tolist()) == list(range(size))
    assert len(rows) == batches
    assert max(lengths) <= batch_size


def test_minibatches_are_shuffled():
    assert torch.cat(list(minibatches(50, 8, torch.device("cpu")))).tolist() != list(range(50))


def test_split_keeps_rows_and_keys():
    rows = torch.arange(10).reshape(5, 2)
    torch.testing.assert_close(torch.cat(list(split(rows, 2))), rows)
    parts = list(split({"a": rows, "b": rows + 1}, 3))
    assert [len(part["a"]) for part in parts] == [3, 2]
    torch.testing.assert_close(torch.cat([part["b"] for part in parts]), rows + 1)


def test_dictionaries_are_flattened_selected_and_stacked_like_tensors():
    steps = [np.arange(6).reshape(2, 3) + 10 * t for t in range(4)]
    device = torch.device("cpu")
    tensor = stack(steps, device)
    mapping = stack([{"a": step, "b": -step} for step in steps], device)
    assert tensor.shape == (4, 2, 3)
    flat, flat_mapping = Rollout.flat(None, tensor), Rollout.flat(None, mapping)
    assert flat[2 * 3 + 1].tolist() == [33, 34, 35]  # step 3, environment 1
    rows = torch.tensor([7, 0])
    for values, sign in ((flat_mapping["a"], 1), (flat_mapping["b"], -1)):
        torch.testing.assert_close(values, sign * flat)
    torch.testing.assert_close(select(flat_mapping, rows)["b"], -select(flat, rows))


class Keeping(GumbelActorCritic):
    """Collects, and does not learn."""

    def train(self):
        pass


def linear_value(model, weights):
    """Make the critic's value the inner product of observations and weights."""
    (layer,) = model.policy.critic.net
    with torch.no_grad():
        layer.weight[0] = torch.tensor(weights)
        layer.bias[0] = 0.0


def test_what_is_collected():
    # Environment 0: 2 steps terminated, then 3 truncated; environment 1: 4 truncated, then 1 terminated.
    env = vectorised(
        Scripted([(2, "terminated"), (3, "truncated")]),
        Scripted([(4, "truncated"), (1, "terminated")]),
    )
    model = Keeping("MlpPolicy", env, n_steps=6, gamma=0.5, seed=0, policy_kwargs={"net_arch": []})
    linear_value(model, [100.0, 10.0, 1.0])
    model.learn(12)
    rollout = model.rollout

    time = np.array([[0, 0], [1, 1], [0, 2], [1, 3], [2, 0], [0, 0]])
    number = np.array([[0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [2, 2]])
    # SB3 resets every environment once before the first step: nothing has been reset in between.
    expected = np.stack([np.ones_like(time), number, time], -1)
    np.testing.assert_array_equal(rollout.observations.numpy(), expected)
    np.testing.assert_array_equal(rollout.dones, [[0, 0], [1, 0], [0, 0], [0, 1], [1, 1], [0, 0]])
    np.testing.assert_allclose(rollout.rewards, 1 + time + 0.1 * number - 0.5 * rollout.indices[..., 0].numpy())
    np.testing.assert_array_equal(rollout.last_observations.numpy(), [[1, 2, 1], [1, 2, 1]])
    assert [(step, env) for step, env, _ in rollout.truncations] == [(3, 1), (4, 0)]

    # The value of the observation that the episode ended with: neither the one acted on nor the next episode's first.
    bonus = np.zeros((6, 2))
    bonus[3, 1], bonus[4, 0] = 0.5 * (100 + 0 + 4), 0.5 * (100 + 10 + 3)
    np.testing.assert_allclose(model._bootstrapped_rewards() - rollout.rewards, bonus, atol=1e-4)


def test_collection_goes_on_where_it_stopped():
    model = Keeping("MlpPolicy", vectorised(Scripted([(5, "terminated")])), n_steps=3, seed=0)
    model.learn(3)
    model.learn(3, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.rollout.observations[:, 0, 2], [3, 4, 0])
    assert model.num_timesteps == 6


def test_behaviour_logits_are_those_that_acted():
    model = Keeping("MlpPolicy", vectorised(Scripted([(5, "terminated")])), n_steps=9, seed=0)
    model.learn(9)
    logits = model.policy.distribution(model.rollout.observations[:, 0]).logits
    torch.testing.assert_close(model.rollout.logits[:, 0], logits)


class KeepingReinforce(Reinforce):
    """Collects, and does not learn."""

    starts: list = []

    def train(self):
        self.starts.append(self.rollout.observations[0, :, 2].tolist())


def test_reinforce_plays_whole_episodes():
    env = vectorised(Scripted([(2, "terminated"), (3, "truncated")]), Scripted([(4, "truncated"), (1, "terminated")]))
    model = KeepingReinforce("MlpPolicy", env, seed=0)
    model.starts = []
    model.learn(30)
    assert model.starts == [[0.0, 0.0]] * len(model.starts)
    assert len(model.starts) > 3
