"""`sivae train` and `config show` as a user meets them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from launch.cli import app
from tests.command import ENVIRONMENT, command, sivae, told
from tests.helpers import random_set

SMALL = (
    "tiny", "model.resolution=8", "model.base_width=4", "model.max_width=8", "model.latent=8", "device=cpu",
    "schedule.images={4: 16, 8: 32}", "schedule.batch=8", "objective.warmup=16", "objective.beta_neg=256",
    "checkpoint.every=16", "monitoring.scalars_every=8", "monitoring.images_every=16",
)  # fmt: skip


CONTAINER = {
    "WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "23456", "TORCHELASTIC_ERROR_FILE": "/nowhere/error.json", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
"""What Kubernetes' PyTorchJob or torchrun sets for processes of a group, which are not this command's."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", array_max_resolution=4, test=6)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small"
    done = sivae("train", *SMALL, "--data", data, "--run-dir", path, "--nproc", 1, env=CONTAINER)
    assert "note: ignoring WORLD_SIZE=3 in the environment, which is another launcher's" in done.stderr
    assert "48/48 images" in done.stdout
    assert "img/s" in done.stdout
    return path


def refused(*arguments: object) -> str:
    """The one line on stderr with which a command refuses."""
    done = inside(*arguments, code=1)
    lines = told(done.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def inside(*arguments: object, code: int = 0) -> Any:
    """`sivae ARGUMENTS` in this process: for what starts no others, as imports take longer than the rest."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys, launch.cli; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pydantic', 'webdataset')))"
    )
    assert subprocess.run([sys.executable, "-c", check], env=ENVIRONMENT, timeout=120, check=False).returncode == 0
    text = sivae("--help").stdout
    assert all(name in text for name in ("train", "sample", "reconstruct", "data", "config"))


@pytest.mark.slow
def test_run_directory(run: Path) -> None:
    assert {"config.yaml", "metrics.jsonl", "speed.jsonl", "tensorboard", "checkpoints"} <= {
        p.name for p in run.iterdir()
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["schedule"]["batch"] == 8


def test_dry_run_prints_the_phases_and_trains_nothing(data: Path, tmp_path: Path) -> None:
    done = inside("train", *SMALL, "--data", data, "--run-dir", tmp_path / "run", "--nproc", 4, "--dry-run")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["4", "16", "0.889", "2", "0", "8", "2", "0.8", "GB", "0.001", "1/1/256", "2.67", "1.8"] in rows
    assert ["8", "32", "1.78", "4", "8", "8", "2", "0.8", "GB", "0.001", "1/1/256", "2.67", "1.8"] in rows
    assert "48 images in 6 steps, 16 images of warm-up" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_config_show_resolves(tmp_path: Path) -> None:
    shown = yaml.safe_load(inside("config", "show", "configs/ffhq256.yaml", "schedule.batch.256=24").stdout)
    assert shown["schedule"]["batch"][256] == 24
    assert shown["model"]["encoder_mapping"] == 3
    elsewhere = subprocess.run(
        command("config", "show", "tiny"), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=120, check=True
    )
    assert b"base_width: 16" in elsewhere.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-config",), ("no-such-config",)),
        ((*SMALL, "model.latnt=3"), ("model.latnt", "did you mean model.latent?")),
        ((*SMALL, "schedule.batch"), ("key=value",)),
        ((*SMALL, "schedule.batch=9", "--nproc", "2"), ("batch of 9", "2 processes", "schedule.batch.4=8")),
        ((*SMALL, "model.channels=1"), ("3 channels", "1")),
        ((*SMALL, "model.resolution=16", "schedule.images=16"), ("no images of 16 px", "--resolution 16")),
        ((*SMALL, "device=cuda"), ("no GPU",)),
    ],
)
def test_refusals(arguments: tuple[str, ...], words: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    line = refused("train", *arguments, "--data", data, "--run-dir", tmp_path / "run")
    assert all(word in line for word in words), line


def test_more_processes_than_gpus_are_refused_before_any_is_started(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = (*SMALL, "device=auto", "--data", data, "--run-dir", tmp_path / "run")
    assert "set --nproc 1, or device=cpu" in refused("train", *run, "--nproc", 2)
    assert "set --nproc 1, or device=cpu" in refused("submit", *run, "--cluster", "local", "--gpus-per-node", 2)
    assert not (tmp_path / "run").exists()


def test_a_missing_loader_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any process is started."""
    arguments = (*SMALL, "data.loader=dali", "--data", data, "--run-dir", tmp_path / "run", "--dry-run")
    inside("train", *arguments)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert refused("train", *arguments).endswith("pip install nvidia-dali-cuda130")


def test_missing_data_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in refused("train", *SMALL, "--data", tmp_path / "nothing")


@pytest.mark.slow
def test_other_settings_do_not_continue_a_run(run: Path, data: Path) -> None:
    arguments = ("--data", data, "--run-dir", run, "--nproc", 1)
    assert "schedule.lr_encoder" in refused("train", *SMALL, "schedule.lr_encoder=0.1", *arguments)
    longer = ("monitoring.scalars_every=16", "schedule.images.8=64")
    done = sivae("train", *SMALL, *longer, *arguments)
    assert "note: monitoring.scalars_every differs" in done.stdout
    assert "note: the schedule is 80 images, 48 before" in done.stdout
    assert f"finished: {run} has seen the 80 images of its schedule" in done.stdout


@pytest.mark.slow
def test_a_damaged_image_ends_all_processes_and_is_named(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    for shard in sorted((broken / "0008").glob("*.tar")):
        content = bytearray(shard.read_bytes())
        content[700:1400:7] = bytes(100)
        shard.write_bytes(content)
    done = sivae("train", *SMALL, "--data", broken, "--run-dir", tmp_path / "run", "--nproc", 2, code=1, env=CONTAINER)
    lines = done.stderr.splitlines()
    assert any(line.startswith("error: ") and "0008/shard-" in line for line in lines), done.stderr
