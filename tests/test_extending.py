"""The examples of docs/extending.md, each as a user types it: a module of one's own, and the command beneath."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.checkpoint import CheckpointFolder
from tests.command import ROOT, sivae
from tests.helpers import random_set

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = {
    match[1]: (match[2], match[3])
    for match in re.finditer(r"```python\n# (\w+\.py)\n(.*?)```\n\n    sivae (.*?)\n", PAGE, re.DOTALL)
}
"""By file: the code, and the arguments of the command."""

SHORT = ("schedule.images=48", "schedule.batch=8", "device=cpu", "checkpoint.every=16", "monitoring.images_every=24",
         "monitoring.scalars_every=8", "monitoring.grid=4")  # fmt: skip


def written(name: str, folder: Path) -> list[str]:
    """Writes an example's module, and gives the arguments of its command."""
    code, command = EXAMPLES[name]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(code)
    return shlex.split(command)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("bare") / "set")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "set"
    source = path.with_name("source")
    for k in range(24):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (source / f"class{k % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(source / f"class{k % 3}" / f"{k}.png")
    prepare(source, path, PrepareSettings(resolution=8, labels="folders"))
    return path


def test_every_example_is_run() -> None:
    tested = set(re.findall(r'written\("(\w+\.py)"', Path(__file__).read_text()))
    assert set(EXAMPLES) == set(re.findall(r"^# (\w+\.py)$", PAGE, re.MULTILINE)) == tested


def test_a_term_of_the_loss(images: Path, tmp_path: Path) -> None:
    command = written("total_variation.py", tmp_path / "code")
    more = ("model.resolution=8", "model.base_width=4", "model.max_width=8", "objective.warmup=0", "--data", images)
    sivae(*command, *SHORT, *more, "--run-dir", tmp_path / "run", "--nproc", 1, folder=tmp_path / "code")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 12 and all('"variation/decoder": ' in row for row in rows)


def test_an_encoder_that_sees_another_image(labelled: Path, images: Path, tmp_path: Path) -> None:
    path, code = tmp_path / "run", tmp_path / "code"
    command = written("same_class.py", code)
    more = (*SHORT, "objective.warmup=16", "monitoring.trace=true", "--nproc", 1, "--data")
    sivae(*command, *more, labelled, "--run-dir", path, folder=code)
    rows = [json.loads(row) for row in (path / "trace.jsonl").read_text().splitlines()]
    assert len(rows) == 48 and all(row["same_class"] != row["pixels"] for row in rows)
    refused = sivae(*command, *more, images, "--run-dir", tmp_path / "bare", code=1, folder=code)
    assert "has no labels, but the model's class encoder sees another sample of the class" in refused.stderr


def test_a_class_conditional_model(labelled: Path, images: Path, tmp_path: Path) -> None:
    path, again, code = tmp_path / "run", tmp_path / "again", tmp_path / "code"
    command = written("dense_models.py", code)
    more = (*SHORT, "objective.warmup=16", "--data")
    sivae(*command, *more, labelled, "--run-dir", path, "--nproc", 2, folder=code)
    checkpoints = CheckpointFolder(path / "checkpoints").readable()
    first, last = checkpoints[0].load(), checkpoints[-1].load()
    assert checkpoints[-1].images == 48
    told = [tensors["decoder.layers.0.weight"][:, 4:] for tensors in (first, last)]
    assert not torch.equal(*told)  # the labels' weights are trained
    assert (path / "figures" / "training" / "sample-000000000048.png").exists()
    # On one process, in two pieces: the same run.
    for length in (24, 48):
        settings = (*more, labelled, "--run-dir", again, f"schedule.images={length}")
        sivae(*command, *settings, "--nproc", 1, folder=code)
    other = CheckpointFolder(again / "checkpoints").readable()[-1].load()
    for name, tensor in last.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)
    # The run knows what it imports, from anywhere.
    assert str(code / "dense_models.py") in (path / "config.yaml").read_text()
    drawn = sivae("sample", path, "--count", 3, "--classes", "class2,class0", "--out", tmp_path / "samples.png").stdout
    assert "3 samples of 2 classes" in drawn
    refused = sivae(*command, *more, images, "--run-dir", tmp_path / "bare", code=1, folder=code)
    assert f"{images} has no labels, which model.conditional=true needs" in refused.stderr
    assert "  class_names:\n  - class0\n  - class1\n  - class2\n" in (path / "config.yaml").read_text()


def test_a_data_set_that_is_drawn(tmp_path: Path) -> None:
    path, code = tmp_path / "run", tmp_path / "code"
    command = written("moons.py", code)
    short = ("schedule.images=64", "schedule.batch=16", "device=cpu", "checkpoint.every=32", "objective.warmup=16",
             "monitoring.scalars_every=16", "monitoring.images_every=64", "--run-dir", path)  # fmt: skip
    sivae(*command, *short, "--nproc", 2, folder=code)
    assert (path / "figures" / "training" / "sample_ema-000000000064.png").exists()
    checkpoint = CheckpointFolder(path / "checkpoints").readable()[-1]
    assert checkpoint.images == 64 and checkpoint.meta.data == "moons, 1000"
    assert checkpoint.load()["decoder.layers.2.bias"].shape == (2,)
