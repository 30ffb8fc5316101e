"""Coordination: exact answers against enumeration, both engines against the tables and each other, and its claims.

Statistical checks have a false-alarm rate of at most 1e-6 each, with fixed seeds.
"""

from __future__ import annotations

import itertools
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from sb3_contrib import MaskablePPO
from scipy import stats
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

from envs import Coordination, make_vec_env
from envs.coordination import PENALTY, SLIP, CoordinationVectorEnv
from gumbel_rl.wrappers import ActionMaskObservation

ID = "gumbel_rl/Coordination-v0"
SMALL = [
    {"factors": 3, "choices": 3, "contexts": 3, "steps": 4},
    {"factors": 4, "choices": 2, "contexts": 2, "steps": 3, "table_seed": 3},
    {"factors": 2, "choices": 4, "contexts": 4, "steps": 5, "table_seed": 1},
    {"factors": 1, "choices": 5, "contexts": 3, "steps": 6, "table_seed": 2},
    {"factors": 5, "choices": 3, "contexts": 1, "steps": 1},
]
small = pytest.mark.parametrize("options", SMALL, ids=lambda options: "-".join(map(str, options.values())))
masked = pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
engines = pytest.mark.parametrize("engine", ["vector", "dummy"])


def enumerate_model(task):
    """Every joint action `[A, D]`, its reward `[C, A]`, transitions `[C, A, C]` and whether it is allowed `[C, A]`.

    Spelt out from the definition, an action at a time.
    """
    actions = list(itertools.product(range(task.choices), repeat=task.factors))
    rewards = np.zeros((task.contexts, len(actions)))
    moves = np.zeros((task.contexts, len(actions), task.contexts))
    allowed = np.zeros(rewards.shape, dtype=bool)
    greedy = np.full(task.contexts, -np.inf)
    shift = np.zeros(task.contexts, dtype=int)
    for c in range(task.contexts):
        for i, a in enumerate(actions):
            allowed[c, i] = all(task.allowed[c, d, a[d]] for d in range(task.factors))
            rewards[c, i] = task.chain.first[c, a[0]]
            for d in range(task.factors - 1):
                rewards[c, i] += task.chain.pairs[c, d, a[d], a[d + 1]]
            if allowed[c, i] and rewards[c, i] > greedy[c]:
                greedy[c], shift[c] = rewards[c, i], sum(a[:2])
        for i, a in enumerate(actions):
            if not allowed[c, i]:
                rewards[c, i] = PENALTY
                moves[c, i, c] = 1
                continue
            rises = (sum(a[:2]) + shift[c]) % 2 == 1
            moves[c, i, min(c + 1, task.contexts - 1)] += 1 - SLIP if rises else SLIP
            moves[c, i, max(c - 1, 0)] += SLIP if rises else 1 - SLIP
    return np.array(actions), rewards, moves, allowed


def backward(task, rewards, moves, choose):
    """Mean value of a policy; `choose(t, q)` gives the probabilities `[C, A]` of actions with values `q` `[C, A]`."""
    value = np.zeros(task.contexts)
    for t in reversed(range(task.steps)):
        q = rewards + moves @ value
        value = (choose(t, q) * q).sum(-1)
    return value.mean()


def greedy(q):
    return np.eye(q.shape[-1])[q.argmax(-1)]


@small
@masked
def test_optimum_is_that_of_enumeration(options, masked):
    task = Coordination(**options, masked=masked)
    actions, rewards, moves, allowed = enumerate_model(task)
    chosen = {}

    def best(t, q):
        # Forbidden actions compete as well: none of them pays.
        chosen[t] = actions[q.argmax(-1)]
        assert np.take_along_axis(allowed, q.argmax(-1)[:, None], 1).all()
        return greedy(q)

    optimum = backward(task, rewards, moves, best)
    assert optimum == pytest.approx(task.steps, abs=1e-12)
    assert task.optimal_return == pytest.approx(optimum, abs=1e-12)
    assert task.optimal_actions.shape == (task.steps, task.contexts, task.factors)
    np.testing.assert_array_equal(task.optimal_actions, [chosen[t] for t in range(task.steps)])
    assert task.policy_return(task.optimal_actions) == pytest.approx(optimum, abs=1e-12)


@small
@masked
def test_uniform_policy_earns_nothing(options, masked):
    task = Coordination(**options, masked=masked)
    _, rewards, moves, allowed = enumerate_model(task)
    uniform = allowed / allowed.sum(-1, keepdims=True)
    assert backward(task, rewards, moves, lambda t, q: uniform) == pytest.approx(task.random_return, abs=1e-12)
    np.testing.assert_allclose((uniform * rewards).sum(-1), 0, atol=1e-12)


@small
@masked
def test_additive_and_myopic_returns_are_those_of_enumeration(options, masked):
    task = Coordination(**options, masked=masked)
    actions, rewards, moves, allowed = enumerate_model(task)
    features = np.eye(task.choices)[actions].reshape(len(actions), -1)

    def additive(t, q):
        fits = np.full(q.shape, -np.inf)
        for c, row in enumerate(allowed):
            fits[c, row] = features[row] @ np.linalg.lstsq(features[row], q[c, row], rcond=None)[0]
        return greedy(fits)

    assert task.additive_return == pytest.approx(backward(task, rewards, moves, additive), abs=1e-12)
    barred = np.where(allowed, rewards, -np.inf)
    assert task.myopic_return == pytest.approx(backward(task, rewards, moves, lambda t, q: greedy(barred)), abs=1e-12)


@small
@masked
def test_return_of_any_policy_is_that_of_enumeration(options, masked):
    task = Coordination(**options, masked=masked)
    actions, rewards, moves, _ = enumerate_model(task)
    generator = np.random.default_rng(5)
    for count in (task.steps, 1):
        index = generator.integers(len(actions), size=(count, task.contexts))
        exact = backward(task, rewards, moves, lambda t, q, index=index: np.eye(q.shape[-1])[index[t % len(index)]])
        assert task.policy_return(actions[index]) == pytest.approx(exact, abs=1e-12)


@masked
def test_every_context_has_its_best_action_and_the_way_up_costs_something(masked):
    for seed in range(10):
        task = Coordination(4, 4, masked=masked, table_seed=seed)
        actions, rewards, _, allowed = enumerate_model(task)
        rewards = np.where(allowed, rewards, -np.inf)
        best, second = np.sort(rewards, -1)[:, -1], np.sort(rewards, -1)[:, -2]
        np.testing.assert_allclose(best / best[0], np.linspace(1, 1.5, 4), rtol=1e-12)
        assert (best - second > 1e-6).all()
        first = actions[rewards.argmax(-1)]
        assert not task.moves_up[np.arange(4), first[:, 0], first[:, 1]].any()
        assert (np.where(task.moves_up[:, actions[:, 0], actions[:, 1]], rewards, -np.inf).max(-1) > -np.inf).all()


@pytest.mark.parametrize(
    "options", [{}, {"masked": True}, {"factors": 32, "choices": 8}, {"factors": 64, "choices": 4}]
)
def test_neither_additive_nor_myopic_policies_suffice(options):
    tasks = [Coordination(**options, table_seed=seed) for seed in range(20)]
    additive, myopic = (
        np.array([getattr(task, name) for task in tasks]) / 10 for name in ("additive_return", "myopic_return")
    )
    # Shares of the optimum. Measured at the defaults: additive 0.32 to 0.65, myopic 0.75 to 0.81; masked 0.24 to
    # 0.79 and 0.76 to 0.84.
    assert additive.mean() < 0.6
    assert additive.max() < 0.85
    assert myopic.min() > 0.7
    assert myopic.max() < 0.9


def test_additive_values_do_not_fit_the_rewards():
    task = Coordination(4, 3)
    actions, rewards, _, _ = enumerate_model(task)
    features = np.eye(3)[actions].reshape(len(actions), -1)
    rest = rewards.T - features @ np.linalg.lstsq(features, rewards.T, rcond=None)[0]
    assert (np.var(rest, 0) > 0.3 * np.var(rewards, 1)).all()


def test_tables_are_reproducible():
    first, same, other = (Coordination(masked=True, table_seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.chain.pairs, same.chain.pairs)
    np.testing.assert_array_equal(first.allowed, same.allowed)
    assert (first.chain.pairs != other.chain.pairs).all()
    assert (first.allowed != other.allowed).any()


@pytest.mark.parametrize("choices", [2, 3, 5, 32])
def test_a_third_of_the_choices_is_forbidden_and_one_of_each_factor_is_not(choices):
    task = Coordination(256, choices, 32, masked=True)
    assert task.allowed.any(-1).all()
    parity = task.allowed[:, 0, 0::2].any(-1) & task.allowed[:, 0, 1::2].any(-1)
    assert parity.all()
    # Choices of a factor are dependent: of 32 * 255 independent shares, the mean is within 4.9 standard errors.
    shares = task.allowed[:, 1:].mean(-1).ravel()
    assert abs(shares.mean() - 2 / 3) < 4.9 * shares.std() / len(shares) ** 0.5
    # Contexts have their own masks.
    assert all((task.allowed[0] != task.allowed[c]).any() for c in range(1, 32))
    assert Coordination(256, choices).allowed.all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"masked": True},
        {"factors": 1},
        {"factors": 1, "masked": True, "choices": 2},
        {"choices": 2},
        {"contexts": 1},
    ],
)
@pytest.mark.filterwarnings("error")
def test_gymnasium_and_sb3_accept_it(options):
    env = gym.make(ID, **options).unwrapped
    check_env(env, skip_render_check=True)
    check_env_of_sb3(env)


def test_spaces_and_observations():
    env = gym.make(ID, steps=4)
    assert env.observation_space == gym.spaces.Box(0, 1, (5,), np.float32)
    assert env.action_space == gym.spaces.MultiDiscrete([5] * 8)
    assert gym.make(ID, factors=1).action_space == gym.spaces.Discrete(5)
    assert gym.make(ID, choices=2).action_space == gym.spaces.MultiBinary(8)
    assert gym.make("gumbel_rl/BinaryCoordination-v0").action_space == gym.spaces.MultiBinary(16)
    assert gym.make("gumbel_rl/LargeCoordination-v0").action_space == gym.spaces.MultiDiscrete([10] * 32)
    assert gym.make("gumbel_rl/MaskedCoordination-v0").unwrapped.masked
    observation, info = env.reset(seed=0)
    assert info == {}
    left = [observation[-1]]
    for step in range(1, 5):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert isinstance(reward, float)
        assert terminated == (step == 4)
        assert not truncated
        assert info == {}
        assert sorted(observation[:-1].tolist()) == [0, 0, 0, 1]
        left.append(observation[-1])
    assert left == [1, 0.75, 0.5, 0.25, 0]
    assert env.reset()[0][-1] == 1


@engines
@pytest.mark.parametrize("options", [{}, {"masked": True}, {"factors": 1, "masked": True}], ids=str)
def test_transitions_are_those_of_the_model(engine, options):
    env = make_vec_env(ID, 5, 0, engine, env_kwargs={"steps": 3, "choices": 3, **options})
    task = Coordination(steps=3, choices=3, **options)
    observations = env.reset()
    infos = []
    env.action_space.seed(0)
    generator = np.random.default_rng(0)
    slips, starts, breaches = [], list(observations[:, :-1].argmax(-1)), 0
    for step in range(900):
        contexts = observations[:, :-1].argmax(-1)
        if task.masked:
            masks = np.stack([info["action_mask"] for info in (infos if step % 3 else env.unwrapped.reset_infos)])
            np.testing.assert_array_equal(masks, task.allowed[contexts].reshape(5, -1))
        # Half of the time an allowed action, else any.
        weights = task.allowed[contexts] * generator.random((5, task.factors, 3))
        free = generator.integers(3, size=(5, task.factors))
        actions = np.where(generator.random((5, 1)) < 0.5, weights.argmax(-1), free)
        observations, rewards, dones, infos = env.step(actions[:, 0] if task.factors == 1 else actions)
        assert dones.all() == dones.any() == (step % 3 == 2)
        for i, (c, a) in enumerate(zip(contexts, actions, strict=True)):
            last = infos[i]["terminal_observation"] if dones[i] else observations[i]
            assert not infos[i]["TimeLimit.truncated"]
            assert last[-1] == np.float32((2 - step % 3) / 3)
            reached = last[:-1].argmax()
            wrong = sum(not task.allowed[c, d, a[d]] for d in range(task.factors))
            if task.masked:
                assert infos[i]["invalid_actions"] == wrong
                np.testing.assert_array_equal(infos[i]["action_mask"], task.allowed[reached].ravel())
            if wrong:
                breaches += 1
                assert rewards[i] == PENALTY
                assert reached == c
                continue
            links = (task.chain.pairs[c, d, a[d], a[d + 1]] for d in range(task.factors - 1))
            assert rewards[i] == pytest.approx(task.chain.first[c, a[0]] + sum(links), abs=1e-5)
            rises = task.moves_up[c, a[0], a[1] if task.factors > 1 else 0]
            up, down = min(c + 1, 3), max(c - 1, 0)
            assert reached in {up, down}
            slips.append(reached != (up if rises else down))
        if dones.all():
            assert (observations[:, -1] == 1).all()
            starts += list(observations[:, :-1].argmax(-1))
    assert (breaches > 300) == task.masked
    assert stats.binomtest(sum(slips), len(slips), SLIP).pvalue > 1e-6
    assert stats.chisquare(np.bincount(starts, minlength=4)).pvalue > 1e-6


@engines
@masked
def test_sampled_returns_agree_with_the_exact_one(engine, masked):
    # 4.9 standard errors, two-sided: 9.6e-7.
    env = make_vec_env(ID, 100, 3, engine, env_kwargs={"masked": masked})
    task = Coordination(masked=masked)
    generator = np.random.default_rng(1)
    # The best actions, and these with a few choices changed, some of them to forbidden ones.
    best = task.optimal_actions
    near = np.where(generator.random(best.shape) < 0.02, generator.integers(5, size=best.shape), best)
    assert (~task.allowed[np.arange(4)[:, None], np.arange(8), near]).any() == masked
    for policy in (best, near):
        returns = []
        observations = env.reset()
        for step in range(500 if engine == "vector" else 100):
            observations, _, _, infos = env.step(policy[step % 10, observations[:, :-1].argmax(-1)])
            if step % 10 == 9:
                returns += [info["episode"]["r"] for info in infos]
        assert abs(np.mean(returns) - task.policy_return(policy)) < 4.9 * np.std(returns) / len(returns) ** 0.5
        assert np.std(returns) > 0.1


@engines
def test_same_seed_same_trajectories(engine):
    def run(seed):
        env = make_vec_env(ID, 4, seed, engine, env_kwargs={"masked": True})
        log = [env.reset()]
        for _ in range(25):
            log += env.step(np.array([env.action_space.sample() for _ in range(4)]))[:3]
        return np.concatenate([np.ravel(entry) for entry in log]).tolist()

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_masks_of_both_environments():
    env = gym.make(ID, masked=True)
    observation, info = env.reset(seed=0)
    expected = env.unwrapped.allowed[observation[:-1].argmax()].ravel()
    np.testing.assert_array_equal(info["action_mask"], expected)
    masks = env.get_wrapper_attr("action_masks")()
    np.testing.assert_array_equal(masks, expected)
    assert masks.shape == (40,)
    masks[:] = False  # a copy
    assert env.unwrapped.allowed[observation[:-1].argmax()].any()
    wrapped, _ = ActionMaskObservation(gym.make(ID, masked=True)).reset(seed=0)
    np.testing.assert_array_equal(wrapped["action_mask"], expected)
    np.testing.assert_array_equal(wrapped["observation"], observation)

    vector = CoordinationVectorEnv(6, masked=True)
    observations, infos = vector.reset(seed=0)
    expected = vector.allowed[observations[:, :-1].argmax(-1)].reshape(6, -1)
    np.testing.assert_array_equal(infos["action_mask"], expected)
    np.testing.assert_array_equal(vector.action_masks(), expected)
    for step in range(20):
        # Infos beside new observations belong to these; the finished episodes' are in "final_info".
        observations, _, done, _, infos = vector.step(vector.action_space.sample())
        np.testing.assert_array_equal(infos["action_mask"], vector.action_masks())
        if step % 10 == 9:
            last = infos["final_obs"][:, :-1].argmax(-1)
            np.testing.assert_array_equal(infos["final_info"]["action_mask"], vector.allowed[last].reshape(6, -1))
            assert infos["final_info"]["invalid_actions"].shape == (6,)
        assert done.all() == ("final_obs" in infos) == ("invalid_actions" not in infos) == (step % 10 == 9)


def test_random_actions_break_the_mask_of_many_factors():
    env = CoordinationVectorEnv(50, factors=64, masked=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(9):
        _, rewards, _, _, infos = env.step(env.action_space.sample())
        assert (rewards == PENALTY).all()
        assert (infos["invalid_actions"] > 5).all()


def test_masked_ppo_of_sb3_contrib_takes_it():
    env = gym.make(ID, masked=True, steps=8)
    model = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(128)
    # No penalty among the rewards, though a random action is nearly always forbidden.
    assert (model.rollout_buffer.rewards != PENALTY).all()


@masked
def test_largest_size(masked):
    started = time.process_time()
    task = CoordinationVectorEnv(16, factors=256, choices=32, masked=masked)
    assert task.optimal_return == pytest.approx(10)
    assert task.policy_return(task.optimal_actions) == pytest.approx(10)
    assert task.additive_return < 5 < 7 < task.myopic_return < 8
    task.reset(seed=0)
    for _ in range(20):
        task.step(task.action_space.sample())
    assert time.process_time() - started < 5  # measured: 0.3 s


@pytest.mark.parametrize("name", ["factors", "choices", "contexts", "steps", "table_seed"])
def test_bad_arguments(name):
    low = {"choices": 2, "table_seed": 0}.get(name, 1)
    for value in (low - 1, 2.0, "3", 2**64):
        with pytest.raises(ValueError, match=f"{name} must be an integer between {low} and .*, got {value!r}"):
            Coordination(**{name: value})
    Coordination(**{name: np.int64(low)})


def test_bad_policies():
    task = Coordination(3, 4, 2, 5)
    for shape in [(2, 3), (4, 2, 3), (5, 3, 3), (5, 2, 2)]:
        with pytest.raises(ValueError, match=r"do not fit \(5, 2, 3\), where the first may be 1"):
            task.policy_return(np.zeros(shape, dtype=int))
    for choice in (-1, 4):
        with pytest.raises(ValueError, match="choices must lie between 0 and 3"):
            task.policy_return(np.full((5, 2, 3), choice))
