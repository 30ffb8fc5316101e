"""CartPole by the published protocol: one episode, one update, until the mean return of 100 episodes is above 195."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.seeds import Purpose, episode_seed
from examples.relax_cartpole.gradients import ESTIMATORS, HIDDEN, Episode, Gradient, Settings, discounted_returns
from gumbel_rl.critics import mlp
from gumbel_rl.gumbel import gumbel_noise, log_softmax

GAMMA = 0.99
ENTROPY_WEIGHT = 0.01
# CartPole-v0, which the criterion belongs to, is CartPole-v1 cut off at 200 steps.
STEP_LIMIT = 200
WINDOW = 100
SOLVED_ABOVE = 195.0
# As many episodes as the published 250,000 frames are sure to hold.
EPISODES = 1250


class Training(NamedTuple):
    """A run: the episode at which the task counted as solved, None where it never did, and all returns so far."""

    solved: int | None
    returns: list[float]


def train(estimator: str, settings: Settings, seed: int, *, episodes: int = EPISODES, at_least: int = 0) -> Training:
    """Learn CartPole until it is solved.

    Args:
        estimator: A key of `ESTIMATORS`.
        settings: What is tuned.
        seed: Of torch's global generator and of the environment.
        episodes: Give up after so many.
        at_least: Go on until so many, solved or not.
    """
    torch.manual_seed(seed)
    env = make_env(seed)
    policy = mlp([4, *HIDDEN, 2], nn.ReLU)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    critic = ESTIMATORS[estimator](4, 2, settings)

    returns: list[float] = []
    solved: int | None = None
    while len(returns) < episodes and (solved is None or len(returns) < at_least):
        episode, total = play(env, policy)
        returns.append(total)
        if solved is None and len(returns) >= WINDOW and np.mean(returns[-WINDOW:]) > SOLVED_ABOVE:
            solved = len(returns)
        gradient = critic.gradient(policy, episode)
        critic.learn(episode, gradient)
        follow(policy, optimizer, gradient, episode.observations)
    env.close()
    return Training(solved, returns)


def make_env(seed: int) -> gym.Env[Any, Any]:
    """CartPole that ends after `STEP_LIMIT` steps, seeded."""
    env: gym.Env[Any, Any] = gym.make("CartPole-v1", max_episode_steps=STEP_LIMIT, disable_env_checker=True)
    env.reset(seed=episode_seed(Purpose.TRAINING, seed))
    return env


def follow(policy: nn.Module, optimizer: torch.optim.Optimizer, gradient: Gradient, observations: Tensor) -> None:
    """One step of the policy along a gradient of the return and that of the entropy."""
    exploration = entropy_gradient(policy, observations)
    for parameter, ours, theirs in zip(policy.parameters(), gradient, exploration, strict=True):
        parameter.grad = -(ours.detach() + ENTROPY_WEIGHT * theirs)
    optimizer.step()


def play(env: gym.Env[Any, Any], policy: nn.Sequential) -> tuple[Episode, float]:
    """One episode, and its undiscounted return."""
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in policy if isinstance(layer, nn.Linear)
    ]
    noise = gumbel_noise((STEP_LIMIT, 2))
    draws = noise.numpy()
    observation, _ = env.reset()
    observations: list[NDArray[Any]] = []
    actions: list[int] = []
    rewards: list[float] = []
    over = False
    while not over:
        action = int(np.argmax(logits(layers, observation) + draws[len(actions)]))
        observations.append(observation)
        actions.append(action)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        over = terminated or truncated
    episode = Episode(
        torch.from_numpy(np.array(observations)),
        torch.eye(2)[actions],
        noise[: len(actions)],
        torch.tensor(discounted_returns(rewards, GAMMA)),
    )
    return episode, sum(rewards)


def logits(layers: list[tuple[NDArray[Any], NDArray[Any]]], observation: NDArray[Any]) -> NDArray[Any]:
    """The policy network at one observation `[F]`, in NumPy: on 10 units torch spends its time on calls."""
    for weight, bias in layers[:-1]:
        observation = np.maximum(weight @ observation + bias, 0.0)
    weight, bias = layers[-1]
    return np.asarray(weight @ observation + bias)


def entropy_gradient(policy: nn.Module, observations: Tensor) -> Gradient:
    """Gradient of the policy's entropy, in nats, summed over the steps."""
    log_pi = log_softmax(policy(observations))
    return torch.autograd.grad(-(log_pi.exp() * log_pi).sum(), list(policy.parameters()))
