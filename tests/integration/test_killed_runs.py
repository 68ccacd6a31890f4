"""Runs on two processes that are killed at any moment and started again with the same command."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.checkpoint import Checkpoint, CheckpointFolder
from sivae_dist.run.jsonl import read_rows
from tests.command import sivae, started, wait_for_images, worker_ids
from tests.events import assert_no_step_twice
from tests.helpers import assert_same, labelled_set

pytestmark = pytest.mark.slow

NARROW = ("model.base_width=4", "model.max_width=8", "model.latent=8", "objective.warmup=0", "device=cpu")


def latest(run: Path) -> Checkpoint:
    return CheckpointFolder(run / "checkpoints").readable()[-1]


GROWING = (
    *NARROW, "model.resolution=16", "schedule.images={4: 160, 8: 320, 16: 480}", "objective.style_mixing=0.5",
    "model.noise=true",
)  # fmt: skip
BATCH_NORM = (
    "model={name: residual, resolution: 16, latent: 8, widths: [4, 8], norm: batch}", "objective.warmup=0",
    "objective.style_mixing=0", "schedule.images=320", "device=cpu",
)  # fmt: skip
TRANSLATION = (
    "model={name: translation, resolution: 32, class_latent: 4, content_latent: 4, widths: [2, 4, 4, 4], "
    "hidden_units: 8, decoder_width: 8, last_width: 4}",
    "objective.warmup=0", "objective.style_mixing=0", "objective.beta_neg={class: 64, content: 128}",
    "schedule.images=320", "device=cpu",
)  # fmt: skip


@pytest.mark.parametrize(
    ("networks", "kills", "end"),
    [
        # Before the first checkpoint, inside the transition to 8 px, and at 16 px; the last time only the launcher is
        # killed, which must not leave processes that go on training.
        (GROWING, ((40, True), (250, True), (700, False)), 960),
        (BATCH_NORM, ((150, True),), 320),
        (TRANSLATION, ((150, True),), 320),
    ],
    ids=["growing", "batch_norm", "translation"],
)
def test_killed_again_and_again_is_as_if_undisturbed(
    tmp_path: Path, networks: tuple[str, ...], kills: tuple[tuple[int, bool], ...], end: int
) -> None:
    data = labelled_set(tmp_path / "data", samples=40, resolution=32, array_max_resolution=8)
    settings = (
        "tiny", *networks, "schedule.batch=8", "checkpoint.every=120", "monitoring.scalars_every=8",
        "monitoring.images_every=200", "--data", data, "--nproc", 2,
    )  # fmt: skip
    straight, killed, log = tmp_path / "straight", tmp_path / "killed", tmp_path / "log"
    sivae("train", *settings, "--run-dir", straight)
    for images, whole_group in kills:
        with started("train", *settings, "--run-dir", killed, log=log) as process:
            wait_for_images(process, killed, images, log)
            assert len(worker_ids(killed)) == 2
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            deadline = time.monotonic() + 60
            while worker_ids(killed):
                assert time.monotonic() < deadline, "processes outlived their launcher"
                time.sleep(0.1)
    done = sivae("train", *settings, "--run-dir", killed)
    assert "continuing from" in done.stdout
    assert latest(killed).images == latest(straight).images == end
    assert latest(killed).manifest["world_size"] == 2
    assert_same(latest(killed).load(), latest(straight).load())
    assert (killed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    tags = assert_no_step_twice(killed)
    assert {"reconstruction/real", "kl/real", "kl/rec", "kl/fake", "elbo/real", "exp_elbo/fake"} <= set(tags["scalars"])
    assert {"images/real_reconstruction", "images/sample", "images/sample_ema"} <= set(tags["images"])
    assert not [path for path in (killed / "checkpoints").iterdir() if path.name.startswith(".")]
    # Nothing is left to do, and nothing is done.
    before = (killed / "metrics.jsonl").read_bytes()
    sivae("train", *settings, "--run-dir", killed)
    assert (killed / "metrics.jsonl").read_bytes() == before


def test_all_seven_phases_with_every_blend(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    y, x = np.mgrid[0:256, 0:256] / 255
    for i in range(24):
        waves = [np.sin(x * (i % 5 + 1) * 3 + c) * np.cos(y * (i % 7 + 1) * 3 - c) for c in range(3)]
        Image.fromarray(np.uint8(np.stack(waves, -1) * 127 + 128)).save(source / f"{i:02}.png")
    prepare(source, tmp_path / "data", PrepareSettings(shard_size=8, array_max_resolution=32))
    assert sorted(Manifest.load(tmp_path / "data").levels) == [4, 8, 16, 32, 64, 128, 256]
    settings = (
        "tiny", *NARROW, "model.resolution=256", "objective.beta_neg=256", "schedule.images=24", "schedule.blend=0.5",
        "schedule.batch=4", "checkpoint.every=24", "monitoring.scalars_every=4", "monitoring.images_every=0",
        "--data", tmp_path / "data", "--nproc", 2, "--run-dir", tmp_path / "run",
    )  # fmt: skip
    log = tmp_path / "log"
    with started("train", *settings, log=log) as process:
        wait_for_images(process, tmp_path / "run", 100, log)  # at 64 px
        os.killpg(process.pid, signal.SIGKILL)
    sivae("train", *settings)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["images"] for row in rows] == list(range(4, 169, 4))
    seen = {(row["schedule/resolution"], row["schedule/blend"] < 1) for row in rows}
    assert seen == {(4, False)} | {(r, blending) for r in (8, 16, 32, 64, 128, 256) for blending in (True, False)}
    speed = read_rows(tmp_path / "run" / "speed.jsonl")
    decoded = max(row.get("data/decoded", 0) for row in speed)
    assert decoded >= 2 * 24 // 2  # this process's half of 128 and 256 px at least, after the kill
    sivae("sample", tmp_path / "run", "--count", 4, "--out", tmp_path / "samples.png")
    assert Image.open(tmp_path / "samples.png").size[0] > 4 * 256
