"""CIFAR-10 from its python archive, in the real format with other images, by the commands of its configurations."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_pipelines.images.drawn import draw_face
from data_pipelines.images.manifest import Manifest
from sivae_dist.run.jsonl import read_rows
from tests.command import sivae
from tests.data_pipelines.images.sources.test_cifar import CIFAR10, CLASSES, archive, rows

pytestmark = pytest.mark.slow

EACH = 12
"""Images of each of the six files."""


def faces(first: int) -> NDArray[np.uint8]:
    """[EACH, 32, 32, 3], drawn."""
    drawn = np.stack([draw_face(0, first + k) for k in range(EACH)])
    step = drawn.shape[1] // 32
    return drawn.reshape(EACH, 32, step, 32, step, 3).mean((2, 4)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cifar-10-python.tar.gz, prepared as the configurations say."""
    files = {"batches.meta": pickle.dumps({b"num_cases_per_batch": EACH, b"label_names": CLASSES, b"num_vis": 3072}, 2)}
    for k, name in enumerate(CIFAR10):
        content = {
            b"batch_label": b"%s of 5" % name.encode(),
            b"labels": [(k + i) % 10 for i in range(EACH)],
            b"data": rows(faces(k * EACH)),
            b"filenames": [b"face_s_%06d.png" % i for i in range(EACH)],
        }
        files[name] = pickle.dumps(content, 2)
    folder = tmp_path_factory.mktemp("cifar")
    path = archive(folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    sivae("data", "prepare", path, folder / "cifar10", "--resolution", 32)
    manifest = Manifest.load(folder / "cifar10")
    assert (manifest.train, manifest.test) == (5 * EACH, EACH)
    return folder / "cifar10"


@pytest.mark.parametrize("config", ["cifar10", "official/cifar10", "cifar10_conditional"])
def test_the_command_of_the_configuration(cifar: Path, tmp_path: Path, config: str) -> None:
    """Checked as it is, then run with narrower networks for three steps of 32 images."""
    command = ("train", config, "--data", cifar, "--run-dir", tmp_path / "run", "device=cpu")
    short = ("model.widths=[8, 8, 8]", "schedule.epochs=null", "schedule.images=96", "evaluation.every=0")
    short += ("checkpoint.keep_best=0", "monitoring.scalars_every=32", "monitoring.images_every=0")
    sivae(*command, "evaluation.every=0", "checkpoint.keep_best=0", "--dry-run")  # FID needs weights that are not here
    sivae(*command, *short)
    found = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["images"] for row in found] == [32, 64, 96]
    assert all(np.isfinite(row["loss/encoder"]) and row["kl/fake"] > 0 for row in found)
    sivae("sample", tmp_path / "run", "--out", tmp_path / "samples.png", "--device", "cpu")
    assert (tmp_path / "samples.png").exists()
    recorded = (tmp_path / "run" / "config.yaml").read_text()
    assert ("  - airplane\n" in recorded) == (config == "cifar10_conditional")
