"""What a run logs, read back as users do."""

from __future__ import annotations

import csv

import pytest
from conftest import short_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from agents.logs import ProgressCSV

SCALARS = {
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "time/fps",
    "train/temperature",
    "train/entropy",
    "train/entropy_ratio",
    "train/actor_loss",
    "train/critic_loss",
    "train/grad_norm",
    "train/zero_grad_frac",
    "train/learning_rate",
    "grad/bias",
    "grad/variance",
    "grad/cosine",
    "eval/mean_reward",
    "eval/mean_ep_length",
}


@pytest.fixture(scope="module")
def events(finished):
    accumulator = EventAccumulator(str(finished.path))
    accumulator.Reload()
    return accumulator


def test_tags(events):
    tags = events.Tags()
    assert set(tags["scalars"]) >= SCALARS
    assert "dist/action_probs" in tags["histograms"]
    names = [name for kind in ("scalars", "histograms", "tensors") for name in tags[kind]]
    assert max(map(len, names)) <= 30
    assert all(tag.count("/") == 1 for tag in tags["scalars"])


def test_the_last_update_is_logged(events, finished):
    assert events.Scalars("train/temperature")[-1].step == 600
    assert events.Scalars("eval/mean_reward")[-1].step == 600
    with finished.progress.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["time/total_timesteps"], last["eval/mean_reward"] != "", last["train/entropy"] != "") == (
        "600",
        True,
        True,
    )


def test_a_step_has_one_row(finished):
    with finished.progress.open(newline="") as file:
        steps = [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert None not in steps


def test_hyperparameters_as_text(events, finished):
    (entry,) = events.Tensors("hyperparameters/text_summary")
    (text,) = entry.tensor_proto.string_val
    for key, value in finished.read_config().to_mapping().items():
        assert f"| {key} | {value} |" in text.decode()


def test_hparams(events):
    summaries = events.PluginTagToContent("hparams")
    experiment = HParamsPluginData.FromString(summaries["_hparams_/experiment"]).experiment
    assert {info.name.tag for info in experiment.metric_infos} == {"eval/mean_reward", "rollout/ep_rew_mean"}
    start = HParamsPluginData.FromString(summaries["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["agent"].string_value == "gumbel-ac"
    assert start.hparams["n_steps"].number_value == 32
    assert start.hparams["normalize"].string_value == "True"
    assert "eval_every" not in start.hparams


@pytest.mark.parametrize("agent", ["reinforce", "ppo", "a2c", "dqn", "qrdqn"])
def test_other_agents_log_their_evaluations(agent, tmp_path):
    replay = {"learning_starts": 50, "train_freq": 4, "gradient_steps": 1}
    added = {"dqn": replay, "qrdqn": replay | {"n_quantiles": 5}, "ppo": {"batch_size": 64}}
    run = short_run(tmp_path, agent=agent, **added.get(agent, {}))
    accumulator = EventAccumulator(str(run.path))
    accumulator.Reload()
    scalars = accumulator.Tags()["scalars"]
    assert {"rollout/ep_rew_mean", "eval/mean_reward", "time/fps", "train/learning_rate"} <= set(scalars)
    assert max(map(len, scalars)) <= 30


def test_the_table_grows_columns_and_is_continued(tmp_path):
    path = tmp_path / "progress.csv"
    table = ProgressCSV(path)
    table.write({"time/total_timesteps": 1, "b": 1.5}, {}, 1)
    table.write({"time/total_timesteps": 2, "a": 2, "c": 3, "text": "x, y"}, {"c": ("csv",)}, 2)
    table.write({"c": 3}, {"c": ("csv",)}, 3)
    table.write({"time/total_timesteps": 4}, {}, 4)
    table.close()
    assert path.read_text() == 'b,time/total_timesteps,a,text\n1.5,1,,\n,2,2,"x, y"\n,4,,\n'
    table = ProgressCSV(path, up_to=2)
    table.write({"time/total_timesteps": 3}, {}, 3)
    table.close()
    assert path.read_text() == 'b,time/total_timesteps,a,text\n1.5,1,,\n,2,2,"x, y"\n,3,,\n'
    ProgressCSV(path).close()
    assert path.read_text() == ""
