"""Tuning: equal spaces, seeds of its own, studies that are shared and resumed, and blocks that replace blocks."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from sqlalchemy import event

import agents.run
import agents.tune.__main__ as command_module
import agents.tune.storage
import agents.tune.work
from agents.config import CONFIGS, TUNING_SEEDS, resolve
from agents.environments import make_training_env
from agents.errors import Interrupted
from agents.lineup import LINEUP
from agents.run import train
from agents.tune import blocks
from agents.tune.objective import (
    EVALUATIONS,
    MOST_SEEDS,
    NothingLearnt,
    confirmation_seeds,
    run_score,
    score,
    search_seeds,
)
from agents.tune.report import judge
from agents.tune.spaces import CHOICES, DIMENSIONS, SPACES, find_space, to_keys
from agents.tune.storage import open_storage
from agents.tune.study import DESIGN, Stage, begin, completed, counts, enqueue_fixed, finished, open_study
from agents.tune.work import run_stage, work

BANDIT = "gumbel_rl/FactoredBandit-v0"
main = command_module.main


def stage(path: Path, **changes) -> Stage:
    """A search of the quickest environment there is."""
    keys = {"agent": "a2c", "env": BANDIT, "timesteps": 600, "net_arch": [8], **changes.pop("keys", {})}
    base = resolve(keys).to_mapping()
    given = {"trials": 4, "seeds": search_seeds(1), "normalizable": False, "name": "study", **changes}
    return Stage(storage=f"sqlite:///{path / 'tune.db'}", agent=keys["agent"], base=base, **given)


def nothing() -> None:
    pass


# Spaces


def test_every_agent_has_a_space_of_the_same_size():
    assert set(SPACES) == set(LINEUP)
    for normalizable in (True, False):
        sizes = {
            agent: math.prod(
                len(set(dimension.choices)) for dimension in find_space(agent, normalizable=normalizable).values()
            )
            for agent in SPACES
        }
        assert set(sizes.values()) == {CHOICES ** (DIMENSIONS - (not normalizable))}, sizes


@pytest.mark.parametrize("agent", SPACES)
def test_every_choice_is_a_valid_configuration(agent):
    space = find_space(agent)
    seen = set()
    first = {name: dimension.choices[0] for name, dimension in space.items()}
    for name, dimension in space.items():
        for choice in dimension.choices:
            keys = to_keys({**first, name: choice}, n_envs=1)
            mapping = resolve({"agent": agent, "env": "CartPole-v1", **keys}).to_mapping()
            # What was chosen is what the run gets.
            assert {key: mapping[key] for key in keys} == keys
            seen.add(yaml.safe_dump(keys))
    assert len(seen) == 1 + len(space) * (CHOICES - 1)  # no two choices come to the same


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("agent", SPACES)
def test_algorithms_accept_the_corners(agent):
    for level in range(CHOICES):
        keys = to_keys({name: entry.choices[level] for name, entry in find_space(agent).items()}, n_envs=1)
        base = {"agent": agent, "env": "CartPole-v1"}
        if "dqn" in agent:
            base["buffer_size"] = 500
        if agent == "maskable-ppo":
            base["env"] = "gumbel_rl/Coordination-v0"
        config = resolve({**base, **keys})
        env = make_training_env(config, 0)
        config.hyperparameters.build("MlpPolicy", env, timesteps=1000, seed=0, device="cpu")
        env.close()


def test_schedules_end_where_they_are_to():
    point = {name: dimension.choices[-1] for name, dimension in find_space("dqn").items()}
    assert to_keys({**point, "learning_rate_end": 1.0}, 1)["learning_rate"] == 3e-3
    assert to_keys({**point, "learning_rate_end": 0.1}, 1)["learning_rate"] == "linear:0.003:0.0003"
    # 0.25 updates for each of 16 steps of 2 environments.
    assert to_keys({**point, "updates_per_step": 0.25, "train_freq": 16}, 2)["gradient_steps"] == 8


# Seeds and score


def test_tuning_seeds_are_its_own():
    search, confirmation = search_seeds(50), confirmation_seeds(50)
    assert min(search) == TUNING_SEEDS
    assert max(search) + MOST_SEEDS - 50 < min(confirmation)
    resolve({"seed": max(confirmation) + MOST_SEEDS})  # is in range


def test_score_of_a_run():
    assert run_score([0.0, 10.0, 20.0]) == 0.75 * 20 + 0.25 * 10
    assert run_score([20.0, 20.0, 20.0]) > run_score([0.0, 10.0, 20.0])
    assert run_score([0.0, 0.0, 20.0]) > run_score([20.0, 20.0, 10.0])


def test_the_score_is_that_of_the_runs(tmp_path):
    settings = stage(tmp_path).base
    told: list[tuple[int, float]] = []
    value = score(settings, search_seeds(2), tmp_path, lambda step, mean: told.append((step, mean)))
    scores = []
    means = []
    for seed in search_seeds(2):
        returns: list[float] = []
        config = resolve({**settings, "seed": seed, "eval_every": 60, "checkpoint_every": 0})
        train(config, tmp_path / f"again{seed}", on_evaluation=lambda step, mean, to=returns: to.append(mean))
        scores.append(run_score(returns))
        means += returns
    assert value == pytest.approx(sum(scores) / 2, abs=1e-12)
    assert told[-1] == (2 * EVALUATIONS, pytest.approx(sum(means) / len(means), abs=1e-12))


def test_steps_beyond_the_run_buy_nothing(tmp_path):
    settings = {**stage(tmp_path).base, "n_envs": 8, "n_steps": 100}
    with pytest.raises(NothingLearnt):
        score(settings, search_seeds(1), tmp_path, lambda step, mean: pytest.fail("told"))


# The hook


def test_an_exception_of_the_hook_ends_the_run_cleanly(tmp_path, monkeypatch):
    closed = []

    def made(make):
        def wrapped(*args, **kwargs):
            env = make(*args, **kwargs)
            close = env.close
            env.close = lambda: (closed.append(make.__name__), close())
            return env

        return wrapped

    for name in ("make_training_env", "make_evaluation_env"):
        monkeypatch.setattr(agents.run, name, made(getattr(agents.run, name)))
    steps = []

    def stop(step, mean):
        steps.append(step)
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        train(resolve({**stage(tmp_path).base, "eval_every": 100}), tmp_path / "run", on_evaluation=stop)
    assert len(steps) == 1
    assert 100 <= steps[0] < 200
    assert sorted(closed) == ["make_evaluation_env", "make_training_env"]
    assert not (tmp_path / "run" / "result.json").exists()


# Studies


def test_a_search_goes_on_where_it_was_interrupted(tmp_path):
    search = begin(stage(tmp_path, trials=5))
    evaluated = 0

    def interrupt():
        nonlocal evaluated
        evaluated += 1
        if evaluated == 2 * EVALUATIONS:
            raise Interrupted

    with pytest.raises(Interrupted):
        work(search, 0, interrupt)
    study = open_study(search)
    before = {trial.number: (trial.value, trial.datetime_complete) for trial in finished(study)}
    assert 0 < len(before) < 5

    search = begin(stage(tmp_path, trials=5))
    work(search, 0, nothing)
    after = finished(study)
    assert len(after) == 5
    assert {trial.number: (trial.value, trial.datetime_complete) for trial in after if trial.number in before} == before
    # The one that was interrupted was run again, and none but it: shipped and design once each.
    assert sorted(trial.user_attrs.get("design", -1) for trial in after) == [-1, 0, 1, 2, 3]
    work(search, 0, lambda: pytest.fail("there was nothing left to do"))

    work(begin(stage(tmp_path, trials=6)), 0, nothing)
    assert len(finished(study)) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_processes_share_a_study(tmp_path):
    search = begin(stage(tmp_path, trials=6))
    study = open_study(search)
    # The shipped settings are with somebody else, who is the last to finish.
    elsewhere, children = study.ask(), set()

    def watch():
        children.update(process.pid for process in multiprocessing.active_children())
        if len(finished(study)) == 5:
            study.tell(elsewhere, 123.0)

    run_stage(search, 2, watch)
    assert len(children) == 2
    assert multiprocessing.active_children() == []
    trials = study.get_trials()
    assert sum(map(counts, trials)) == 6
    assert trials[0].value == 123.0
    # Nobody ran what another did, and what they found is what one process finds.
    (tmp_path / "alone").mkdir()
    alone = begin(stage(tmp_path / "alone", trials=6))
    work(alone, 0, nothing)
    one, two = (
        {trial.user_attrs["design"]: trial.value for trial in completed(open_study(which)) if trial.number}
        for which in (alone, search)
    )
    assert len(two) == 5  # too few were finished to prune
    assert one
    assert one.items() <= two.items()


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_the_total_is_kept_when_the_last_trial_is_begun_twice(tmp_path):
    search = begin(stage(tmp_path, trials=2))
    study = open_study(search)
    others = [study.ask(), study.ask()]
    study.optimize(
        lambda trial: agents.tune.work._objective(search, trial, nothing), n_trials=1, catch=(agents.tune.work.Surplus,)
    )
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.RUNNING, TrialState.RUNNING, TrialState.FAIL]
    assert sum(map(counts, study.get_trials())) == 2
    for trial in others:
        study.tell(trial, 1.0)
    work(search, 0, lambda: pytest.fail("there was nothing left to do"))


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("heartbeat", [False, True], ids=["at once", "later"])
def test_the_trial_of_a_dead_process_is_run_again(tmp_path, monkeypatch, heartbeat):
    monkeypatch.setattr(agents.tune.storage, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(agents.tune.storage, "GRACE_SECONDS", 1)
    monkeypatch.setattr(agents.tune.work, "GRACE_SECONDS", 1)
    monkeypatch.setattr(agents.tune.work, "POLL_SECONDS", 0.2)
    search = begin(stage(tmp_path, trials=2))
    study = open_study(search)
    dead = study.ask()
    if heartbeat:
        dead.set_user_attr("tuned", {})
        open_storage(search.storage).record_heartbeat(dead._trial_id)
    work(search, 0, nothing)
    assert study.get_trials()[dead.number].state == TrialState.FAIL
    assert len(finished(study)) == 2
    again = [trial for trial in completed(study) if trial.user_attrs.get("shipped")]
    assert len(again) == 1


DRIVER = """
import multiprocessing, pickle, sys
from pathlib import Path

from agents.tune.work import run_stage

if __name__ == "__main__":
    def tell():
        print(*[process.pid for process in multiprocessing.active_children()], flush=True)

    run_stage(pickle.loads(Path(sys.argv[1]).read_bytes()), 2, tell)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes in /proc")
def test_workers_end_with_their_parent_and_give_their_trials_back(tmp_path):
    # So long that no evaluation would notice.
    search = begin(stage(tmp_path, trials=2, keys={"timesteps": 100_000_000}))
    study = open_study(search)
    (tmp_path / "stage").write_bytes(pickle.dumps(search))
    (tmp_path / "driver.py").write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("OMP_NUM_THREADS", None)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "stage")],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        workers = [Path("/proc", pid) for pid in driver.stdout.readline().split()]
        assert len(workers) == 2
        # They share the cores.
        share = max(1, os.cpu_count() // 2)
        for worker in workers:
            assert f"OMP_NUM_THREADS={share}" in (worker / "environ").read_text().split("\0")
        deadline = time.monotonic() + 60
        while sum("tuned" in trial.user_attrs for trial in study.get_trials()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.0)  # training is under way
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
    deadline = time.monotonic() + 0.8 * agents.tune.work.PATIENCE_SECONDS  # sooner than they would be killed
    while left := [worker for worker in workers if worker.exists()]:
        if time.monotonic() > deadline:
            for worker in left:
                os.kill(int(worker.name), signal.SIGKILL)
            pytest.fail("workers went on")
        time.sleep(0.1)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2
    assert {trial.user_attrs.get("design", -1) for trial in trials[2:]} == {-1, 0}


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_sqlite_hands_a_waiting_trial_to_one_process(tmp_path):
    """A second one asks between the moments in which the first one sees that the trial waits, and takes it."""
    search = begin(stage(tmp_path, trials=1))
    first, second = open_study(search), open_study(search)
    taken: list[int] = []
    # A daemon: it waits for the database, and if it gets it too soon, it is not to hold up the end of the tests.
    other = threading.Thread(target=lambda: taken.append(second.ask().number), daemon=True)

    @event.listens_for(first._storage._backend.engine, "before_cursor_execute")
    def about_to(connection, cursor, statement, *rest):
        if statement.startswith("UPDATE trials") and other.ident is None:
            other.start()
            other.join(1.0)

    taken.append(first.ask().number)
    other.join(30.0)
    # The shipped settings, which waited, and a trial of the sampler's.
    assert sorted(taken) == [0, 1]


def test_bad_trials_are_pruned_and_leave_nothing(tmp_path, monkeypatch):
    places = tmp_path / "places"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    search = begin(stage(tmp_path, trials=1))
    study = open_study(search)
    work(search, 0, nothing)
    # A history of five trials beyond reach.
    for _ in range(5):
        values = dict.fromkeys(range(EVALUATIONS + 1), 1000000.0)
        study.add_trial(optuna.create_trial(value=1e6, intermediate_values=values))
    work(replace(search, trials=7), 0, nothing)
    last = study.get_trials()[-1]
    assert last.state == TrialState.PRUNED
    assert EVALUATIONS // 2 <= last.last_step < EVALUATIONS
    assert list(places.iterdir()) == []


def test_a_crash_is_no_end(tmp_path, monkeypatch):
    def crash(settings, *args):
        if settings["n_steps"] == 8:
            raise ValueError("no such\nthing")
        return 1.0

    monkeypatch.setattr(agents.tune.work, "score", crash)
    search = begin(stage(tmp_path, trials=6))
    work(search, 0, nothing)
    trials = open_study(search).get_trials()
    assert len(trials) == 6
    crashed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert crashed
    assert {trial.user_attrs["crash"] for trial in crashed} == {"ValueError: no such thing"}
    assert all((trial in crashed) == (trial.user_attrs["tuned"].get("n_steps") == 8) for trial in trials)


def test_the_same_settings_are_not_run_twice(tmp_path, monkeypatch):
    search = begin(stage(tmp_path, trials=1))
    work(search, 0, nothing)
    study = open_study(search)
    enqueue_fixed(study, {})
    monkeypatch.setattr(agents.tune.work, "score", lambda *args: pytest.fail("run again"))
    work(replace(search, trials=2), 0, nothing)
    assert [trial.value for trial in study.get_trials()] == [completed(study)[0].value] * 2


def test_the_design_is_balanced(tmp_path):
    study = open_study(begin(stage(tmp_path, trials=DESIGN + 5)))
    params = [trial.system_attrs["fixed_params"] for trial in study.get_trials()[1:]]
    assert len(params) == DESIGN
    for name in params[0]:
        values = [point[name] for point in params]
        assert {value: values.count(value) for value in set(values)} == dict.fromkeys(values, DESIGN // CHOICES)


def test_tuning_improves_on_bad_settings(tmp_path):
    """The shipped learning rate cannot learn the bandit in these steps; half of the space can."""
    search = stage(tmp_path, trials=4, keys={"learning_rate": 1e-7, "timesteps": 1000})
    work(begin(search), 0, nothing)
    ranked = completed(open_study(search))
    shipped = next(trial for trial in ranked if trial.user_attrs.get("shipped"))
    assert ranked[0].value > shipped.value + 0.1


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_fresh_seeds_decide(tmp_path):
    search = begin(stage(tmp_path, trials=3))
    study = open_study(search)
    for value in (3.0, 2.0, 1.0):
        study.tell(study.ask(), value)
    confirmation = open_study(replace(search, name="confirmation", trials=None))
    for number, value in ((0, 1.0), (1, 5.0)):
        confirmation.add_trial(optuna.create_trial(value=value, user_attrs={"of": number}))
    outcome = judge(study, confirmation, completed(study))
    assert [trial.number for trial in outcome.candidates] == [1, 0]  # one that crashed has lost
    assert judge(study, None, completed(study)).winner.number == 0


# Blocks


VALUES = {"learning_rate": "linear:0.003:0", "gamma": 0.97, "net_arch": [32, 32], "timesteps": 12345}
COMMENTS = [f"{blocks.MARK}: so", f"{blocks.MARK} then"]


def comments_in(text: str, name: str = "") -> tuple[set[str], list[str]]:
    """Comments but those that say where a block comes from, and these, of the block of that name or of all."""
    if name:
        (text,) = re.findall(rf"^{re.escape(name)}:.*\n((?:[ #].*\n)*)", text, flags=re.MULTILINE)
    comments = [line[line.index("#") :] for line in text.splitlines() if "#" in line]
    origins = [comment for comment in comments if comment.startswith(blocks.MARK)]
    return set(comments) - set(origins), origins


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_blocks_leave_the_rest_as_it_is(file):
    text = file.read_text(encoding="utf-8")
    before = yaml.safe_load(text)
    for env in [*before, "New-v0", "module:Other-v3"]:
        after = blocks.updated(text, env, VALUES, COMMENTS)
        name = env.rpartition(":")[2]
        assert yaml.safe_load(after) == {**before, name: {**before.get(name, {}), **VALUES}}
        assert comments_in(after)[0] == comments_in(text)[0]
        assert comments_in(after, name)[1] == COMMENTS
        # Once more, with other values: in the place of the first.
        again = blocks.updated(after, env, {**VALUES, "gamma": 0.5}, ["# Tuned: again"])
        assert comments_in(again)[0] == comments_in(text)[0]
        assert comments_in(again, name)[1] == ["# Tuned: again"]
        assert yaml.safe_load(again)[name]["gamma"] == 0.5
        assert again.replace("  # Tuned: again\n", "") == after.replace("gamma: 0.97", "gamma: 0.5").replace(
            "".join(f"  {comment}\n" for comment in COMMENTS), ""
        )


ODD = """\
# Head.
default: {timesteps: 100}

A-v0: &a # first
  gamma: 0.9  # why
  net_arch:
    - 8
    - 8
# Between.
B-v0: *a
C-v0: *a

D-v0: {gamma: 0.5,
  n_envs: 2}
E-v0:
"F-v0":
    gamma: 0.1

    # Inside.
    n_envs: 4
# Tail.
"""


def test_the_text_of_a_block():
    assert blocks.updated(ODD, "A-v0", {"gamma": 0.8, "net_arch": [4], "n_envs": 2}, ["# Tuned: x"]) == ODD.replace(
        """A-v0: &a # first
  gamma: 0.9  # why
  net_arch:
    - 8
    - 8
# Between.
B-v0: *a
""",
        """A-v0: # first
  # Tuned: x
  gamma: 0.8  # why
  net_arch: [4]
  n_envs: 2
# Between.
B-v0: &a
  gamma: 0.9  # why
  net_arch:
    - 8
    - 8
""",
    )


@pytest.mark.parametrize("env", ["B-v0", "C-v0", "D-v0", "E-v0", "F-v0", "default"])
def test_blocks_however_they_are_written(env):
    before = yaml.safe_load(ODD)
    after = blocks.updated(ODD, env, VALUES, COMMENTS)
    assert yaml.safe_load(after) == {**before, env: {**(before[env] or {}), **VALUES}}
    for comment in ("# Head.", "# first", "# why", "# Between.", "# Inside.", "# Tail."):
        assert comment in after


# The command


QUICK = ("--env", BANDIT, "--agent", "a2c", "--timesteps", 600, "--seeds-per-trial", 1, "--jobs", 1, "--no-progress")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_the_winning_block(command, tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    file = configs / "a2c.yaml"
    file.write_text(
        f"# Mine.\ndefault:\n  n_envs: 8\n{BANDIT}:\n  learning_rate: 1e-7  # too low\n  activation: relu\n"
    )
    argv = (*QUICK, "--trials", 4, "--confirm", 2, "--confirm-seeds", 2)
    outcome = command(lambda words: main(words, configs), *argv, "--write")
    assert outcome.status == 0, outcome
    assert outcome.err.count("score") + outcome.err.count("pruned") == 4 + 3
    text = file.read_text()
    assert text.startswith("# Mine.\ndefault:\n  n_envs: 8\n")
    assert f"  # Tuned: python -m agents.tune --env {BANDIT} --agent a2c --trials 4 --timesteps 600" in text
    block = yaml.safe_load(text)[BANDIT]
    assert block["activation"] == "relu"
    assert block["timesteps"] == 600
    # train_agent.py gets the settings that won.
    study = optuna.load_study(
        study_name=f"{BANDIT}/a2c", storage="sqlite:///runs/tuning/gumbel_rl-FactoredBandit-v0/a2c.db"
    )
    config = resolve({"agent": "a2c", "env": BANDIT}, configs=configs).to_mapping()
    tuned = [trial.user_attrs["tuned"] for trial in completed(study)]
    assert {key: config[key] for key in tuned[-1] or tuned[0]} in tuned
    assert (tmp_path / "runs/tuning/gumbel_rl-FactoredBandit-v0/a2c.png").stat().st_size > 0

    # Nothing is left to do, though the file has changed since; the block alone goes to a file.
    outcome = command(lambda words: main(words, configs), *argv, "--out", "block.yaml")
    assert outcome.status == 0, outcome
    assert "score" not in outcome.err
    assert yaml.safe_load(Path("block.yaml").read_text()) == {BANDIT: block}
    assert file.read_text() == text


def test_an_interruption_says_how_to_go_on(command, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(agents.tune.work, "run_stage", interrupted)
    outcome = command(main, *QUICK, "--trials", 3)
    assert outcome.status == 130
    assert outcome.err.splitlines()[-1] == "interrupted after 0 of 3 trials; the same command goes on"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("--agent", "pppo"), "unknown agent 'pppo' (did you mean 'ppo'?)"),
        (("--env", "CartPol-v1"), "CartPole"),
        (("--trials", 0), "at least 1"),
        (("--seeds-per-trial", 0), "between 1 and"),
        (("--jobs", 0), "at least 1"),
        (("--trial", 3), "did you mean '--trials'"),
        (("--set", "gamma=0.5"), "gamma: that key is searched"),
        (("--set", "gama=0.5"), "did you mean 'gamma'"),
        (("--agent", "dqn", "--env", "tiny/ActMultiBinary-v0"), "dqn does not support the action space MultiBinary"),
        (("--storage", "nowhere"), "--storage nowhere cannot be used"),
        (("--storage", "sqlite:///no/such/place.db"), "unable to open database file"),
        (("--storage", "sqlite://"), "in memory"),
        (("--out", "no/such/place.yaml"), "there is no directory no/such"),
    ],
)
def test_bad_input(command, argv, complaint):
    assert complaint in command(main, *QUICK, *argv).complaint
    assert not list(Path().rglob("*.yaml"))


def test_passwords_are_not_told(command):
    told = command(main, *QUICK, "--storage", "mysql+nosuch://me:secret@localhost/tune").complaint
    assert "secret" not in told
    assert "localhost" in told


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("--timesteps", 700), "timesteps 600, not 700"),
        (("--seeds-per-trial", 2), "seeds [10000000], not [10000000, 10000001]"),
        (("--agent", "ppo"), "agent a2c, not ppo; another search space"),
        (("--env", "CartPole-v1"), f"env {BANDIT}, not CartPole-v1"),
        (("--set", "stats_window_size=50"), "set {}, not {'stats_window_size': 50}"),
    ],
)
def test_another_study_is_refused(command, tmp_path, change, complaint):
    begin(stage(tmp_path, name="mine"))
    where = ("--storage", f"sqlite:///{tmp_path / 'tune.db'}", "--study", "mine")
    told = command(main, *QUICK, *where, *change).complaint
    assert complaint in told
    assert "give another --study or --storage" in told


def test_optuna_may_be_absent(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert command(main, *QUICK).complaint == "tuning needs Optuna: pip install -e '.[tune]'"
