"""A run learns the same whichever loader it reads with, and may change it whenever it is continued."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder
from sivae_dist.run.jsonl import read_rows
from tests.command import sivae, started, wait_for_images
from tests.helpers import assert_same, random_set

pytestmark = pytest.mark.slow

IMAGES, AT_4_PX = 288, 32


def settings(data: Path, loader: str) -> tuple[Any, ...]:
    return (
        "tiny", f"data.loader={loader}", "model.resolution=16", "model.base_width=4", "model.max_width=8",
        "model.latent=8", "objective.warmup=0", "schedule.images={4: 32, 8: 96, 16: 160}",
        "schedule.batch={4: 16, 8: 16, 16: 8}", "checkpoint.every=48", "monitoring.scalars_every=16",
        "monitoring.images_every=96", "device=cpu", "--data", data, "--nproc", 2,
    )  # fmt: skip


def latest(run: Path) -> Checkpoint:
    return CheckpointFolder(run / "checkpoints").readable()[-1]


def assert_same_end(run: Path, other: Path) -> None:
    assert latest(run).images == latest(other).images == IMAGES
    assert_same(latest(run).load(), latest(other).load())
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def decoded(run: Path) -> int:
    """From tars, by the first of two processes since its last start: its half of the batches, and pictures for
    TensorBoard."""
    return [row["data/decoded"] for row in read_rows(run / "speed.jsonl") if "data/decoded" in row][-1]  # type: ignore[no-any-return]


@pytest.mark.timeout(1200)  # four commands of two processes each, most of it imports
def test_either_loader_and_both_in_turn(tmp_path: Path) -> None:
    """DALI begins, after a kill our own goes on, and after another DALI again; what is learned is our own's."""
    data = random_set(tmp_path / "data", samples=40, resolution=16, array_max_resolution=4, format="jpeg")
    cpu, turns, log = tmp_path / "cpu", tmp_path / "turns", tmp_path / "log"
    sivae("train", *settings(data, "cpu"), "--run-dir", cpu)
    assert decoded(cpu) >= (IMAGES - AT_4_PX) // 2
    for loader, images in (("dali", 100), ("cpu", 150)):
        with started("train", *settings(data, loader), "--run-dir", turns, log=log) as process:
            wait_for_images(process, turns, images, log)
            os.killpg(process.pid, signal.SIGKILL)
    done = sivae("train", *settings(data, "dali"), "--run-dir", turns)
    assert "continuing from" in done.stdout and "note: data.loader differs" in done.stdout
    assert 0 < decoded(turns) < decoded(cpu)
    assert_same_end(turns, cpu)
