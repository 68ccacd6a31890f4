"""`sivae checkpoints` as a user meets it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launch.cli import app
from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run
from sivae_dist.run.directory import RunDirectory
from tests.checkpoints import contents, flip, shard
from tests.helpers import begin, tiny_settings, train


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    """With checkpoints of 16, 24, 32, 40 and 48 images."""
    settings = tiny_settings(
        data, "checkpoint.every=8", "checkpoint.keep_every=16", "checkpoint.keep_best=1", "checkpoint.keep=3",
        "checkpoint.best_metric=schedule/batch", "checkpoint.best_mode=max",
    )  # fmt: skip
    train(begin(tmp_path / "run", settings))
    return tmp_path / "run"


def listed(run: Path, *options: str, code: int = 0) -> Any:
    """What `sivae checkpoints` says, having changed nothing."""
    before, times = contents(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = CliRunner().invoke(app, ["checkpoints", str(run), *options])
    assert done.exit_code == code, done.output
    assert contents(run) == before
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == times
    return done


def rows(output: str) -> list[list[str]]:
    """Cells of the lines that tell of a checkpoint, between which there are two spaces at least."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.splitlines()]
    return [row for row in cells if row and (row[0].replace(",", "").isdigit() or row[0].startswith("images-"))]


@pytest.mark.slow
def test_all_are_listed_oldest_first(run: Path) -> None:
    found = rows(listed(run).stdout)
    assert [row[0] for row in found] == ["16", "32", "40", "48"]
    assert [row[1] for row in found] == ["4", "8", "8", "8"]
    sizes = [f"{checkpoint.bytes / 1e6:,.1f}" for checkpoint in CheckpointFolder(run / "checkpoints").readable()]
    assert [row[3] for row in found] == sizes
    assert [row[4:] for row in found] == [
        ["1", "1 process(es)", "for good", "complete"],
        ["1", "1 process(es)", "newest", "complete"],
        ["1", "1 process(es)", "newest", "complete"],
        ["1", "1 process(es)", "newest, best", "complete"],
    ]
    assert [row[-1] for row in rows(listed(run, "--verify").stdout)] == ["whole"] * 4


def test_damage_of_a_file_shows_when_it_is_read(run: Path) -> None:
    path = run / "checkpoints" / "images-000000000040"
    flip(shard(path), -1)
    assert [row[-1] for row in rows(listed(run).stdout)] == ["complete"] * 4
    done = listed(run, "--verify", code=1)
    found = rows(done.stdout)
    assert [row[-1] for row in found[:2] + found[3:]] == ["whole"] * 3
    assert found[2] == [path.name, "damaged"]
    assert f"checkpoint {path}: {shard(path).name} is damaged" in done.stdout.splitlines()
    assert done.stderr.startswith("error: 1 damaged")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("options", [(), ("--verify",)])
def test_a_manifest_that_cannot_be_read_shows(run: Path, options: tuple[str, ...]) -> None:
    for name in ("images-000000000032", "images-000000000048"):
        (run / "checkpoints" / name / "manifest.json").write_text("{")
    done = listed(run, *options, code=1)
    found = rows(done.stdout)
    assert [row[0] for row in found] == ["16", "images-000000000032", "40", "images-000000000048"]
    assert [row[-1] for row in found[1::2]] == ["damaged"] * 2
    assert done.stdout.count("manifest.json cannot be read") == 2
    assert done.stderr.startswith("error: 2 damaged")


def test_those_moved_aside_are_named(run: Path) -> None:
    checkpoints = run / "checkpoints"
    flip(shard(checkpoints / "images-000000000048"), -1)
    CheckpointFolder(checkpoints).newest_valid()
    done = listed(run, "--verify")  # what is left is whole
    assert [row[0] for row in rows(done.stdout)] == ["16", "32", "40"]
    assert f"moved aside as damaged: {checkpoints / 'damaged' / 'images-000000000048'}" in done.stdout.splitlines()


def test_what_has_none_says_so(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["checkpoints", str(tmp_path)])
    assert (done.exit_code, done.stderr) == (1, f"error: {tmp_path} is not a run: it has no config.yaml\n")
    prepare_run(RunDirectory(tmp_path / "new"), tiny_settings(data))
    assert listed(tmp_path / "new").stdout == f"{tmp_path / 'new'} has no checkpoint yet\n"
