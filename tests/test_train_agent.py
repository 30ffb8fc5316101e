"""The command as users type it, in a process of its own; `agents/test_commands.py` has the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def begin(*argv: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train_agent.py"), *argv],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def complete(*argv: str, cwd: Path) -> tuple[int, str, str]:
    process = begin(*argv, cwd=cwd)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_help(tmp_path):
    status, out, err = complete("--help", cwd=tmp_path)
    assert (status, err) == (0, "")
    options = "env agent estimator timesteps seed n-envs temperature device config set run-dir threshold eval-every "
    for option in (options + "eval-episodes no-progress resume threads engine").split():
        assert f"--{option} " in out
    assert "python train_agent.py --env CartPole-v1" in out


def test_help_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; sys.argv = ['train_agent.py', '--help']\n"
        "import train_agent\n"
        "try:\n"
        "    train_agent.main()\n"
        "except SystemExit:\n"
        "    heavy = {'torch', 'stable_baselines3', 'gymnasium', 'numpy', 'rich'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--agent", "gumbel"), "error: unknown agent 'gumbel' (did you mean 'gumbel-ac'?)"),
        (("--env", "Pendulum-v1"), "error: gumbel-ac does not support the action space Box"),
    ],
)
def test_a_mistake_ends_with_a_line(argv, message, tmp_path):
    status, out, err = complete(*argv, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on(number, tmp_path):
    keys = ("--set", "net_arch=[8]", "--set", "diagnostics_interval=0", "--eval-every", "0", "--eval-episodes", "2")
    process = begin("--timesteps", "1000000", *keys, "--run-dir", "here", "--no-progress", cwd=tmp_path)
    progress = tmp_path / "here" / "progress.csv"
    deadline = time.monotonic() + 60
    while not (progress.exists() and len(progress.read_text().splitlines()) > 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].endswith("go on with: python train_agent.py --resume here")
    assert "Traceback" not in err
    assert not (tmp_path / "here" / "result.json").exists()
    if number is signal.SIGINT:
        # Nobody waits for a million steps: the configuration is made to end soon after the checkpoint.
        (checkpoint,) = (tmp_path / "here" / "checkpoints").iterdir()
        until = int(checkpoint.name) + 512
        config = tmp_path / "here" / "config.yaml"
        config.write_text(config.read_text().replace("timesteps: 1000000", f"timesteps: {until}"))
        status, out, _ = complete("--resume", "here", cwd=tmp_path)
        assert status == 0
        assert f"trained        {until:,} steps" in out
        assert json.loads((tmp_path / "here" / "result.json").read_text())["timesteps"] == until
