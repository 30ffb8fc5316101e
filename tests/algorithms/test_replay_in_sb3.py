"""The replay buffer in Stable-Baselines3's algorithms, beside its own buffers that are given the same."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from replay_contents import BOX, OBSERVATIONS, counted, everything
from scripted import Scripted, Spaces, vectorised
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from gumbel_rl.sb3 import GumbelSACPolicy, OneHotActions
from gumbel_rl.sb3.replay import DiscreteReplayBuffer
from gumbel_rl.wrappers import MASK_KEY

EPISODES = [(2, "terminated"), (5, "truncated"), (1, "terminated"), (1, "truncated"), (9, "terminated")]


def in_both(stock: type[ReplayBuffer], **options: Any) -> type[DiscreteReplayBuffer]:
    """A buffer that hands everything to one of SB3's too, as `stock`."""

    class InBoth(DiscreteReplayBuffer):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.stock = stock(*arguments, **{"device": "cpu", "n_envs": keywords["n_envs"]} | options)

        def add(self, *arguments: Any) -> None:
            self.stock.add(*copy.deepcopy(arguments))
            super().add(*arguments)

    return InBoth


def in_stock(buffer: Any, env: VecNormalize | None, gamma: float) -> Counter[Any]:
    """What SB3's buffer holds, counted as `counted` does it."""
    held = buffer.stock.size()
    rows, envs = np.divmod(np.arange(held * buffer.n_envs), buffer.n_envs)
    with pytest.MonkeyPatch.context() as patch:  # it draws the environments itself
        patch.setattr(np.random, "randint", lambda *_, **__: envs)
        samples = buffer.stock._get_samples(rows, env)
    discounts = gamma if samples.discounts is None else samples.discounts
    return counted(samples._replace(discounts=(1 - samples.dones) * discounts))


EPISODES = [(2, "terminated"), (5, "truncated"), (1, "terminated"), (1, "truncated"), (9, "terminated")]


def same_in_both(buffer: Any, env: VecNormalize | None = None, gamma: float = 0.5) -> None:
    """Sums may be rounded in another way, and nothing else."""
    ours, stock = counted(everything(buffer, env)), in_stock(buffer, env, gamma)
    rows = [sorted(found.elements(), key=repr) for found in (ours, stock)]
    assert len(rows[0]) == len(rows[1])
    for one, other in zip(*rows, strict=True):
        assert one[:4] == other[:4]
        np.testing.assert_allclose(one[4:], other[4:], rtol=1e-6)


def dqn(env: Any, kind: type[ReplayBuffer], policy: str = "MlpPolicy", **options: Any) -> DQN:
    options = {"gamma": 0.5} | options
    return DQN(
        policy,
        env,
        buffer_size=60,
        learning_starts=12,
        batch_size=8,
        gamma=0.5,
        replay_buffer_class=kind,
        replay_buffer_kwargs=options,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "VecNormalize"])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_dqn_fills_it_as_it_fills_its_own(n_steps, normalised):
    env: Any = vectorised(Scripted(EPISODES), Scripted(EPISODES[2:]), Scripted([(4, "truncated"), (3, "terminated")]))
    env = VecNormalize(env) if normalised else env
    options = {"n_steps": n_steps, "gamma": 0.5}
    model = dqn(env, in_both(NStepReplayBuffer, **options) if n_steps > 1 else in_both(ReplayBuffer), **options)
    for _ in range(2):  # full both times, beginning elsewhere in the ring
        model.learn(3 * 41, reset_num_timesteps=False)
        assert model.replay_buffer.size() == 20
        same_in_both(model.replay_buffer, env if normalised else None)


def test_runs_of_one_seed_are_the_same():
    weights = []
    for _ in range(2):
        model = dqn(vectorised(Scripted(EPISODES)), DiscreteReplayBuffer, n_steps=2)  # its seed is 0
        model.learn(60)
        weights.append(torch.cat([parameter.detach().ravel() for parameter in model.policy.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("masked", [False, True], ids=["box", "masked"])
def test_sac_of_the_plug_in_fills_it_as_it_fills_its_own(masked):
    space = OBSERVATIONS["dict"] if masked else BOX
    space.seed(0)

    def make() -> Any:
        env = Spaces(copy.deepcopy(space), spaces.MultiDiscrete([3, 6, 4], start=[2, 0, -1]))
        if masked:  # as it is drawn it may forbid everything
            env.observation_space = spaces.Dict({**space, MASK_KEY: spaces.Box(1, 1, (13,), np.int8)})
        return OneHotActions(env)

    env = vectorised(make(), make())
    model = SAC(
        GumbelSACPolicy,
        env,
        buffer_size=40,
        target_entropy=1.0,
        learning_starts=10,
        batch_size=8,
        gamma=0.5,
        replay_buffer_class=in_both(DictReplayBuffer if masked else ReplayBuffer),
        replay_buffer_kwargs={"gamma": 0.5},
        seed=0,
        device="cpu",
    )
    model.learn(100)
    samples = everything(model.replay_buffer)
    assert samples.actions.dtype == torch.float32
    assert samples.actions.shape == (40, 13)
    assert model.replay_buffer.actions.shape == (21, 2, 3)
    same_in_both(model.replay_buffer)


def test_sb3_saves_and_loads_it_and_goes_on_in_another_episode(tmp_path):
    def make() -> Any:
        return vectorised(Scripted([(6, "terminated")]), Scripted([(50, "truncated")]))

    options = {"n_steps": 3, "seed": 7}
    model = dqn(make(), DiscreteReplayBuffer, **options)
    model.learn(24)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    samples = model.replay_buffer.sample(32)

    loaded = DQN.load(tmp_path / "model", env=make())
    loaded.load_replay_buffer(tmp_path / "buffer")
    for one, other in zip(loaded.replay_buffer.sample(32), samples, strict=True):
        assert torch.equal(one, other)
    before = counted(everything(loaded.replay_buffer))
    # The environments begin anew: no return goes from the episodes broken off into those that follow.
    loaded.learn(8)
    samples = everything(loaded.replay_buffer)
    assert loaded.replay_buffer.size() == 16
    steps = samples.next_observations[:, 2] - samples.observations[:, 2]
    torch.testing.assert_close(samples.next_observations[:, 1], samples.observations[:, 1])
    live = samples.discounts > 0
    torch.testing.assert_close(samples.discounts[live], 0.5 ** steps[:, None][live])
    # What had been there is there still, the last returns of the broken episodes included.
    assert before <= counted(samples)


# SB3's own networks take neither integers that do not begin at 0 nor observations without a dimension.
@pytest.mark.parametrize("kind", sorted(set(OBSERVATIONS) - {"discrete", "multi-discrete", "scalar"}))
def test_dqn_learns_from_returns_of_several_steps_of_every_space(kind):
    # SB3's own refuses Dict observations there.
    policy = "MultiInputPolicy" if isinstance(OBSERVATIONS[kind], spaces.Dict) else "MlpPolicy"
    env = vectorised(*(Spaces(copy.deepcopy(OBSERVATIONS[kind]), spaces.Discrete(3)) for _ in range(2)))
    model = dqn(env, DiscreteReplayBuffer, policy, n_steps=3)
    model.learn(40)
    assert model.logger.name_to_value["train/loss"] > 0
    assert model.replay_buffer.size() == 20
