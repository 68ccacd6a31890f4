"""Pairs: the other image of the same class that stands at each position, and how it is read."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.dataset import SAME_CLASS, Batch, Needs, Request, SampleError
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.loader import Loader
from data_pipelines.images.loaders import LOADERS
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.pairs import Pairs
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Directory
from data_pipelines.points.dataset import PointSettings
from tests.helpers import CPU, labelled_set
from tests.prepared import replace_image

SEED = 3
ASKED = (SAME_CLASS,)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of three classes, of which the last six are for testing; 4 px are arrays, 8 px tars of 7 images."""
    return labelled_set(tmp_path_factory.mktemp("pairs") / "set", samples=30, test=6, array_max_resolution=4)


def make(root: Path, loader: str = "cpu", **changes: Any) -> Loader:
    settings = ImageSettings.model_validate({"path": str(root), "loader": loader} | changes)
    return LOADERS[loader](settings, Directory(root), Manifest.load(root), SEED, CPU)


def batches(root: Path, requests: Sequence[Request], loader: str = "cpu", **changes: Any) -> list[Batch]:
    made = make(root, loader, **changes)
    try:
        return list(made.batches(requests))
    finally:
        made.close()


def others(found: Sequence[Batch]) -> Tensor:
    return torch.cat([batch.extra[SAME_CLASS] for batch in found])


# What is drawn.


def test_uniform_over_the_others_of_the_class() -> None:
    labels = np.array([0, 2, 2, 0, 5, 2, 2, 2, 0, 2, 2])  # class 5 has one sample; 1, 3 and 4 have none
    pairs = Pairs(labels, SEED, flip=True)
    for sample, label in enumerate(labels.tolist()):
        drawn, flips = pairs.at(1000 * sample, np.full(3000, sample))
        others = set(np.flatnonzero(labels == label).tolist()) - {sample} or {sample}
        counts = Counter(drawn.tolist())
        assert counts.keys() == others
        expected = 3000 / len(others)  # standard deviations of at most 35 draws around it
        assert all(abs(count - expected) < 4.5 * expected**0.5 for count in counts.values())
        assert abs(flips.mean() - 0.5) < 4.5 * 0.5 / 3000**0.5
        # Which one it is says nothing of the flip.
        assert len(others) == 1 or all(0.4 < flips[drawn == other].mean() < 0.6 for other in others)


def test_drawn_from_seed_and_position_alone() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 40)
    samples = np.random.default_rng(1).integers(0, 40, 30)
    drawn, flips = Pairs(labels, SEED, flip=True).at(100, samples)
    again = Pairs(labels, SEED, flip=True)
    for k in range(30):
        one, flip = again.at(100 + k, samples[k : k + 1])
        assert (one[0], flip[0]) == (drawn[k], flips[k])
    assert (Pairs(labels, SEED + 1, flip=True).at(100, samples)[0] != drawn).any()
    plain, none = Pairs(labels, SEED, flip=False).at(100, samples)
    assert np.array_equal(plain, drawn) and not none.any() and flips.any()


def test_substitutes_are_the_rest_of_the_class() -> None:
    pairs = Pairs(np.array([0, 1, 1, 1, 1, 0]), SEED, flip=True)
    found = list(pairs.substitutes(9, 2, 3, most=16))
    assert sorted(found[:-1]) == [1, 4] and found[-1] == 2  # then itself
    assert found == list(pairs.substitutes(9, 2, 3, most=16))
    assert {tuple(pairs.substitutes(position, 2, 3, most=1)) for position in range(30)} == {(1,), (4,)}
    assert list(pairs.substitutes(9, 0, 5, most=16)) == [0]


# How it is read.


def expected(root: Path, position: int, count: int, resolution: int, flip: bool = True) -> Tensor:
    """The others image by image."""
    loader = make(root, flip=flip)
    reader = Reader(Directory(root), loader.manifest, resolution)
    numbers, mirrored = loader.pairs.at(position, loader.order.at(position, count)[0])
    assert loader.labels is not None
    assert (loader.labels[numbers] == loader.labels[loader.order.at(position, count)[0]]).all()
    assert numbers.max() < loader.manifest.train
    loader.close()
    pixels = reader.pixels(numbers).astype(np.float32)
    images = [one[:, :, ::-1] if mirror else one for one, mirror in zip(pixels, mirrored, strict=True)]
    return torch.from_numpy(np.stack(images) / 127.5 - 1)


@pytest.mark.parametrize("resolution", [4, 8])
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("flip", [True, False])
def test_the_same_for_any_batches_and_threads(root: Path, resolution: int, loader: str, flip: bool) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    requests = [Request(20 + 6 * k, 6, resolution, ASKED) for k in range(8)]  # two epochs
    (whole,) = batches(root, [Request(20, 48, resolution, ASKED)], loader, flip=flip)
    parts = batches(root, requests, loader, flip=flip, threads=3, prefetch=5)
    torch.testing.assert_close(others([whole]), expected(root, 20, 48, resolution, flip), rtol=0, atol=1e-6)
    assert torch.equal(others(parts), others([whole]))
    assert whole.extra[SAME_CLASS].dtype == torch.float32 and whole.extra[SAME_CLASS].is_contiguous()
    resumed = batches(root, requests[3:], loader, flip=flip)
    assert torch.equal(others(resumed), others([whole])[18:])


@pytest.mark.parametrize("resolution", [4, 8])
def test_what_nobody_asks_for_is_not_read(root: Path, resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (asked,) = batches(root, [Request(5, 24, resolution, ASKED)])
    monkeypatch.setattr("data_pipelines.images.loader.Pairs", None)
    loader = make(root)
    (batch,) = loader.batches([Request(5, 24, resolution)])
    assert torch.equal(batch.x, asked.x) and batch.y is not None and torch.equal(batch.y, asked.y)  # type: ignore[arg-type]
    assert batch.extra == {} and asked.extra.keys() == {SAME_CLASS}
    assert loader.decoded == (24 if resolution == 8 else 0)
    assert "pairs" not in vars(loader)
    loader.close()


def test_all_shards_stay_open_where_pairs_are_read(tmp_path: Path) -> None:
    root = labelled_set(tmp_path / "set", samples=80, shard_size=2, array_max_resolution=4)
    for asked, count in ((ASKED, 40), ((), 32)):
        loader = make(root)
        for _ in loader.batches(Request(20 * k, 20, 8, asked) for k in range(8)):
            pass
        assert len(loader.reader(8).opened()) == count
        loader.close()


# Damage.


QUARANTINE: dict[str, Any] = {"faults": "quarantine", "max_faults": 1.0}
WHOLE = [Request(0, 24, 8, ASKED), Request(24, 24, 8, ASKED), Request(48, 24, 8, ASKED)]


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """Of the data set, to be damaged."""
    return Path(shutil.copytree(root, tmp_path / "set"))


def numbers_of(root: Path, found: Sequence[Batch]) -> list[tuple[int, int]]:
    """Sample numbers of each pair, by their pixels."""
    pixels = Reader(Directory(root), Manifest.load(root), 8).read(range(30))[0].astype(np.float32) / 127.5 - 1
    known = {one.tobytes(): k for k, image in enumerate(pixels) for one in (image, image[:, :, ::-1])}
    return [
        (known[x.numpy().tobytes()], known[other.numpy().tobytes()])
        for batch in found
        for x, other in zip(batch.x, batch.extra[SAME_CLASS], strict=True)
    ]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_damaged_other_is_replaced_within_its_class(root: Path, copy: Path, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    replace_image(copy, b"no image", row=3, name="0008/shard-00001.tar")  # sample 10
    sound, found = numbers_of(root, batches(root, WHOLE)), batches(copy, WHOLE, loader, **QUARANTINE)
    pairs = numbers_of(root, found)
    labels = np.load(root / "labels.npy")
    assert all(labels[x] == labels[other] and x != other for x, other in pairs)
    assert all(10 not in pair for pair in pairs)
    changed = [place for place, pair in enumerate(sound) if pair[0] != 10 and pair[1] == 10]
    assert len(changed) > 2
    replaced = [one for batch in found for one in batch.replaced]
    assert {one.sample for one in replaced} == {10} and all(" (sample 10) cannot" in one.reason for one in replaced)
    assert sorted(one.position for one in replaced if one.extra is None) == [
        place for place, pair in enumerate(sound) if pair[0] == 10
    ]
    # A substitute of x has an other of its own class.
    assert set(changed) <= {one.position for one in replaced if one.extra == SAME_CLASS}
    untouched = set(range(72)) - {one.position for one in replaced}
    assert all(pairs[place] == sound[place] for place in untouched)
    parts = batches(copy, [Request(8 * k, 8, 8, ASKED) for k in range(9)], "cpu", **QUARANTINE, threads=3)
    assert torch.equal(others(parts), others(found))
    assert {one for batch in parts for one in batch.replaced} == set(replaced)


def test_a_damaged_other_is_fatal_and_named(root: Path, copy: Path) -> None:
    """Where the image itself is not in the batch."""
    (place,) = [k for k, pair in enumerate(numbers_of(root, batches(root, WHOLE[:1]))) if pair[1] == 10][:1]
    replace_image(copy, b"no image", row=3, name="0008/shard-00001.tar")
    assert batches(copy, [Request(place, 1, 8)])[0].replaced == ()
    with pytest.raises(SampleError, match=r"0008/shard-00001\.tar key \d+ \(sample 10\) cannot be decoded"):
        batches(copy, [Request(place, 1, 8, ASKED)])


def small(folder: Path) -> Path:
    """Two ants, one bee."""
    for i, name in enumerate(("ant", "ant", "bee")):
        path = folder / "source" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 50 * i, np.uint8)).save(path)
    prepare(folder / "source", folder / "set", PrepareSettings(resolution=8, array_max_resolution=4))
    return folder / "set"


def test_an_only_image_stands_for_itself(tmp_path: Path) -> None:
    root = small(tmp_path)
    for batch in batches(root, [Request(3 * k, 3, 8, ASKED) for k in range(4)]):
        x, other = (
            ((some.mean(dim=(1, 2, 3)) + 1) * 127.5).round().int().tolist() for some in (batch.x, others([batch]))
        )
        assert [{0: 50, 50: 0, 100: 100}[one] for one in x] == other


def test_so_does_the_last_one_that_can_be_read(tmp_path: Path) -> None:
    root = small(tmp_path)
    replace_image(root, b"no image", row=1, name="0008/shard-00000.tar")
    for batch in batches(root, [Request(3 * k, 3, 8, ASKED) for k in range(4)], **QUARANTINE):
        assert torch.equal(batch.x.mean(dim=(1, 2, 3)), others([batch]).mean(dim=(1, 2, 3)))
        assert {one.extra for one in batch.replaced} == {None, SAME_CLASS}


# Refusals and warnings.


def test_a_set_without_labels_is_refused(data: Path) -> None:
    needs = Needs({8: (3, 8, 8)}, extra=ASKED)
    with ImageSettings(path=str(data)).open(SEED, CPU) as opened:
        opened.check(Needs({8: (3, 8, 8)}))
        with pytest.raises(
            ValueError, match=r"^.* has no labels, but the model's class encoder .*from=itself$"
        ) as caught:
            opened.check(needs)
        assert "\n" not in str(caught.value)
    with (
        PointSettings(distribution="8gaussians").open(SEED, CPU) as points,
        pytest.raises(ValueError, match="no labels"),
    ):
        points.check(Needs({1: (2,)}, extra=ASKED))
    with pytest.raises(ValueError, match="has no labels"):
        batches(data, [Request(0, 4, 8, ASKED)])


def test_an_unknown_input_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"set has no partner$"):
        batches(root, [Request(0, 4, 8, ("partner",))])
    with ImageSettings(path=str(root)).open(SEED, CPU) as opened:
        opened.check(Needs({8: (3, 8, 8)}, extra=ASKED))
        with pytest.raises(ValueError, match="has no partner, which the model needs"):
            opened.check(Needs({8: (3, 8, 8)}, extra=("partner", *ASKED)))


def test_classes_with_one_image_are_named(root: Path, tmp_path: Path) -> None:
    with ImageSettings(path=str(small(tmp_path))).open(SEED, CPU) as opened:
        (line,) = opened.warnings(Needs({8: (3, 8, 8)}, extra=ASKED))
        assert line.startswith("1 of the 2 classes of ") and line.endswith(" another one of the class: bee")
        assert opened.warnings(Needs({8: (3, 8, 8)})) == []
    with ImageSettings(path=str(root)).open(SEED, CPU) as opened:
        assert opened.warnings(Needs({8: (3, 8, 8)}, extra=ASKED)) == []
