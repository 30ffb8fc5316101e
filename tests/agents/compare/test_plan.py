"""Which runs a comparison consists of, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import pytest

from agents.compare.applicability import missing_random_returns, random_return, sift
from agents.compare.labels import parse_label
from agents.compare.plan import Plan, make_plan
from agents.config import TUNING_SEEDS, resolve
from agents.errors import UserError
from agents.run_directory import unique_file_name

CARTPOLE = ["CartPole-v1"]


def test_every_combination_is_a_run(tmp_path):
    plan = make_plan(["CartPole-v1", "Acrobot-v1"], ["gumbel-ac", "ppo"], 3, keys={"timesteps": 100})
    jobs = list(plan.jobs(tmp_path))
    assert [(job.config.env, job.label, job.config.seed) for job in jobs] == [
        (env, agent, seed)
        for seed in range(3)
        for env in ("CartPole-v1", "Acrobot-v1")
        for agent in ("gumbel-ac", "ppo")
    ]
    assert len({job.path for job in jobs}) == 12
    assert all(job.config.timesteps == 100 for job in jobs)
    assert jobs[0].path == tmp_path / "runs" / "CartPole-v1" / "gumbel-ac" / "seed0"


def test_configuration_comes_from_the_agents_blocks():
    (cell,) = make_plan(["Acrobot-v1"], ["gumbel-ac"], 1).cells
    shipped = resolve({"env": "Acrobot-v1"})
    assert replace(cell.config, checkpoint_every=shipped.checkpoint_every) == shipped


def test_labels():
    assert parse_label("ppo") == ("ppo", {})
    assert parse_label("reinforce:baseline=none") == ("reinforce", {"baseline": "none"})
    label = "gumbel-ac:net_arch=[32, 16],gamma=0.9,policy_kwargs={ortho_init: false, a: 1},temperature=linear:1:0.5"
    overrides = {
        "net_arch": [32, 16],
        "gamma": 0.9,
        "policy_kwargs": {"ortho_init": False, "a": 1},
        "temperature": "linear:1:0.5",
    }
    assert parse_label(label) == ("gumbel-ac", overrides)


def test_a_label_overrides_what_all_runs_share():
    plan = make_plan(CARTPOLE, ["gumbel-ac", "dqn:timesteps=70"], 1, keys={"timesteps": 100})
    assert [cell.config.timesteps for cell in plan.cells] == [100, 70]


def test_estimators_multiply_the_agents_that_have_a_choice():
    plan = make_plan(CARTPOLE, ["gumbel-ac", "reinforce", "ppo"], 1, estimators=["exact", "rloo"])
    assert [cell.label for cell in plan.cells] == [
        "gumbel-ac:estimator=exact",
        "gumbel-ac:estimator=rloo",
        "reinforce",
        "ppo",
    ]
    assert [cell.config.estimator for cell in plan.cells] == ["exact", "rloo", "score-function", None]
    (cell,) = make_plan(CARTPOLE, ["gumbel-sac"], 1, estimators=["exact"]).cells
    assert (cell.label, cell.config.estimator) == ("gumbel-sac:estimator=exact", "exact")


@pytest.mark.parametrize(
    ("envs", "agents", "seeds", "message"),
    [
        ([], ["ppo"], 1, "nothing to compare: give --envs one id or more"),
        (CARTPOLE, [], 1, "nothing to compare: give --agents one id or more"),
        (CARTPOLE, ["ppo"], 0, "no seeds: --seeds must be at least 1, got 0"),
        (CARTPOLE, ["ppo"], TUNING_SEEDS + 1, "the seeds from there on are for tuning"),
        (CARTPOLE * 2, ["ppo"], 1, "--envs names CartPole-v1 twice"),
        (CARTPOLE, ["ppo", "a2c", "ppo"], 1, "--agents names ppo twice"),
        (CARTPOLE, ["pop"], 1, "unknown agent 'pop' (did you mean 'ppo'?)"),
        (CARTPOLE, ["ppo:gama=1"], 1, "ppo has no key 'gama' (did you mean 'gamma'?)"),
        (CARTPOLE, ["ppo:gamma"], 1, "must be written AGENT:KEY=VALUE,KEY=VALUE"),
        (CARTPOLE, ["ppo:"], 1, "must be written AGENT:KEY=VALUE,KEY=VALUE"),
        (CARTPOLE, ["ppo:seed=3"], 1, "cannot give seed"),
        (CARTPOLE, ["ppo:gamma=0.9,gamma=0.8"], 1, "cannot give gamma twice"),
        (CARTPOLE, ["ppo:net_arch=[3"], 1, "the value of net_arch is not YAML"),
        (
            CARTPOLE,
            ["ppo", "ppo:threshold=4", "a2c:threshold=3"],
            1,
            "ppo:threshold=4 and a2c:threshold=3 cannot be compared on CartPole-v1: their threshold differ, 4.0",
        ),
        (CARTPOLE, ["ppo", "a2c:env_kwargs={max_episode_steps: 3}"], 1, "their env_kwargs differ"),
    ],
)
def test_refuses(envs, agents, seeds, message):
    with pytest.raises(UserError) as caught:
        make_plan(envs, agents, seeds)
    assert message in str(caught.value)


def test_refuses_an_estimator_given_twice():
    with pytest.raises(UserError, match="leave out --estimators, or the estimator there"):
        make_plan(CARTPOLE, ["gumbel-ac:estimator=exact"], 1, estimators=["rloo"])


def test_what_cannot_act_is_told_before_anything_runs():
    plan = sift(make_plan(["CartPole-v1", "tiny/ActMultiDiscrete-v0"], ["gumbel-ac", "dqn"], 1))
    assert [(cell.env, cell.label) for cell in plan.cells] == [
        ("CartPole-v1", "gumbel-ac"),
        ("CartPole-v1", "dqn"),
        ("tiny/ActMultiDiscrete-v0", "gumbel-ac"),
    ]
    (entry,) = plan.not_applicable
    assert (entry["env"], entry["agent"]) == ("tiny/ActMultiDiscrete-v0", "dqn")
    assert entry["reason"].startswith("dqn does not support the action space MultiDiscrete([3 2])")


def test_what_can_act_after_all_is_no_longer_told_not_to():
    plan = sift(make_plan(["CartPole-v1", "Pendulum-v1"], ["gumbel-ac"], 1))
    assert [entry["env"] for entry in plan.not_applicable] == ["Pendulum-v1"]
    plan = plan.extended(sift(make_plan(["Pendulum-v1"], ["gumbel-ac"], 1, keys={"bins": 5})))
    assert plan.not_applicable == []


def test_thresholds_are_settled_and_mistakes_found_before_anything_runs():
    (cell,) = sift(make_plan(CARTPOLE, ["gumbel-ac"], 1)).cells
    assert cell.config.threshold == 475
    with pytest.raises(UserError, match="unknown environment"):
        sift(make_plan(["CartPole-v9x"], ["gumbel-ac"], 1))
    with pytest.raises(UserError, match=r"gumbel-ac:estimator=exat on CartPole-v1: .*exat"):
        sift(make_plan(CARTPOLE, ["gumbel-ac:estimator=exat"], 1))
    with pytest.raises(UserError, match="nothing to compare: dqn does not support"):
        sift(make_plan(["tiny/ActMultiDiscrete-v0"], ["dqn"], 1))


def test_thresholds_are_compared_once_they_are_settled():
    plan = sift(make_plan(CARTPOLE, ["reinforce:threshold=475", "reinforce"], 1))
    assert [cell.config.threshold for cell in plan.cells] == [475.0, 475.0]
    with pytest.raises(UserError, match=r"reinforce and reinforce:threshold=9 .* their threshold differ, 475.0 and 9"):
        sift(make_plan(CARTPOLE, ["reinforce", "reinforce:threshold=9"], 1))


@pytest.mark.parametrize("key", ["threshold=9", "env_kwargs={max_episode_steps: 3}", "eval_episodes=7"])
def test_what_is_added_must_be_comparable_with_what_is_there(key):
    """Under labels of their own, so that no row has two meanings."""
    first = sift(make_plan(CARTPOLE, ["reinforce"], 1))
    with pytest.raises(UserError, match=f"cannot be compared on CartPole-v1: their {key.partition('=')[0]} differ"):
        first.extended(sift(make_plan(CARTPOLE, [f"reinforce:{key}"], 1)))
    # Another environment is another matter.
    more = first.extended(sift(make_plan(["Acrobot-v1"], [f"reinforce:{key}"], 1)))
    assert len(more.cells) == 2


def broken(**kwargs):
    raise RuntimeError("no such\nmachine")


def test_an_environment_that_cannot_be_built_is_one_clear_line(monkeypatch):
    # A specification of gymnasium's own: an environment registered for good would be every other test's, too.
    monkeypatch.setitem(gym.registry, "tiny/Broken-v0", gym.envs.registration.EnvSpec("tiny/Broken-v0", broken))
    with pytest.raises(UserError) as caught:
        sift(make_plan(["tiny/Broken-v0"], ["reinforce"], 1))
    assert str(caught.value) == "reinforce on tiny/Broken-v0 cannot be built: RuntimeError: no such machine"


def test_random_returns_are_the_zero_of_a_scale():
    plan = sift(make_plan(["CartPole-v1", "tiny/ActDiscrete-v0"], ["gumbel-ac:normalize=true"], 1))
    # Without a threshold there is no scale.
    (config,) = missing_random_returns(plan)
    assert config.env == "CartPole-v1"
    # 22.2 with a standard deviation of 12 an episode, so 1.2 for the mean of 100; one in a million is 5 of these.
    assert abs(random_return(config) - 22.2) < 6.0
    plan.random_returns["CartPole-v1"] = 22.0
    assert not missing_random_returns(plan)


def test_a_plan_on_disk_is_the_plan(tmp_path):
    plan = make_plan(CARTPOLE, ["gumbel-ac:temperature=exponential:1:0.3", "dqn"], 2, keys={"timesteps": 100})
    plan.failed.append({"env": "CartPole-v1", "agent": "dqn", "seed": 1, "reason": "too bad"})
    plan.random_returns["CartPole-v1"] = 22.5
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_refuses_a_damaged_plan(content, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan\.json"):
        Plan.read(tmp_path / "plan.json")


def test_seeds_agents_and_environments_can_be_added():
    first = make_plan(CARTPOLE, ["gumbel-ac"], 2)
    more = first.extended(make_plan(["CartPole-v1", "Acrobot-v1"], ["gumbel-ac", "ppo"], 3))
    assert [(cell.env, cell.label, len(cell.seeds)) for cell in more.cells] == [
        ("CartPole-v1", "gumbel-ac", 3),
        ("CartPole-v1", "ppo", 3),
        ("Acrobot-v1", "gumbel-ac", 3),
        ("Acrobot-v1", "ppo", 3),
    ]
    # Fewer seeds take nothing away.
    assert more.extended(first) == more


def test_other_settings_are_another_comparison():
    first = make_plan(CARTPOLE, ["gumbel-ac"], 2, keys={"timesteps": 100, "eval_every": 50})
    with pytest.raises(UserError, match="holds another comparison: gumbel-ac on CartPole-v1 has timesteps=100 there"):
        first.extended(make_plan(CARTPOLE, ["gumbel-ac"], 2, keys={"timesteps": 200, "eval_every": 50}))


def test_file_names_are_told_apart_and_safe():
    names = ["a:b", "a@b", "a b", "a/b", "a\\b", "a-b", "gumbel-ac:net_arch=[3]", "gumbel-ac:net_arch={3}"]
    made = [unique_file_name(name) for name in names]
    assert len({*made} - {"a@b"}) == len(names) - 2  # no id has an @
    assert not any(set(name) & set('/\\:*?"<>| []{}') for name in made)


def test_file_names_are_not_too_long():
    label = "gumbel-ac:" + ",".join(f"key{number}=1" for number in range(60))
    names = [unique_file_name(text) for text in (label, label + "0", "ä" * 300, "ä" * 301)]
    assert len(set(names)) == 4
    assert all(len(name.encode()) <= 110 for name in names)
    assert names[0].startswith("gumbel-ac@key0=1,key1=1")
