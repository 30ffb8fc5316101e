"""The wheel: the library alone, usable without the clone; and what importing it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

USE = """
import sys
from pathlib import Path

import gumbel_rl
assert Path(gumbel_rl.__file__).is_relative_to(sys.prefix), gumbel_rl.__file__
for absent in ("agents", "envs", "train_agent"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{absent} can be imported")

import torch
from gymnasium.spaces import MultiDiscrete
from gumbel_rl import ActionFactors, FactoredCategorical, GumbelActorCritic, make_estimator

space = MultiDiscrete([3, 2])
factors = ActionFactors.from_space(space)
logits = torch.zeros(4, factors.width, requires_grad=True)
policy = FactoredCategorical(logits, factors)
assert all(space.contains(action) for action in factors.decode(policy.sample()))
make_estimator("st-gumbel-softmax", temperature=1.0)(policy, lambda z: z @ torch.arange(5.0)).sum().backward()
assert logits.grad.abs().sum() > 0

model = GumbelActorCritic("MlpPolicy", "CartPole-v1", seed=0, device="cpu").learn(512)
assert model.num_timesteps >= 512
model.save("model")
GumbelActorCritic.load("model")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed, run without this environment's Python settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gumbel_rl").rglob("*.py")}
    assert shipped == sources | {"gumbel_rl/py.typed"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_wheel_works_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "venv"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(fresh, with_pip=False, symlinks=os.name == "posix")
    scheme = {"base": str(fresh), "platbase": str(fresh)}
    python = Path(sysconfig.get_path("scripts", "venv", vars=scheme), Path(sys.executable).name)
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=elsewhere)
    # torch and the others are borrowed rather than installed again. A directory that a .pth file adds has its own .pth
    # files left alone, so the borrowed one's editable install of the clone stays out of sight.
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-c", USE, cwd=elsewhere)


def test_importing_the_library_leaves_stable_baselines3_alone(tmp_path: Path) -> None:
    heavy = "{'stable_baselines3', 'tensorboard', 'matplotlib', 'pandas'}"
    code = f"import sys, gumbel_rl; print(sorted({heavy} & set(sys.modules)))"
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"
    assert run(sys.executable, "-c", program, cwd=tmp_path).strip() == "[]"


def test_lazy_names_are_there_when_asked_for() -> None:
    import gumbel_rl

    for name in gumbel_rl.__all__:
        assert name in dir(gumbel_rl)
        assert getattr(gumbel_rl, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        gumbel_rl.no_such_name  # noqa: B018
