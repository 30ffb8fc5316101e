"""Steps: the budget, what anneals along it, and runs that go on."""

from __future__ import annotations

import pytest
import torch
from scripted import Memory, Scripted, vectorised

from envs import make_vec_env
from gumbel_rl import GumbelActorCritic, GumbelSAC, Reinforce, make_schedule

EXPONENTIAL = "exponential:1.0:0.25"


def bandit(n_envs: int = 4):
    return make_vec_env("gumbel_rl/FactoredBandit-v0", n_envs)


class Watching(GumbelActorCritic):
    """Notes, update by update, the steps made, the temperatures (its own, the estimator's) and the learning rate."""

    def train(self) -> None:
        super().train()
        rate = self.policy.optimizer.param_groups[0]["lr"]
        self.notes.append((self.num_timesteps, float(self.policy.temperature), self.estimator.temperature, rate))


def watching(n_envs: int = 4, **options) -> Watching:
    model = Watching("MlpPolicy", bandit(n_envs), n_steps=8, n_epochs=1, seed=0, **options)
    model.notes = []
    return model


BUDGETS = {GumbelActorCritic: {"n_steps": 4}, Reinforce: {}, GumbelSAC: {"train_freq": 1, "learning_starts": 40}}


@pytest.mark.parametrize("cls", BUDGETS)
@pytest.mark.parametrize("n_envs", [1, 3, 4])
@pytest.mark.parametrize("total", [1, 7, 50])
def test_the_budget_is_kept(cls, n_envs, total):
    env = vectorised(*(Scripted([(5, "terminated"), (2, "truncated")]) for _ in range(n_envs)))
    model = cls("MlpPolicy", env, **BUDGETS[cls]).learn(total)
    assert total <= model.num_timesteps <= total + n_envs - 1
    # And once more, on top.
    start = model.num_timesteps
    model.learn(total, reset_num_timesteps=False)
    assert start + total <= model.num_timesteps <= start + total + n_envs - 1


def test_no_steps_are_no_training():
    model = watching(temperature=EXPONENTIAL).learn(0)
    assert (model.num_timesteps, model.notes) == (0, [])
    assert model.learn(64).notes[-1][1] == pytest.approx(0.25)


def test_temperature_anneals_on_environment_steps():
    model = watching(temperature=EXPONENTIAL).learn(320)
    steps = [note[0] for note in model.notes]
    assert steps == list(range(32, 321, 32))
    for step, temperature, used, _ in model.notes:
        assert temperature == pytest.approx(0.25 ** (step / 320), rel=1e-6)
        assert used == temperature
    assert temperature == pytest.approx(0.25)


def test_temperature_with_steps_of_its_own_and_a_floor():
    model = watching(temperature="linear:1.0:0.1:160:floor=0.4").learn(320)
    for step, temperature, *_ in model.notes:
        assert temperature == pytest.approx(max(0.4, 1.0 - 0.9 * min(step / 160, 1.0)), rel=1e-6)


def test_temperature_is_logged_truthfully():
    model = watching(temperature=EXPONENTIAL)
    memory = Memory.of(model)
    model.learn(320)
    # Stable-Baselines3 writes an update's values with the next iteration's.
    assert memory.values("train/temperature") == pytest.approx([note[1] for note in model.notes[:-1]])
    assert memory.values("train/learning_rate") == pytest.approx([note[3] for note in model.notes[:-1]])


def test_temperature_survives_saving_and_goes_on_where_it_stopped(tmp_path):
    whole = watching(temperature=EXPONENTIAL, learning_rate="linear:1e-3:0").learn(320)

    class Interrupted(Exception):
        pass

    def stop(arguments, _):
        if arguments["self"].num_timesteps == 132:  # in the middle of an iteration
            raise Interrupted
        return True

    model = watching(temperature=EXPONENTIAL, learning_rate="linear:1e-3:0")
    with pytest.raises(Interrupted):
        model.learn(320, callback=stop)
    model.save(tmp_path / "model.zip")

    loaded = Watching.load(tmp_path / "model.zip", env=bandit())
    assert list(map(tuple, loaded.notes)) == model.notes == whole.notes[:4]
    assert float(loaded.policy.temperature) == float(model.policy.temperature) == pytest.approx(0.25 ** (128 / 320))
    loaded.learn(320 - 132, reset_num_timesteps=False)
    for step, temperature, used, rate in loaded.notes:
        assert temperature == used == pytest.approx(0.25 ** (step / 320), rel=1e-6)
        assert rate == pytest.approx(1e-3 * (1 - step / 320), abs=1e-9)
    assert loaded.notes[-1][0] == 320


def test_a_longer_run_keeps_the_last_temperature():
    model = watching(temperature=EXPONENTIAL).learn(64).learn(64, reset_num_timesteps=False)
    assert [note[1] for note in model.notes[2:]] == pytest.approx([0.25, 0.25])


def test_a_new_run_anneals_anew():
    model = watching(temperature=EXPONENTIAL, learning_rate="linear:1e-3:0").learn(64).learn(128)
    assert [note[1] for note in model.notes[2:]] == pytest.approx([0.25**0.25, 0.25**0.5, 0.25**0.75, 0.25])
    assert [note[3] for note in model.notes[2:]] == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0])


@pytest.mark.parametrize(
    "spec",
    [
        2e-3,
        "linear:1e-3:0",
        "linear:1e-3:1e-4:100",
        "piecewise:0=1e-2,64=1e-3",
        {"kind": "cosine", "start": 1, "end": 0},
    ],
)
def test_learning_rate_follows_its_schedule_over_environment_steps(spec):
    model = watching(learning_rate=spec).learn(256)
    schedule = make_schedule(spec).over(256)
    assert [note[3] for note in model.notes] == pytest.approx([schedule(note[0]) for note in model.notes], abs=1e-12)


def test_reinforce_follows_its_learning_rate_too():
    rates = []

    class Noting(Reinforce):
        def train(self):
            super().train()
            rates.append(self.policy.optimizer.param_groups[0]["lr"])

    Noting("MlpPolicy", bandit(), learning_rate="linear:1e-2:0:8").learn(16)
    assert rates == pytest.approx([5e-3, 0.0, 0.0, 0.0])


def test_loading_accepts_another_schedule(tmp_path):
    watching().learn(64).save(tmp_path / "model.zip")
    options = {"temperature": "linear:0.5:0.4", "learning_rate": "linear:1:0"}
    loaded = Watching.load(tmp_path / "model.zip", env=bandit(), **options).learn(64)
    assert [note[1] for note in loaded.notes[2:]] == pytest.approx([0.45, 0.4])
    assert [note[3] for note in loaded.notes[2:]] == pytest.approx([0.5, 0.0])


def parameters(cls, seed) -> torch.Tensor:
    env = make_vec_env("CartPole-v1", 4)
    model = cls("MlpPolicy", env, seed=seed).learn(300)
    return torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()


@pytest.mark.parametrize("cls", [GumbelActorCritic, Reinforce])
def test_one_seed_gives_one_run(cls):
    first = parameters(cls, 3)
    torch.rand(7)  # nothing but the seed counts
    assert torch.equal(first, parameters(cls, 3))
    assert not torch.equal(first, parameters(cls, 4))
