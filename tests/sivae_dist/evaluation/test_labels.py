"""Evaluation of models that are told the class: which classes are drawn, and what is recorded of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.ranges import to_uint8, to_unit
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.evaluation.streams import Streams, drawn_labels
from sivae_dist.models import Stage
from sivae_dist.models.style import StyleSettings
from sivae_dist.use.pretrained import Pretrained
from tests.helpers import CPU, labelled_set, on_processes, random_set, tiny_settings

MODEL = StyleSettings(
    resolution=8, latent=8, base_width=4, max_width=8, encoder_mapping=2, decoder_mapping=2, to_rgb_gain=1.0,
    conditional=True, class_names=("ant", "bee", "cat"),
)  # fmt: skip
SETTINGS = EvaluationSettings(
    samples=20, batch=4, seed=5, metrics=["fid", "mse"], extractor="inception-v3-random", layer="64"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ten ants, ten bees and three cats."""
    folder = tmp_path_factory.mktemp("data")
    labelled_set(folder / "even", samples=30)
    for file in sorted((folder / "even-source" / "cat").iterdir())[3:]:
        file.unlink()
    prepare(folder / "even-source", folder / "set", PrepareSettings(resolution=8, labels="folders", test=4))
    return folder / "set"


def opened(path: Path) -> Dataset:
    return tiny_settings(path).data.open(0, CPU)


def model() -> Pretrained:
    return Pretrained(MODEL, *MODEL.build(0), Stage(8), 1000)


def test_the_training_samples_of_each_class_are_counted(path: Path) -> None:
    with opened(path) as data:
        own = np.load(path / "labels.npy")[: data.train]
        assert data.class_counts().tolist() == np.bincount(own).tolist()
        assert Dataset.class_counts(data).tolist() == data.class_counts().tolist()  # as other kinds of data count


def test_without_labels_there_are_no_counts(tmp_path: Path) -> None:
    with opened(random_set(tmp_path / "set", samples=8)) as data:
        assert data.class_counts().tolist() == [] == Dataset.class_counts(data).tolist()


def test_labels_follow_from_seed_and_number() -> None:
    shares, numbers = np.array([0.5, 0.0, 0.3, 0.2, 0.0]), np.arange(2000)
    labels = drawn_labels(shares, numbers, 7)
    assert labels.dtype == torch.int64
    assert torch.equal(drawn_labels(shares, numbers[300:310], 7), labels[300:310])
    assert (drawn_labels(shares, numbers, 8) != labels).any()
    found = np.bincount(labels.numpy(), minlength=5) / len(numbers)
    assert found[1] == found[4] == 0 and np.abs(found - shares).max() < 0.04


def test_samples_have_the_training_sets_frequencies(path: Path) -> None:
    told = model()
    with opened(path) as data:
        counts = data.class_counts()
        drawn = torch.cat(list(Streams(SETTINGS, data).samples(told)))
    labels = drawn_labels(counts / counts.sum(), np.arange(20), 5)
    want = to_uint8(told.decode(told.latents(0, 20, 5), labels))
    assert ((drawn.int() - want.int()).abs() <= 1).all()
    assert len(set(labels.tolist())) == 3


def _drawn(path: Path) -> Tensor:
    with opened(path) as data:
        return torch.cat([images for images in Streams(SETTINGS, data).samples(model()) if len(images)])


@pytest.mark.slow
def test_processes_share_the_same_samples(path: Path) -> None:
    alone, shared = _drawn(path), on_processes(2, _drawn, path)
    for rank, images in enumerate(shared):
        assert ((images.int() - alone[rank::2].int()).abs() <= 1).all()


@pytest.mark.slow
def test_what_is_recorded(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = model()
    with opened(path) as data:
        evaluator = Evaluator(SETTINGS, data, CPU)
        assert evaluator.prepare() is None
        fid, mse = evaluator.evaluate(told)
        real = data.samples(8, range(data.train, data.train + data.test))
    assert fid["labels"] == "training frequencies" and "labels" not in mse
    errors = (to_unit(real.x) - to_unit(told.reconstruct(real.x, labels=real.y))).square()
    assert mse["value"] == pytest.approx(errors.mean().item(), rel=1e-5)


def test_labels_stay_with_their_images_when_some_are_damaged(path: Path) -> None:
    with opened(path) as data:
        found = data.samples(8, [0, 5, 9, 12])._replace(damaged={1: "it is"})
    sound = found.without_damaged()
    assert torch.equal(sound.x, found.x[[0, 2, 3]]) and torch.equal(sound.x, found.sound) and sound.damaged == {}
    assert found.y is not None and sound.y is not None and torch.equal(sound.y, found.y[[0, 2, 3]])
