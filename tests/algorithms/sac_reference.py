"""GumbelSAC on a batch that is given to it, and what its update should be: recomputed in float64, by enumeration."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from oracles import outcomes
from scripted import Memory, Spaces, vectorised
from torch import Tensor

from gumbel_rl import GumbelSAC
from gumbel_rl.sb3.replay import Transitions
from gumbel_rl.wrappers import MASK_KEY

ALPHA = 0.3
ROWS = 40


def agent(
    sizes: tuple[int, ...] = (3,), *, masked: bool = False, policy_kwargs: Any = None, **options: Any
) -> GumbelSAC:
    """An agent that takes plain gradient steps of length 1, whose networks are all far from one another."""
    observation = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    if masked:
        observation = spaces.Dict({"x": observation, MASK_KEY: spaces.MultiBinary(sum(sizes))})
    action = spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(list(sizes))
    arguments = {"learning_rate": 1.0, "tau": 0.25, "estimator": "exact", "ent_coef": ALPHA, "diagnostics_interval": 0}
    networks = {"net_arch": [4], "optimizer_class": torch.optim.SGD} | (policy_kwargs or {})
    env = vectorised(Spaces(observation, action))
    policy = "MultiInputPolicy" if masked else "MlpPolicy"
    model = GumbelSAC(policy, env, seed=0, policy_kwargs=networks, **arguments | options)
    torch.manual_seed(1)
    with torch.no_grad():
        for part in (model.policy.actor, model.policy.critics, model.policy.target):
            for parameter in part.parameters():
                parameter.normal_()
    return model


def transitions(model: GumbelSAC, rows: int = ROWS, seed: int = 0) -> Transitions:
    """A batch of random transitions, some of which end an episode, and some are of several steps."""
    generator = torch.Generator().manual_seed(seed)
    sizes = model.factors.sizes

    def observe() -> Any:
        states = torch.randn(rows, 3, generator=generator)
        if MASK_KEY not in getattr(model.observation_space, "spaces", {}):
            return states
        blocks = [torch.rand(rows, n, generator=generator) for n in sizes]
        # Half of the choices, and always the one of the largest number.
        allowed = torch.cat([(block > 0.5) | (block == block.amax(-1, keepdim=True)) for block in blocks], -1)
        return {"x": states, MASK_KEY: allowed}

    before, after = observe(), observe()
    mask = torch.ones(rows, sum(sizes)) if isinstance(before, Tensor) else before[MASK_KEY].float()
    taken = [torch.multinomial(block, 1, generator=generator) for block in mask.split(sizes, -1)]
    discounts = torch.tensor([0.0, 0.8, 0.64]).repeat(rows)[:rows, None]
    rewards = torch.randn(rows, 1, generator=generator)
    return Transitions(before, torch.cat(taken, -1), after, (discounts == 0).float(), rewards, discounts)


def update(model: GumbelSAC, batch: Transitions) -> dict[str, Tensor]:
    """What one update on that batch changes the parameters by, float64."""
    model.replay_buffer.sample = lambda *_, **__: batch
    model.memory = Memory.of(model)
    before = {name: value.detach().double() for name, value in model.policy.named_parameters()}
    model.train(gradient_steps=1, batch_size=len(batch.rewards))
    model.logger.dump()
    return {name: value.detach().double() - before[name] for name, value in model.policy.named_parameters()}


def part(changes: dict[str, Tensor], prefix: str) -> Tensor:
    """The changes of one of the networks, flat."""
    return torch.cat([change.flatten() for name, change in changes.items() if name.startswith(prefix)])


class Reference:
    """The agent's networks in float64, and its objectives by enumeration of the joint actions.

    Shapes: `C` critics, `V` joint actions, `B` rows.
    """

    def __init__(self, model: GumbelSAC, twins: str = "min", alpha: float = ALPHA) -> None:
        self.sizes, self.twins, self.alpha = model.factors.sizes, twins, alpha
        policy = copy.deepcopy(model.policy).double()
        self.actor, self.critics, self.target = policy.actor, policy.critics, policy.target
        self.vertices = outcomes(self.sizes)

    @staticmethod
    def state(observation: Any) -> Tensor:
        return (observation if isinstance(observation, Tensor) else observation["x"]).double()

    def q(self, critics: Any, observation: Any, actions: Tensor) -> Tensor:
        """`[C, *, B]` of actions `[*, B, N]`."""
        return torch.stack([critic(self.state(observation), actions) for critic in critics])

    def all_q(self, critics: Any, observation: Any) -> Tensor:
        """`[C, V, B]`."""
        rows = len(self.state(observation))
        return self.q(critics, observation, self.vertices[:, None].expand(-1, rows, -1))

    def policy(self, observation: Any) -> tuple[Tensor, Tensor]:
        """Probabilities `[V, B]` of the joint actions, and their entropy `[B]`."""
        scores = self.vertices @ self.actor(self.state(observation)).T
        allowed = torch.ones_like(scores, dtype=torch.bool)
        if not isinstance(observation, Tensor):
            allowed = (self.vertices @ (~observation[MASK_KEY]).double().T) == 0
        log_p = scores.masked_fill(~allowed, -math.inf).log_softmax(0)
        return log_p.exp(), -(log_p.exp() * torch.where(allowed, log_p, 0.0)).sum(0)

    def value(self, critics: Any, observation: Any) -> Tensor:
        """`E Q(s, z)` `[B]` of the critics together."""
        q, (p, _) = self.all_q(critics, observation), self.policy(observation)
        if self.twins == "action-min":
            return (p * q.min(0).values).sum(0)
        expected = (p * q).sum(1)
        return expected.mean(0) if self.twins == "mean" else expected.min(0).values

    def returns(self, batch: Transitions, entropy_in_target: bool = True) -> Tensor:
        """What the critics regress on, `[B]`."""
        with torch.no_grad():
            value = self.value(self.target, batch.next_observations)
            if entropy_in_target:
                value = value + self.alpha * self.policy(batch.next_observations)[1]
            return (batch.rewards + batch.discounts * value[:, None]).squeeze(-1)

    def taken(self, batch: Transitions) -> Tensor:
        """The actions of a batch as one-hots `[B, N]`."""
        eyes = [
            torch.eye(n, dtype=torch.float64)[column] for n, column in zip(self.sizes, batch.actions.T, strict=True)
        ]
        return torch.cat(eyes, -1)

    def critic_step(self, batch: Transitions, returns: Tensor, q_clip: float | None = None) -> Tensor:
        """What a gradient step of length 1 changes the critics by."""
        actions = self.taken(batch)
        values = self.q(self.critics, batch.observations, actions)
        errors = (values - returns).square()
        if q_clip is not None:
            slow = self.q(self.target, batch.observations, actions).detach()
            clipped = torch.minimum(torch.maximum(values, slow - q_clip), slow + q_clip)
            errors = torch.maximum(errors, (clipped - returns).square())
        return -gradient(errors.mean(-1).sum(), self.critics)

    def actor_step(self, batch: Transitions) -> Tensor:
        """What a gradient step of length 1 changes the actor by."""
        objective = self.value(self.critics, batch.observations) + self.alpha * self.policy(batch.observations)[1]
        return gradient(objective.mean(), self.actor)


def gradient(objective: Tensor, module: torch.nn.Module) -> Tensor:
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(objective, list(module.parameters()))])


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal but for float32, and not because nothing happens."""
    assert float(expected.norm()) > 1e-2
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
