"""TargetEntropyCallback: SAC's target entropy follows a schedule of environment steps."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plug_in_cases import ACTION_SPACES, Matching
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from gumbel_rl.sb3 import GumbelSACPolicy, GumbelTD3Policy, OneHotActions, TargetEntropyCallback, sac_defaults


def make_env(n_envs: int = 1, masked: bool = False) -> Any:
    return make_vec_env(
        partial(Matching, ACTION_SPACES["ragged"], masked=masked), n_envs, seed=0, wrapper_class=OneHotActions
    )


def make_sac(n_envs: int = 1, masked: bool = False, **options: Any) -> SAC:
    env = make_env(n_envs, masked)
    settings = {"buffer_size": 300, "learning_starts": 10, "batch_size": 8, "seed": 0, "verbose": 0} | options
    return SAC(GumbelSACPolicy, env, **sac_defaults(env, policy_kwargs={"net_arch": [4]}, **settings))


class Watch(BaseCallback):
    """Remembers the target entropy after each step, as a share of the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float, float, float]] = []

    def _on_step(self) -> bool:
        algorithm: Any = self.model
        share = algorithm.target_entropy / algorithm.policy.factors.max_entropy
        logged = self.logger.name_to_value["train/target_entropy_ratio"]
        self.seen.append((self.num_timesteps, share, algorithm.policy.actor.target_entropy_ratio, logged))
        return True


@pytest.mark.parametrize("n_envs", [1, 3])
def test_an_open_schedule_spans_the_run(n_envs: int) -> None:
    watch = Watch()
    model = make_sac(n_envs).learn(60, callback=[TargetEntropyCallback("linear:0.8:0.2"), watch])
    assert len(watch.seen) == 60 / n_envs
    for steps, *shares in watch.seen:
        assert shares == pytest.approx([0.8 - 0.6 * steps / 60] * 3)
    assert model.target_entropy == pytest.approx(0.2 * model.policy.factors.max_entropy)


def test_the_first_update_has_the_schedules_target() -> None:
    model = make_sac(learning_starts=0, train_freq=1)
    model.learn(1, callback=TargetEntropyCallback("linear:0.8:0.2:100"))
    assert model.target_entropy == pytest.approx((0.8 - 0.6 / 100) * model.policy.factors.max_entropy)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("ratio", "rises"), [(1.0, True), (0.0, False)])
def test_the_entropy_coefficient_follows(ratio: float, rises: bool, masked: bool) -> None:
    """A first policy is nearly uniform: above a target of 0, below one of 1 once it has learnt something."""
    model = make_sac(masked=masked, learning_rate=1e-2)
    first = model.log_ent_coef.item()  # type: ignore[union-attr]
    model.learn(100, callback=TargetEntropyCallback(ratio))
    assert (model.log_ent_coef.item() > first) == rises  # type: ignore[union-attr]


def test_a_resumed_run_goes_on_with_the_schedule(tmp_path: Path) -> None:
    model = make_sac().learn(60, callback=TargetEntropyCallback("linear:0.8:0.2:120"))
    model.save(tmp_path / "model")
    resumed = SAC.load(tmp_path / "model", env=make_env())
    assert resumed.target_entropy == pytest.approx(0.5 * resumed.policy.factors.max_entropy)
    watch = Watch()
    resumed.learn(60, reset_num_timesteps=False, callback=[TargetEntropyCallback("linear:0.8:0.2:120"), watch])
    assert watch.seen[0][1] == pytest.approx(0.8 - 0.6 * 61 / 120)
    assert watch.seen[-1][1] == pytest.approx(0.2)


def test_it_refuses_an_algorithm_without_a_target_entropy() -> None:
    env = make_env()
    with pytest.raises(TypeError, match="TargetEntropyCallback is for SAC with a GumbelSACPolicy, got a GumbelTD3Pol"):
        DDPG(GumbelTD3Policy, env, buffer_size=100).learn(10, callback=TargetEntropyCallback(0.5))
    with pytest.raises(ValueError, match=r"ent_coef=0.1 is fixed and follows no target entropy; give ent_coef='auto"):
        make_sac(ent_coef=0.1).learn(10, callback=TargetEntropyCallback(0.5))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "linear:1.2:0.1", "linear:0.5:-0.1", math.inf])
def test_it_refuses_what_is_no_share(ratio: Any) -> None:
    with pytest.raises(ValueError, match=r"share of the maximum, between 0 and 1|must be finite"):
        TargetEntropyCallback(ratio)
