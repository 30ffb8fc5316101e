"""The critic of a run directory: the policy's probabilities, the critic itself, and what is wrong with a directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from gumbel_rl import GumbelActorCritic, GumbelSAC
from gumbel_rl.lab import measure
from gumbel_rl.lab import runs as module
from gumbel_rl.lab.__main__ import Options, _problems, main
from gumbel_rl.lab.labels import make
from gumbel_rl.lab.runs import critic_of_run


class Pairs(gym.Env[Any, Any]):
    """Two choices of different size; observations are random; some choices may be forbidden."""

    def __init__(self, masked: bool = False, choices: int = 3) -> None:
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = spaces.MultiDiscrete([choices, 2])
        self.masked = masked

    def _info(self) -> dict[str, Any]:
        mask = np.ones(self.action_space.nvec.sum(), dtype=bool)
        mask[self.steps % 2] = False
        return {"action_mask": mask} if self.masked else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return observation, float(action[0] == action[1]), False, self.steps >= 10, self._info()


if "LabPairs-v0" not in gym.registry:
    gym.register("LabPairs-v0", entry_point=Pairs)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 12)


def write(directory: Path, model: Any, **config: Any) -> Path:
    directory.mkdir(exist_ok=True)
    model.save(directory / "model.zip")
    (directory / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return directory


def sac(env: Any, critic: str = "mlp", **options: Any) -> GumbelSAC:
    networks = {"critic": critic, "net_arch": [16]}
    return GumbelSAC(
        "MultiInputPolicy" if isinstance(env, GymWithMask) else "MlpPolicy",
        env,
        policy_kwargs=networks,
        buffer_size=100,
        seed=0,
        device="cpu",
        **options,
    )


class GymWithMask(gym.Wrapper[Any, Any, Any, Any]):
    """What the run's environments are, mask and all."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        from gumbel_rl.wrappers import ActionMaskObservation

        super().__init__(ActionMaskObservation(env))


@pytest.fixture(scope="module")
def mlp_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sac"), sac(Pairs()), agent="gumbel-sac", env="LabPairs-v0")


def test_critic_and_policy_are_those_of_the_model(mlp_run: Path) -> None:
    problem = critic_of_run(mlp_run, states=30)
    assert problem.name == "LabPairs-v0, gumbel-sac with critic mlp, factors of 3, 2"
    assert problem.reference == "sum over 6 joint actions"
    assert problem.dist.logits.shape == (30, 5)
    assert problem.dist.logits.dtype == torch.float64
    assert len(torch.unique(problem.dist.logits, dim=0)) == 30  # each of another state
    # The critic's value of every joint action, from the model itself, makes the same gradient.
    model = GumbelSAC.load(mlp_run / "model.zip", device="cpu")
    env = make_vec_env("LabPairs-v0", module.ENVIRONMENTS, seed=0)
    model.set_random_seed(0)
    obs = env.reset()
    first = torch.as_tensor(obs)
    logits = model.policy.logits(first).double()
    values = model.policy.critics.members[0](
        model.policy.features(model.policy.critics, first),
        model.factors.vertices()[:, None].expand(-1, len(first), -1),
    )
    for row in range(len(first)):
        match = (problem.dist.logits - logits[row]).abs().max(-1).values < 1e-5
        if match.any():
            ours = problem.f(problem.dist.enumerate_support())[:, match.int().argmax()]
            torch.testing.assert_close(ours.float(), values[:, row], rtol=1e-4, atol=1e-5)
            return
    raise AssertionError("none of the first states was drawn")


def test_states_are_drawn_by_the_seed(mlp_run: Path) -> None:
    one, two, other = (critic_of_run(mlp_run, states=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.dist.logits, two.dist.logits)
    assert not torch.equal(one.dist.logits, other.dist.logits)


def test_reading_a_run_leaves_the_random_numbers_alone(mlp_run: Path) -> None:
    before = torch.random.get_rng_state()
    critic_of_run(mlp_run, states=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("critic", "twins", "multilinear"),
    [("additive", "min", True), ("interpolated", "min", False), ("additive", "action-min", False)],
)
def test_what_is_linear_in_each_factor_is_known_to_be(
    critic: str, twins: str, multilinear: bool, tmp_path: Path
) -> None:
    run = write(tmp_path / "run", sac(Pairs(), critic, twins=twins), agent="gumbel-sac", env="LabPairs-v0")
    problem = critic_of_run(run, states=4)
    assert problem.multilinear == multilinear
    for label in ("exact", "score-function"):
        quality = measure(make(label, multilinear=multilinear), problem, 400)
        assert quality.bias_p > 1e-6
    assert measure(make("exact", multilinear=multilinear), problem, 40).mse < 1e-10


def test_smallest_of_the_critics_at_each_action(tmp_path: Path) -> None:
    model = sac(Pairs(), twins="action-min")
    problem = critic_of_run(write(tmp_path / "run", model, agent="gumbel-sac", env="LabPairs-v0"), states=4)
    plain = sac(Pairs(), twins="min")
    first = critic_of_run(write(tmp_path / "plain", plain, agent="gumbel-sac", env="LabPairs-v0"), states=4)
    vertices = problem.dist.enumerate_support()
    assert (problem.f(vertices) <= first.f(vertices) + 1e-12).all()
    assert (problem.f(vertices) < first.f(vertices)).any()


def test_advantages_of_gumbel_ac_are_centred_under_the_policy(tmp_path: Path) -> None:
    model = GumbelActorCritic("MlpPolicy", Pairs(), n_steps=8, seed=0, device="cpu")
    problem = critic_of_run(write(tmp_path / "run", model, agent="gumbel-ac", env="LabPairs-v0"), states=6)
    assert problem.multilinear
    values = problem.f(problem.dist.probs)
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-6)
    assert problem.scale > 0


def test_masks_bins_and_normalisation_are_those_of_the_run(tmp_path: Path) -> None:
    model = sac(GymWithMask(Pairs(masked=True)))
    run = write(tmp_path / "m", model, agent="gumbel-sac", env="LabPairs-v0", env_kwargs={"masked": True})
    problem = critic_of_run(run, states=10)
    assert problem.dist.mask is not None
    assert ((~problem.dist.mask).sum(-1) == 1).all()

    from gumbel_rl.wrappers import DiscretizeActions

    model = sac(DiscretizeActions(gym.make("Pendulum-v1"), 5))
    problem = critic_of_run(write(tmp_path / "b", model, agent="gumbel-sac", env="Pendulum-v1", bins=5), states=3)
    assert problem.dist.factors.sizes == (5,)

    run = write(tmp_path / "n", sac(Pairs()), agent="gumbel-sac", env="LabPairs-v0", normalize=True)
    with pytest.raises(ValueError, match="normalisation statistics"):
        critic_of_run(run)
    plain = critic_of_run(write(tmp_path / "p", sac(Pairs()), agent="gumbel-sac", env="LabPairs-v0"), states=3)
    statistics = VecNormalize(make_vec_env("LabPairs-v0", 1))
    statistics.obs_rms.mean[:] = 5.0
    statistics.save(str(run / "vecnormalize.pkl"))
    normalized = critic_of_run(run, states=3)
    assert not torch.allclose(plain.dist.logits, normalized.dist.logits)


def test_environments_of_the_clone_are_found(tmp_path: Path) -> None:
    options = {"factors": 9, "choices": 4}
    model = sac(gym.make("envs:gumbel_rl/Coordination-v0", **options), estimator="local-expectation")
    run = write(tmp_path / "run", model, agent="gumbel-sac", env="gumbel_rl/Coordination-v0", env_kwargs=options)
    with pytest.raises(ValueError, match=r"262,144 joint actions .* --reference-samples"):
        critic_of_run(run, states=2)
    problem = critic_of_run(run, states=2, reference_samples=200)
    assert problem.reference_error > 0
    assert "not exact" in problem.reference


def test_command_measures_a_run(mlp_run: Path, tmp_path: Path) -> None:
    estimators = ["exact", "straight-through", "score-function"]
    main(
        [
            "--run",
            str(mlp_run),
            "--estimators",
            *estimators,
            "--estimates",
            "60",
            "--states",
            "8",
            "--out",
            str(tmp_path),
        ]
    )
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "## LabPairs-v0, gumbel-sac with critic mlp" in page
    assert "Over 8 states of each run" in page


def test_critics_of_the_same_name_are_told_apart(mlp_run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", sac(Pairs(), "additive"), agent="gumbel-sac", env="LabPairs-v0")
    twin = write(tmp_path / "twin", sac(Pairs()), agent="gumbel-sac", env="LabPairs-v0")
    problems = _problems(Options(run=(mlp_run, other, twin, mlp_run), states=4))
    of_mlp = "LabPairs-v0, gumbel-sac with critic mlp, factors of 3, 2"
    assert [problem.name for problem in problems] == [
        f"{of_mlp}, {mlp_run}",
        "LabPairs-v0, gumbel-sac with critic additive, factors of 3, 2",
        f"{of_mlp}, {twin}",
    ]


def test_runs_that_cannot_be_read(mlp_run: Path, tmp_path: Path) -> None:
    config = {"agent": "gumbel-sac", "env": "LabPairs-v0"}

    def refused(message: str, directory: Path, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            critic_of_run(directory, **options)

    refused("no run directory: it has no config.yaml", tmp_path)
    refused("--model must be final or best", mlp_run, model="worst")
    refused(re.escape("best_model.zip"), mlp_run, model="best")
    refused("--states must be between 1 and", mlp_run, states=0)
    run = write(
        tmp_path / "run", PPO("MlpPolicy", "CartPole-v1", n_steps=8, device="cpu"), **{**config, "agent": "ppo"}
    )
    refused("a run of ppo, which has no critic of actions", run)
    write(run, PPO("MlpPolicy", "CartPole-v1", n_steps=8, device="cpu"), **config)
    refused("as a model of gumbel-sac on LabPairs-v0", run)
    (run / "model.zip").write_bytes(b"damaged")
    refused("damaged", run)
    write(run, sac(Pairs()), agent="gumbel-sac", env="NoSuchEnvironment-v0")
    refused("cannot make the run's environment NoSuchEnvironment-v0", run)
    write(run, sac(Pairs()), **config, env_kwargs={"choices": 4})
    refused("as a model of gumbel-sac on LabPairs-v0", run)
    (run / "config.yaml").write_text("a: [", encoding="utf-8")
    refused("is damaged", run)
    (run / "config.yaml").write_text("agent: gumbel-sac", encoding="utf-8")
    refused("names no environment", run)
