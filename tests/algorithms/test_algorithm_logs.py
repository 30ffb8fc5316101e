"""What the algorithms log is there, and true."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scripted import Memory, Scripted, vectorised
from stable_baselines3.common.monitor import Monitor
from torch.nn.utils import parameters_to_vector

from envs import make_vec_env
from gumbel_rl import ESTIMATORS, GumbelActorCritic, GumbelSAC, Reinforce

PLAIN = {"train/learning_rate", "train/temperature", "train/entropy", "train/entropy_ratio", "train/actor_loss"}
PLAIN |= {"train/critic_loss", "train/grad_norm", "train/zero_grad_frac", "train/n_updates"}
PLAIN |= {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/total_timesteps", "dist/action_probs"}
QUALITY = {"grad/bias", "grad/variance", "grad/cosine"}
TAGS = {
    GumbelActorCritic: PLAIN | QUALITY | {"train/explained_variance", "train/value_loss", "train/kl"},
    Reinforce: PLAIN | {"train/explained_variance"},
    GumbelSAC: PLAIN | QUALITY | {"train/ent_coef", "train/target_entropy_ratio", "train/value", "time/episodes"},
}
OPTIONS = {
    GumbelActorCritic: {"n_steps": 8, "diagnostics_interval": 1},
    Reinforce: {},
    GumbelSAC: {
        "learning_starts": 8,
        "batch_size": 16,
        "train_freq": 2,
        "gradient_steps": 1,
        "diagnostics_interval": 1,
    },
}
FOUR = {"sizes": (4,)}


def logged(
    cls, steps: int = 64, *, n_envs: int = 4, task: dict | None = None, prepare=None, **options
) -> tuple[Memory, object]:
    """What a run on the bandit logs; `prepare` changes the policy first."""
    env = make_vec_env("gumbel_rl/FactoredBandit-v0", n_envs, env_kwargs=task or {})
    model = cls("MlpPolicy", env, seed=0, **OPTIONS[cls] | options)
    if prepare is not None:
        prepare(model.policy)
    memory = Memory.of(model)
    model.learn(steps)
    model.dump_logs()  # what the last update logged
    return memory, model


def uniform(policy) -> None:
    """Equal logits."""
    with torch.no_grad():
        policy.actor[-1].weight.zero_()
        policy.actor[-1].bias.zero_()


def ignorant(policy) -> None:
    """A critic that says 0."""
    with torch.no_grad():
        policy.critic.net[-1].weight.zero_()
        policy.critic.net[-1].bias.zero_()


@pytest.mark.parametrize("cls", TAGS)
def test_every_tag_is_there_short_and_finite(cls):
    memory, _ = logged(cls)
    assert set().union(*memory.rows) - {"step", "time/iterations", "time/time_elapsed"} == TAGS[cls]
    for row in memory.rows:
        assert max(map(len, row)) <= 30
        for tag, value in row.items():
            assert np.isfinite(np.asarray(value)).all(), tag


@pytest.mark.parametrize("cls", TAGS)
def test_stdout_takes_every_tag(cls, capsys):
    env = make_vec_env("gumbel_rl/FactoredBandit-v0", 2)
    cls("MlpPolicy", env, verbose=1, seed=0, **OPTIONS[cls]).learn(64)
    printed = capsys.readouterr().out
    assert "entropy_ratio" in printed
    assert "action_probs" not in printed


@pytest.mark.parametrize("cls", TAGS)
@pytest.mark.parametrize("sizes", [(4,), (3, 4, 2)])
def test_entropy_of_the_uniform_policy(cls, sizes):
    memory, _ = logged(cls, task={"sizes": sizes}, prepare=uniform, learning_rate=0.0)
    for row in memory.values("train/entropy"):
        assert row == pytest.approx(sum(map(math.log, sizes)))
    assert memory.values("train/entropy_ratio") == pytest.approx([1.0] * len(memory.values("train/entropy")))
    for probs in memory.values("dist/action_probs"):
        expected = torch.cat([torch.full((n,), 1 / n) for n in sizes])
        torch.testing.assert_close(probs.reshape(-1, sum(sizes)), expected.expand(len(probs) // sum(sizes), -1))


def test_losses_of_a_policy_and_critic_that_know_nothing():
    options = {"prepare": lambda policy: (uniform(policy), ignorant(policy)), "learning_rate": 0.0, "n_epochs": 1}
    memory, _ = logged(GumbelActorCritic, task=FOUR, ent_coef=0.5, batch_size=64, **options)
    # No advantage known and no divergence: the entropy bonus is left. Normalised advantages have mean square 1.
    assert memory.values("train/actor_loss") == pytest.approx([-0.5 * math.log(4)] * 2)
    assert memory.values("train/kl") == pytest.approx([0.0] * 2, abs=1e-7)
    assert memory.values("train/critic_loss") == pytest.approx([1.0] * 2, rel=1e-4)
    assert memory.values("train/explained_variance") == pytest.approx([0.0] * 2, abs=1e-6)
    assert memory.values("train/n_updates") == [1, 2]


@pytest.mark.parametrize("cls", TAGS)
def test_gradient_norm_is_that_of_the_step(cls):
    policy = {"optimizer_class": torch.optim.SGD}
    options = {"learning_rate": 1.0, "max_grad_norm": math.inf, "policy_kwargs": policy}
    options |= {"n_epochs": 1} if cls is GumbelActorCritic else {}
    steps = {GumbelActorCritic: 32, Reinforce: 4, GumbelSAC: 16}  # for one update
    starts = []
    memory, model = logged(
        cls,
        steps[cls],
        prepare=lambda policy: starts.append(parameters_to_vector(policy.actor_parameters).detach()),
        **options,
    )
    change = parameters_to_vector(model.policy.actor_parameters).detach() - starts[0]
    assert memory.values("train/grad_norm") == pytest.approx([float(change.norm())], rel=1e-4)


def test_gradient_norm_is_logged_before_clipping():
    memory, _ = logged(GumbelActorCritic, max_grad_norm=1e-6)
    assert min(memory.values("train/grad_norm")) > 1e-4


@pytest.mark.parametrize("name", ESTIMATORS)
def test_quality_of_the_gradient(name):
    options = {"n_steps": 32, "batch_size": 512}  # large batches, whose bias stands out from the noise
    memory, _ = logged(GumbelActorCritic, 8 * 512, n_envs=16, task=FOUR, estimator=name, **options)
    bias, variance, cosine = (np.array(memory.values(f"grad/{tag}")) for tag in ("bias", "variance", "cosine"))
    assert len(bias) == 8
    if name in ("exact", "straight-through", "local-expectation"):  # the critic is linear in the action
        assert bias.max() < 1e-4
        assert variance.max() < 1e-8
        assert cosine.min() > 1 - 1e-5
    else:
        assert variance.min() > 1e-3
        assert cosine.max() < 1.0
        # At temperature 1 the bias is about 0.3; that of an unbiased estimator is measured as 0.05 at most.
        # Straight-through of second order has none where the critic is linear, nor its mixture with the first.
        unbiased = ESTIMATORS[name].unbiased or name in ("zgr", "reinmax", "mixture")
        assert (bias.mean() > 0.15) == (not unbiased)


@pytest.mark.parametrize(("temperature", "low", "high"), [(1.0, 0.0, 0.05), (0.01, 0.3, 1.0)])
def test_cold_samples_have_dead_gradients(temperature, low, high):
    memory, _ = logged(GumbelActorCritic, task=FOUR, temperature=temperature)
    assert all(low <= share <= high for share in memory.values("train/zero_grad_frac"))


@pytest.mark.parametrize(("interval", "iterations"), [(0, []), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4])])
def test_diagnostics_come_when_they_are_due(interval, iterations):
    memory, _ = logged(GumbelActorCritic, 5 * 32, diagnostics_interval=interval)
    # A value is written with the next iteration's.
    assert [i - 1 for i, row in enumerate(memory.rows) if "grad/bias" in row] == iterations


def test_reinforce_without_reward_has_no_gradient():
    class Nothing(Scripted):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest

    model = Reinforce("MlpPolicy", vectorised(Nothing([(3, "terminated")])), baseline="none", seed=0)
    memory = Memory.of(model)
    model.learn(9)
    assert memory.values("train/zero_grad_frac") == [1.0, 1.0]
    assert "train/critic_loss" not in set().union(*memory.rows)


def test_reinforce_reports_the_episodes_it_learns_from():
    # While the second environment plays its long episode, the first plays three short ones.
    env = vectorised(*(Monitor(Scripted([(length, "terminated")])) for length in (3, 9)))
    model = Reinforce("MlpPolicy", env, seed=0)
    memory = Memory.of(model)
    model.learn(36)
    assert memory.values("rollout/ep_len_mean") == [6.0, 6.0]


@pytest.mark.parametrize("cls", TAGS)
def test_tensorboard(cls, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    env = make_vec_env("gumbel_rl/FactoredBandit-v0", 2)
    cls("MlpPolicy", env, tensorboard_log=str(tmp_path), **OPTIONS[cls]).learn(64)
    (run,) = tmp_path.iterdir()
    assert run.name == f"{cls.__name__}_1"
    events = EventAccumulator(str(run))
    events.Reload()
    assert "dist/action_probs" in events.Tags()["histograms"]
    assert {"train/entropy", "train/temperature", "rollout/ep_rew_mean"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("cls", [GumbelActorCritic, GumbelSAC])
def test_measuring_the_gradient_does_not_change_training(cls):
    measured, unmeasured = (
        parameters_to_vector(logged(cls, diagnostics_interval=interval)[1].policy.parameters()) for interval in (1, 0)
    )
    assert torch.equal(measured, unmeasured)
