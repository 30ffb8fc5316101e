"""What GumbelSAC's critics regress on, from the environment's step to the update: ends of episodes, n-step returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sac_reference import Reference, close, part
from scripted import Memory, Scripted, vectorised
from stable_baselines3.common.vec_env import VecNormalize

from gumbel_rl import GumbelSAC

GAMMA = 0.8
EPISODES = [(3, "terminated"), (4, "truncated"), (1, "truncated"), (2, "terminated"), (1, "terminated")]


class Acted(Scripted):
    """Notes what was done when: `{(environment, episode, time): action}`."""

    done: dict

    def __init__(self, place, episodes):
        super().__init__(episodes)
        self.place = place

    def _observe(self):
        return np.array([self.place, self.number, self.time], dtype=np.float32)

    def step(self, action):
        self.done[self.place, self.number, self.time] = int(action)
        return super().step(action)


def places(*lists) -> tuple[list, dict]:
    """Environments that play the episodes of each list, and what they will have done."""
    done: dict = {}
    environments = [Acted(place, episodes) for place, episodes in enumerate(lists)]
    for env in environments:
        env.done = done
    return environments, done


def collected(env, steps: int = 60, **options) -> GumbelSAC:
    """An agent with what it saw in that many steps, which has not learnt from them yet."""
    kwargs = {"net_arch": [4], "optimizer_class": torch.optim.SGD}
    options = {"learning_starts": 10_000, "estimator": "exact", "ent_coef": 0.3, "gamma": GAMMA} | options
    model = GumbelSAC("MlpPolicy", env, learning_rate=1e-3, tau=0.25, policy_kwargs=kwargs, seed=0, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for network in (model.policy.actor, model.policy.critics, model.policy.target):
            for parameter in network.parameters():
                parameter.normal_(std=0.5)
    return model.learn(steps)


def step_on_own_memory(model: GumbelSAC, batch_size: int = 1000):
    """The batch that one update drew, and what it changed the critics by, a learning rate of 1 assumed."""
    drawn = []
    sample = model.replay_buffer.sample
    model.replay_buffer.sample = lambda *arguments, **keywords: drawn.append(sample(*arguments, **keywords)) or drawn[0]
    before = {name: value.detach().double() for name, value in model.policy.named_parameters()}
    Memory.of(model)
    model.train(gradient_steps=1, batch_size=batch_size)
    model.replay_buffer.sample = sample
    changes = {name: (value.detach().double() - before[name]) / 1e-3 for name, value in model.policy.named_parameters()}
    return drawn[0], part(changes, "critics")


def returns_by_the_script(reference, episodes, done, n_steps, scale=lambda states: states, per_reward=1.0):
    """What the critics should regress on at each step done, `{(environment, episode, time): return}`."""
    returns = {}
    for place, number, time in done:
        length, end = episodes[place][number % len(episodes[place])]
        total = 0.0
        for k in range(n_steps):
            action = done[place, number, time + k]
            total += GAMMA**k * (1.0 + time + k - 0.5 * action + 0.1 * number) / per_reward
            over = time + k + 1 == length
            # A return is not longer than what has been seen.
            if over or (place, number, time + k + 1) not in done:
                break
        if not (over and end == "terminated"):
            # An episode that was cut short goes on from its own last observation, as one that is not over does.
            state = torch.as_tensor(scale(np.array([place, number, time + k + 1.0])))[None]
            with torch.no_grad():
                value = reference.value(reference.target, state) + reference.alpha * reference.policy(state)[1]
            total += GAMMA ** (k + 1) * float(value)
        returns[place, number, time] = total
    return returns


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_terminated_truncated_and_unfinished_episodes(n_steps, n_envs):
    episodes = [EPISODES, EPISODES[1:]][:n_envs]
    environments, done = places(*episodes)
    model = collected(vectorised(*environments), n_steps=n_steps)
    reference = Reference(model)
    batch, change = step_on_own_memory(model)
    rows = [tuple(map(int, row)) for row in batch.observations]
    assert set(rows) == set(done)  # all that there is; a batch as large as this misses one with a chance of 3e-6
    returns = returns_by_the_script(reference, episodes, done, n_steps)
    targets = torch.tensor([returns[row] for row in rows], dtype=torch.float64)
    close(change, reference.critic_step(batch, targets))


def test_everything_normalised_when_it_is_drawn():
    environments, done = places(EPISODES)
    env = VecNormalize(vectorised(*environments), clip_obs=1e6, clip_reward=1e6, epsilon=0.0)
    model = collected(env)
    # The statistics have moved on since the transitions were stored: the present ones count.
    env.obs_rms.mean, env.obs_rms.var = np.array([0.5, 1.0, 2.0]), np.array([4.0, 9.0, 16.0])
    env.ret_rms.var = np.array(25.0)
    reference = Reference(model)
    batch, change = step_on_own_memory(model)

    def scale(states):
        return (states - env.obs_rms.mean) / [2.0, 3.0, 4.0]

    raw = batch.observations.double().numpy() * [2.0, 3.0, 4.0] + env.obs_rms.mean
    rows = [tuple(map(int, row)) for row in raw.round()]
    np.testing.assert_allclose(batch.observations, scale(np.array(rows)), rtol=1e-5, atol=1e-6)
    returns = returns_by_the_script(reference, [EPISODES], done, 1, scale, per_reward=5.0)
    targets = torch.tensor([returns[row] for row in rows], dtype=torch.float64)
    close(change, reference.critic_step(batch, targets))


@pytest.mark.parametrize("include_newest", [False, True])
def test_the_newest_transition_in_every_batch(include_newest):
    environments, _ = places([(1000, "terminated")], [(1000, "terminated")])
    model = collected(vectorised(*environments), 400, include_newest=include_newest)
    newest = [{tuple(row.tolist()) for row in step_on_own_memory(model, 4)[0].observations} for _ in range(20)]
    expected = {(0.0, 0.0, 199.0), (1.0, 0.0, 199.0)}
    assert all(expected <= rows for rows in newest) == include_newest


def test_what_was_done_is_what_is_learnt_from():
    environments, done = places(EPISODES)
    model = collected(vectorised(*environments))
    batch, _ = step_on_own_memory(model)
    for row, action in zip(batch.observations, batch.actions, strict=True):
        assert done[tuple(map(int, row))] == int(action)


@pytest.mark.parametrize(
    ("n_envs", "train_freq", "gradient_steps", "updates"),
    [
        (1, 4, 1, 5),  # after 24, 28, 32, 36 and 40 steps
        (1, 4, -1, 20),
        (3, 4, -1, 36),  # after 24, 36 and 48
        (3, 2, 5, 20),  # after 24, 30, 36 and 42
        (1, (2, "episode"), -1, 24),  # likewise
    ],
)
def test_updates_for_steps(n_envs, train_freq, gradient_steps, updates):
    env = vectorised(*(Scripted([(3, "terminated")]) for _ in range(n_envs)))
    options = {"train_freq": train_freq, "gradient_steps": gradient_steps, "learning_starts": 20, "batch_size": 4}
    model = GumbelSAC("MlpPolicy", env, policy_kwargs={"net_arch": []}, **options).learn(40)
    assert model._n_updates == updates
