"""GumbelSAC saved, loaded and gone on with: as if it had never been interrupted."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted import Memory, Scripted, vectorised
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import VecNormalize

from envs import make_vec_env
from gumbel_rl import GumbelSAC, make_estimator
from gumbel_rl.algorithms.off_policy_policies import POLICY_ALIASES
from gumbel_rl.sb3.replay import DiscreteReplayBuffer
from gumbel_rl.wrappers import ActionMaskObservation

# These settings are given to all estimators.
pytestmark = pytest.mark.filterwarnings("ignore:the temperature .* changes nothing")

SETTINGS = {
    "learning_starts": 40,
    "batch_size": 16,
    "train_freq": 2,
    "n_steps": 2,
    "actor_delay": 2,
    "diagnostics_interval": 3,
    "learning_rate": "linear:1e-2:1e-3",
    "estimator": "st-gumbel-softmax",
    "temperature": "exponential:1.0:0.25",
    "target_entropy_ratio": "linear:0.8:0.2",
}


def cart_poles(n_envs: int = 2):
    return make_vec_env("CartPole-v1", n_envs, engine="dummy", seed=7)


def make(env=None, **options) -> GumbelSAC:
    networks = {"net_arch": [8]} | options.pop("policy_kwargs", {})
    env = cart_poles() if env is None else env
    return GumbelSAC("MlpPolicy", env, policy_kwargs=networks, **{"seed": 0} | SETTINGS | options)


def assert_same(one: GumbelSAC, other: GumbelSAC) -> None:
    """All that has been learnt is equal: networks and slow copies, entropy coefficient, temperature, optimiser."""
    states = one.policy.state_dict(), other.policy.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    moments = [model.policy.optimizer.state_dict()["state"] for model in (one, other)]
    assert moments[0].keys() == moments[1].keys()
    for number, state in moments[0].items():
        for name, value in state.items():
            assert torch.equal(value, moments[1][number][name]), (number, name)


def test_all_that_was_learnt_is_saved(tmp_path):
    model = make().learn(100)
    model.save(tmp_path / "model")
    assert model.policy.log_ent_coef.item() != pytest.approx(np.log(0.1))
    assert float(model.policy.temperature) < 1
    loaded = GumbelSAC.load(tmp_path / "model")  # without an environment
    assert_same(model, loaded)
    assert (loaded.num_timesteps, loaded._n_updates) == (100, model._n_updates)
    states = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for deterministic in (True, False):
        predictions = []
        for each in (model, loaded):
            torch.manual_seed(0)
            predictions.append(each.predict(states, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*predictions)
    with pytest.raises(AssertionError):
        loaded.learn(10)


@pytest.mark.parametrize("estimator", ["exact", "st-gumbel-softmax", "rloo"])
def test_a_resumed_run_goes_on_like_the_one_that_was_saved(estimator, tmp_path):
    model = make(estimator=estimator).learn(100)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = GumbelSAC.load(tmp_path / "model", env=cart_poles())
    assert loaded.replay_buffer.size() == 0  # it is saved apart
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.size() == 50
    model.set_env(cart_poles())
    rows = []
    for each in (model, loaded):
        memory = Memory.of(each)
        each.set_random_seed(5)  # of the environments too
        each.learn(60, reset_num_timesteps=False)
        each.dump_logs()
        rows.append(memory.rows)
    assert model.num_timesteps == loaded.num_timesteps == 160
    assert_same(model, loaded)
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[tag], other[tag]) for tag in one if not tag.startswith("time/"))


def test_schedules_go_on_where_they_stopped(tmp_path):
    class Noting(GumbelSAC):
        def train(self, gradient_steps, batch_size):
            super().train(gradient_steps, batch_size)
            ratio, rate = (
                self.logger.name_to_value[f"train/{tag}"] for tag in ("target_entropy_ratio", "learning_rate")
            )
            self.notes.append((self.num_timesteps, float(self.policy.temperature), ratio, rate))

    class Interrupted(Exception):
        pass

    def stop(local, _):
        if local["self"].num_timesteps == 130:
            raise Interrupted
        return True

    model = Noting("MlpPolicy", cart_poles(), **SETTINGS)
    model.notes = []
    with pytest.raises(Interrupted):
        model.learn(320, callback=stop)
    model.save(tmp_path / "model")
    loaded = Noting.load(tmp_path / "model", env=cart_poles())
    first = len(loaded.notes)
    loaded.learn(320 - loaded.num_timesteps, reset_num_timesteps=False)
    assert [note[0] for note in loaded.notes[:first]] == list(range(44, 130, 4))
    assert loaded.notes[first][0] == 134
    assert loaded.notes[-1][0] >= 320
    for step, temperature, ratio, rate in loaded.notes:
        share = min(step / 320, 1.0)
        assert temperature == pytest.approx(0.25**share, rel=1e-6)
        assert ratio == pytest.approx(0.8 - 0.6 * share)
        assert rate == pytest.approx(1e-2 - 9e-3 * share)


def test_two_halves_are_the_whole():
    constant = {"learning_rate": 1e-3, "temperature": 0.5, "target_entropy_ratio": 0.3}
    whole, halves = make(**constant).learn(160), make(**constant)
    halves.learn(80)
    assert halves.num_timesteps == 80
    halves.learn(80, reset_num_timesteps=False)
    assert (halves.num_timesteps, halves._n_updates) == (whole.num_timesteps, whole._n_updates)
    assert_same(whole, halves)


def test_one_seed_gives_one_run():
    first = make(estimator="rloo").learn(120)
    torch.rand(7)  # nothing but the seed counts
    np.random.rand(7)  # noqa: NPY002
    assert_same(first, make(estimator="rloo").learn(120))
    assert not torch.equal(
        first.policy.actor[0].weight, make(estimator="rloo", seed=1).learn(120).policy.actor[0].weight
    )


def test_a_new_run_warms_up_and_anneals_anew():
    model = make().learn(100)
    updates = model._n_updates
    model.learn(44)
    assert model._n_updates == updates + 4
    assert model.replay_buffer.size() == 72  # what it remembers it keeps
    assert float(model.policy.temperature) == pytest.approx(0.25)


def test_loading_with_another_number_of_environments(tmp_path):
    make().learn(100).save(tmp_path / "model")
    loaded = GumbelSAC.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    assert loaded.n_envs == loaded.replay_buffer.n_envs == 1
    loaded.learn(80)
    assert loaded.replay_buffer.size() == 80


def test_loading_with_other_settings(tmp_path):
    make().learn(60).save(tmp_path / "model")
    loaded = GumbelSAC.load(
        tmp_path / "model",
        env=cart_poles(),
        learning_rate=5e-3,
        gamma=0.5,
        n_steps=1,
        target_entropy_ratio=0.4,
        train_freq=5,
        estimator="rloo",
        estimator_kwargs={"samples": 3},
    )
    memory = Memory.of(loaded)
    loaded.learn(100)
    loaded.dump_logs()
    assert memory.values("train/learning_rate")[-1] == pytest.approx(5e-3)
    assert memory.values("train/target_entropy_ratio")[-1] == pytest.approx(0.4)
    discounts = loaded.replay_buffer.sample(100).discounts
    assert set(discounts.unique().tolist()) <= {0.0, 0.5}
    assert 0.5 in discounts


def test_returns_of_a_loaded_replay_buffer_are_made_by_the_settings_of_the_model(tmp_path):
    model = make().learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = GumbelSAC.load(tmp_path / "model", env=cart_poles(), gamma=0.5, n_steps=3, include_newest=True)
    loaded.load_replay_buffer(tmp_path / "buffer")
    batch = loaded.replay_buffer.sample(200)
    assert {0.125, 0.25, 0.5} <= set(batch.discounts.unique().tolist()) <= {0.0, 0.125, 0.25, 0.5}
    # The newest come first, whose returns have one step yet.
    assert batch.discounts[:2].tolist() == [[0.5], [0.5]]
    assert loaded.learn(20, reset_num_timesteps=False).num_timesteps == 80


def test_a_replay_buffer_of_another_number_of_environments(tmp_path):
    model = make().learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    other = make(cart_poles(3))
    kept = other.replay_buffer
    with pytest.raises(ValueError, match="the environments of the replay buffer are 2, and those of the model are 3"):
        other.load_replay_buffer(tmp_path / "buffer")
    assert other.replay_buffer is kept


def test_a_replay_buffer_of_other_spaces_or_another_kind(tmp_path):
    model = make().learn(60)
    kept = model.replay_buffer
    for name, space in (("actions", spaces.Discrete(3)), ("observations", spaces.Box(-1, 1, (2,)))):
        parts = {"observations": model.observation_space, "actions": model.action_space} | {name: space}
        save_to_pkl(tmp_path / "buffer", DiscreteReplayBuffer(10, *parts.values(), n_envs=2, gamma=0.99))
        with pytest.raises(ValueError, match=f"the {name} of the replay buffer are "):
            model.load_replay_buffer(tmp_path / "buffer")
    save_to_pkl(tmp_path / "buffer", ReplayBuffer(10, model.observation_space, model.action_space, n_envs=2))
    with pytest.raises(TypeError, match="a DiscreteReplayBuffer is needed, got a ReplayBuffer"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is kept


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"twins": "avg"}, "unknown twins 'avg'"), ({"actor_delay": 0}, "at least 1"), ({"tau": 5}, "at most 1")],
    ids=str,
)
def test_settings_given_on_loading_are_checked(setting, message, tmp_path):
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        GumbelSAC.load(tmp_path / "model", env=cart_poles(), **setting)


def test_weight_decay_leaves_the_entropy_coefficient_alone():
    # A tenth of each weight in an update, and of the logarithm of the coefficient too if it were one.
    options = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"weight_decay": 1e3}}
    model = make(ent_coef="auto_0.1", learning_rate=1e-4, policy_kwargs=options)
    weights = model.policy.critics.members[0].net[0].weight
    before = weights.norm().item()
    model.learn(60)
    assert weights.norm().item() < 0.7 * before
    assert model.policy.log_ent_coef.item() == pytest.approx(np.log(0.1), abs=1e-2)


@pytest.mark.parametrize("saved", ["auto_0.3", 0.3, 0.0])
@pytest.mark.parametrize("given", [0.7, 0.0, "auto_0.7"])
def test_loading_with_another_entropy_coefficient(saved, given, tmp_path):
    make(ent_coef=saved, target_entropy_ratio=0.0).learn(60).save(tmp_path / "model")
    before = GumbelSAC.load(tmp_path / "model").policy.log_ent_coef.exp().item()
    assert (before == pytest.approx(saved)) if saved != "auto_0.3" else (0 < before < 0.3)
    loaded = GumbelSAC.load(tmp_path / "model", env=cart_poles(), ent_coef=given)
    # What is given counts, but for the first value of one that is learnt, where there is a better one.
    expected = (before or 0.7) if given == "auto_0.7" else given
    assert loaded.policy.log_ent_coef.exp().item() == pytest.approx(expected)
    loaded.learn(60)
    assert (loaded.policy.log_ent_coef.exp().item() == pytest.approx(expected)) == (given != "auto_0.7")


def test_loading_with_another_environment_is_checked(tmp_path):
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        GumbelSAC.load(tmp_path / "model", env=vectorised(Scripted([(3, "terminated")], actions=2)))


def test_an_estimator_is_saved(tmp_path):
    make(estimator=make_estimator("rloo", samples=3)).save(tmp_path / "model")
    loaded = GumbelSAC.load(tmp_path / "model", env=cart_poles())
    assert loaded.estimator.samples == 3
    loaded.learn(60)


def test_parameters_can_be_copied():
    source, target = make().learn(100), make(seed=9)
    target.set_parameters(source.get_parameters())
    assert_same(source, target)
    twin = copy.deepcopy(source.policy)
    assert {id(p) for p in (*twin.actor_parameters, *twin.critic_parameters)} <= {id(p) for p in twin.parameters()}


def test_checkpoints_with_the_replay_buffer(tmp_path):
    env = VecNormalize(cart_poles())
    checkpoint = CheckpointCallback(30, str(tmp_path), "m", save_replay_buffer=True, save_vecnormalize=True)
    make(env).learn(120, callback=checkpoint)
    names = {path.name for path in tmp_path.iterdir()}
    for steps in (60, 120):
        assert {
            f"m_{steps}_steps.zip",
            f"m_replay_buffer_{steps}_steps.pkl",
            f"m_vecnormalize_{steps}_steps.pkl",
        } <= names
    loaded = GumbelSAC.load(
        tmp_path / "m_60_steps", env=VecNormalize.load(str(tmp_path / "m_vecnormalize_60_steps.pkl"), cart_poles())
    )
    loaded.load_replay_buffer(tmp_path / "m_replay_buffer_60_steps.pkl")
    # The callback comes before the transition of its step is stored.
    assert loaded.replay_buffer.size() == 29
    assert loaded.learn(20, reset_num_timesteps=False).num_timesteps == 80


def test_masks_survive(tmp_path):
    def env():
        options = {"factors": 3, "masked": True}
        return make_vec_env("gumbel_rl/Coordination-v0", 2, env_kwargs=options, wrapper=ActionMaskObservation)

    model = GumbelSAC("MultiInputPolicy", env(), seed=0, **SETTINGS).learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = GumbelSAC.load(tmp_path / "model", env=env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    invalid = []
    loaded.learn(60, callback=lambda local, _: invalid.extend(i["invalid_actions"] for i in local["infos"]) or True)
    assert invalid == [0] * 60


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("critic", ["multilinear", "mlp"])
def test_a_policy_can_be_saved_alone(shared, critic, tmp_path):
    box, image = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (1, 36, 36), np.uint8)
    policy = POLICY_ALIASES["MultiInputPolicy"]
    original = policy(
        spaces.Dict({"a": box, "b": image}),
        spaces.MultiDiscrete([2, 3]),
        lambda _: 1e-3,
        net_arch={"pi": [5], "qf": [6, 4]},
        critic=critic,
        critic_kwargs={"rank": 2} if critic == "multilinear" else {"interpolated_learning": True},
        n_critics=3,
        layer_norm=True,
        share_features_extractor=shared,
    )
    original.save(tmp_path / "policy")
    loaded = policy.load(tmp_path / "policy")
    assert isinstance(loaded, policy)
    for one, other in zip(original.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    state = original.observation_space.sample()
    np.testing.assert_array_equal(*(each.predict(state, deterministic=True)[0] for each in (original, loaded)))
