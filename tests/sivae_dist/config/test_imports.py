"""Models of somebody else's, by `--import`: found by name, recorded, and needed again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.imports import import_all, located
from sivae_dist.config.run_settings import load_config
from tests.command import sivae
from tests.helpers import random_set

DENSE = '''
"""Dense networks of one resolution, which are told the class of an image."""
from typing import Literal

import torch
from torch import nn

from sivae_dist.models import MODELS, Decoder, Encoder, ModelSettings


class DenseEncoder(Encoder):
    def __init__(self, settings):
        super().__init__()
        self.classes = settings.classes
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 64, 16), nn.Tanh()
        )
        self.last = nn.Linear(16 + self.classes, 2 * settings.latent)

    def forward(self, x, cond):
        told = nn.functional.one_hot(cond.label, self.classes).to(x.dtype)
        return self.last(torch.cat((self.layers(x), told), 1)).float().chunk(2, 1)


class DenseDecoder(Decoder):
    def __init__(self, settings):
        super().__init__()
        self.classes = settings.classes
        self.layers = nn.Sequential(nn.Linear(settings.latent + self.classes, 16), nn.Tanh(), nn.Linear(16, 3 * 64))

    def forward(self, z, cond, noise=None):
        told = nn.functional.one_hot(cond.label, self.classes).to(z.dtype)
        return self.layers(torch.cat((z, told), 1)).float().unflatten(1, (3, 8, 8))


@MODELS.add("dense")
class DenseSettings(ModelSettings):
    name: Literal["dense"] = "dense"
    latent: int = 4
    labels: int = 3
    """Classes of the data set."""

    @property
    def resolutions(self):
        return [8]

    @property
    def classes(self):
        return self.labels

    def shape(self, resolution):
        return 3, 8, 8

    def networks(self):
        return DenseEncoder(self), DenseDecoder(self)
'''


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "dense_models.py"
    path.parent.mkdir()
    path.write_text(DENSE)
    return path


def settings(data: Path, *more: str) -> tuple[str, ...]:
    return (
        "model={name: dense}", "schedule.images=48", "schedule.batch=8", "device=cpu", "objective.warmup=16",
        "checkpoint.every=16", "monitoring.images_every=24", "monitoring.scalars_every=8", f"data.path={data}", *more,
    )  # fmt: skip


def labelled_set(path: Path) -> Path:
    source = path.with_name("source")
    for k in range(24):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (source / f"class{k % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(source / f"class{k % 3}" / f"{k}.png")
    prepare(source, path, PrepareSettings(resolution=8, labels="folders"))
    return path


def test_a_class_conditional_model_of_ones_own(dense: Path, tmp_path: Path) -> None:
    data, path, again = labelled_set(tmp_path / "set"), tmp_path / "run", tmp_path / "again"
    # By name from the folder that it is in; from elsewhere the run knows where that was.
    by_name = ("--import", "dense_models", "--run-dir", path, "--nproc", 2)
    sivae("train", "tiny", *settings(data), *by_name, folder=dense.parent)
    recorded = (path / "config.yaml").read_text()
    assert str(dense) in recorded and "name: dense" in recorded
    checkpoints = CheckpointFolder(path / "checkpoints").readable()
    first, last = checkpoints[0].load(), checkpoints[-1].load()
    assert checkpoints[-1].images == 48
    told = [tensors["decoder.layers.0.weight"][:, 4:] for tensors in (first, last)]
    assert not torch.equal(*told)  # the labels' weights are trained
    assert (path / "figures" / "training" / "sample-000000000048.png").exists()
    # On one process, from its file, in two pieces: the same run.
    for images in (24, 48):
        given = ("--import", dense, "--run-dir", again, "--nproc", 1)
        sivae("train", "tiny", *settings(data, f"schedule.images={images}"), *given)
    other = CheckpointFolder(again / "checkpoints").readable()[-1].load()
    for name, tensor in last.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)
    assert "3 samples" in sivae("sample", path, "--count", 3, "--out", tmp_path / "samples.png").stdout


def test_a_set_without_labels_is_refused(dense: Path, tmp_path: Path) -> None:
    given = settings(random_set(tmp_path / "bare"))
    refused = sivae("train", "tiny", *given, "--import", dense, "--run-dir", tmp_path / "run", code=1)
    assert f"{tmp_path / 'bare'} has no labels, and the model is told 3 classes" in refused.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, r"imports: there is no file .*missing\.py"),
        ("no_such_module_at_all", None, "imports: there is no module no_such_module_at_all on Python's path or in "),
        ("broken_one.py", "import no_such_library", "needs no_such_library, which is not installed"),
        ("wrong_one.py", "1 / 0", r"wrong_one\.py cannot be imported: ZeroDivisionError: division by zero"),
        ("json.py", "", r"json\.py is hidden by .*json/__init__\.py, of the same name: rename one of them"),
    ],
)
def test_what_cannot_be_imported(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    given = str(tmp_path / name) if name.endswith(".py") else name
    with pytest.raises(ValueError, match=message):
        load_config("tiny", ["data.path=x", f"imports=[{given}]"])


def test_a_module_of_a_package_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kinds_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("SIZE = 3")
    (package / "models.py").write_text("from .sizes import SIZE")
    import_all([str(package / "models.py")])
    monkeypatch.chdir(tmp_path)
    import_all(["kinds_of_mine.models"])
    assert located("kinds_of_mine.models") == str(package / "models.py")
    assert located("json") == "json"  # which is found from anywhere


def test_a_name_that_is_taken(dense: Path) -> None:
    other = dense.with_name("dense_again.py")
    other.write_text(DENSE)
    with pytest.raises(ValueError, match=r"there is a model dense already: dense_models\.DenseSettings"):
        load_config("tiny", ["data.path=x", f"imports=[{dense}, {other}]"])
