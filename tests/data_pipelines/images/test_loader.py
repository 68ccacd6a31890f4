import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.dataset import Request, SampleError
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.loader import Loader, at_once, to_images
from data_pipelines.images.manifest import FileRecord, Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Directory
from data_pipelines.order import Order

TRAIN, TEST = 30, 6
SEED = 2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 images, 6 of them for testing; 4 and 8 px are arrays, 16 px tars."""
    folder = tmp_path_factory.mktemp("loader")
    (folder / "source").mkdir()
    for i in range(TRAIN + TEST):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "source" / f"{i:02d}.png")
    prepare(
        folder / "source",
        folder / "set",
        PrepareSettings(resolution=16, array_max_resolution=8, shard_size=4, test=TEST),
    )
    return folder / "set"


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """Of the data set, to be damaged."""
    return Path(shutil.copytree(root, tmp_path / "set"))


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = loader_threads()
    yield
    assert not loader_threads() - before


def loader_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("loader")}


def make(root: Path, **changes: Any) -> Loader:
    settings = ImageSettings.model_validate({"path": str(root)} | changes)
    return Loader(settings, Directory(root), Manifest.load(root), SEED, CPU)


def expected(root: Path, request: Request, flip: bool = True) -> Tensor:
    """A batch image by image: the reader's pixels in the order's order, mirrored where the order says so."""
    manifest = Manifest.load(root)
    order = Order([shard.samples for shard in manifest.shards if shard.split == "train"], SEED, flip)
    reader = Reader(Directory(root), manifest, request.stage)
    images = []
    for sample, flipped in zip(*order.at(request.position, request.count), strict=True):
        assert sample < TRAIN
        pixels = reader.pixels([sample])[0].astype(np.float32)
        images.append((pixels[:, :, ::-1] if flipped else pixels) / 127.5 - 1)
    return torch.from_numpy(np.stack(images))


REQUESTS = [
    Request(position, count, resolution)
    for position, count, resolution in [
        (0, 8, 4), (8, 8, 4), (16, 8, 8), (24, 12, 8), (36, 6, 16), (42, 6, 16), (48, 30, 16), (78, 3, 8), (81, 4, 16),
    ]
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("prefetch", [1, 4, 50])
@pytest.mark.parametrize("flip", [True, False])
def test_batches(root: Path, no_thread_left: None, threads: int, prefetch: int, flip: bool) -> None:
    """Over the end of an epoch and changes of the resolution."""
    loader = make(root, threads=threads, prefetch=prefetch, flip=flip)
    batches = [batch.x for batch in loader.batches(REQUESTS)]
    assert len(batches) == len(REQUESTS)
    for request, batch in zip(REQUESTS, batches, strict=True):
        assert batch.dtype == torch.float32
        assert batch.shape == (request.count, 3, request.stage, request.stage)
        torch.testing.assert_close(batch, expected(root, request, flip), rtol=0, atol=1e-6)
    assert loader.decoded == sum(request.count for request in REQUESTS if request.stage == 16)
    assert loader.wait_seconds > 0
    loader.close()


def test_flips_are_some(root: Path) -> None:
    loader = make(root)
    plain = make(root, flip=False)
    request = Request(0, 30, 8)
    (batch, *_), (unflipped, *_) = (next(iter(each.batches([request]))) for each in (loader, plain))
    same = (batch == unflipped).all(dim=(1, 2, 3))
    mirrored = (batch == unflipped.flip(3)).all(dim=(1, 2, 3))
    assert (same ^ mirrored).all() and 5 < same.sum() < 25
    loader.close()
    plain.close()


def test_processes_share_a_batch(root: Path) -> None:
    whole, *ranks = (make(root) for _ in range(3))
    (batch,) = whole.batches([Request(24, 12, 16)])
    slices = [part for k, loader in enumerate(ranks) for part in loader.batches([Request(24 + 6 * k, 6, 16)])]
    assert torch.equal(torch.cat([part.x for part in slices]), batch.x)
    assert [part.position for part in (batch, *slices)] == [24, 24, 30]
    for loader in (whole, *ranks):
        loader.close()


def test_to_images() -> None:
    pixels = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8).expand(2, 1, 2, 2)
    plain = torch.tensor([[-1.0, 1.0], [-0.6, 0.6]])
    torch.testing.assert_close(to_images(pixels), plain.expand(2, 1, 2, 2))
    mixed = to_images(pixels, torch.tensor([True, False]))
    torch.testing.assert_close(mixed, torch.stack((plain.flip(1), plain))[:, None])


@pytest.mark.parametrize("flips", [None, torch.tensor([True, False, False, True])])
def test_to_images_is_the_same_on_every_device(flips: Tensor | None) -> None:
    """As far as that can be tried without one: what another device does, done on the CPU."""
    side = 128  # a size at which the CPU goes another way
    drawn = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    images = to_images(pixels, flips)
    assert images.is_contiguous()
    elsewhere = at_once(pixels, flips)
    assert elsewhere.is_contiguous() and torch.equal(images, elsewhere)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_is_read_ahead_than_asked(root: Path, prefetch: int) -> None:
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for request in REQUESTS:
            taken += 1
            yield request

    loader = make(root, prefetch=prefetch)
    for used, _ in enumerate(loader.batches(requests()), start=1):
        assert taken == min(used + prefetch, len(REQUESTS))
    loader.close()


def test_no_request_no_batch(root: Path) -> None:
    loader = make(root)
    assert list(loader.batches([])) == []
    loader.close()


def damage(root: Path) -> tuple[str, int]:
    """Changes a byte inside the first training image of the second shard; its file's name and sample number."""
    path = root / "0016" / "shard-00001.tar"
    index = np.load(path.with_name("shard-00001.index.npy"))
    data = bytearray(path.read_bytes())
    data[int(index["offset"][0]) + int(index["size"][0]) // 2] ^= 0xFF
    path.write_bytes(data)
    return path.name, 4


@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_shard_ends_the_batches(copy: Path, no_thread_left: None, threads: int) -> None:
    name, sample = damage(copy)
    loader = make(copy, threads=threads, prefetch=3)
    order = loader.order.at(0, TRAIN)[0]
    place = int(np.flatnonzero(order == sample)[0])
    batches = loader.batches(Request(position, 1, 16) for position in range(TRAIN))
    for position in range(place):  # those before it come as if nothing were wrong
        torch.testing.assert_close(next(batches).x, expected(copy, Request(position, 1, 16)), rtol=0, atol=1e-6)
    with pytest.raises(SampleError, match=rf"{name} key {sample:08d} \(sample {sample}\) is damaged"):
        next(batches)
    loader.close()


def test_damage_elsewhere_is_not_noticed(root: Path, copy: Path) -> None:
    damage(copy)
    loader, request = make(copy), Request(0, TRAIN, 8)
    (batch,) = loader.batches([request])
    torch.testing.assert_close(batch.x, expected(root, request), rtol=0, atol=1e-6)
    loader.close()


def test_missing_level(root: Path) -> None:
    loader = make(root)
    with pytest.raises(ValueError, match="no level 32: it has 4, 8, 16"):
        next(loader.batches([Request(0, 1, 32)]))
    loader.close()


def test_closing_in_the_middle_ends_the_threads(root: Path, no_thread_left: None) -> None:
    before = loader_threads()
    loader = make(root, threads=3, prefetch=50)
    batches = loader.batches(Request(8 * k, 8, 16) for k in range(100))
    next(batches)
    assert loader_threads() - before
    loader.close()
    assert not loader_threads() - before


# Labels.


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 grey images in three classes; each one's brightness is 60 times its label, plus its number."""
    folder = tmp_path_factory.mktemp("labelled")
    for i in range(30):
        name = folder / "source" / ("ant", "bee", "cat")[i % 3] / f"{i:02d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), 60 * (i % 3) + i, np.uint8)).save(name)
    settings = PrepareSettings(resolution=16, array_max_resolution=8, shard_size=4, test=6, channels=1)
    prepare(folder / "source", folder / "set", settings)
    return folder / "set"


@pytest.mark.parametrize("resolution", [8, 16])
def test_labels_travel_with_their_images(labelled: Path, resolution: int) -> None:
    loader = make(labelled)
    seen = []
    for batch in loader.batches(Request(8 * k, 8, resolution) for k in range(6)):
        assert batch.y is not None and batch.y.dtype == torch.int64 and batch.y.shape == (8,)
        brightness = ((batch.x.mean(dim=(1, 2, 3)) + 1) * 127.5).round().long()
        assert (brightness % 60 < 30).all() and torch.equal(brightness // 60, batch.y)
        seen += batch.y.tolist()
    assert set(seen) == {0, 1, 2}
    loader.close()


def test_the_label_of_a_substitute_is_its_own(labelled: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(labelled, tmp_path / "set"))
    damage(root)
    loader = make(root, faults="quarantine", max_faults=1.0)
    for batch in loader.batches(Request(8 * k, 8, 16) for k in range(6)):
        assert batch.y is not None
        brightness = ((batch.x.mean(dim=(1, 2, 3)) + 1) * 127.5).round().long()
        assert torch.equal(brightness // 60, batch.y)
        for replaced in batch.replaced:
            assert replaced.sample == 4 and "sample 4" in replaced.reason
    loader.close()


def test_no_labels(root: Path) -> None:
    loader = make(root)
    assert next(loader.batches([Request(0, 4, 8)])).y is None
    loader.close()


@pytest.mark.parametrize("content", ["flipped", "short", "gone"])
def test_damaged_labels_are_found(labelled: Path, tmp_path: Path, content: str) -> None:
    root = Path(shutil.copytree(labelled, tmp_path / "set"))
    path = root / "labels.npy"
    data = bytearray(path.read_bytes())
    place = data.rindex(bytes(8))  # a label 0, which becomes a 1
    data[place] = 1
    path.write_bytes({"flipped": data, "short": path.read_bytes()[:-8], "gone": b""}[content])
    with pytest.raises(ValueError, match=r"labels\.npy is damaged"):
        make(root)


# Substitutes.


def test_substitutes_are_other_training_samples(root: Path) -> None:
    order = make(root).order
    found = [order.substitute(position, attempt) for position in range(50) for attempt in range(4)]
    assert set(found) == set(range(TRAIN))
    assert found == [order.substitute(position, attempt) for position in range(50) for attempt in range(4)]
    assert all(len({order.substitute(position, a) for a in range(16)}) > 5 for position in range(50))


def test_when_nothing_can_be_read_the_batches_end(copy: Path) -> None:
    for path in (copy / "0016").glob("*.tar"):
        path.unlink()
    loader = make(copy, faults="quarantine", max_faults=1.0)
    with pytest.raises(SampleError, match="No such file"):
        next(loader.batches([Request(0, 1, 16)]))
    loader.close()


class OutOfReach(Directory):
    """A place from which no shard can be had."""

    def file(self, record: FileRecord) -> Path:
        raise OSError(f"{self.name(record)} could not be fetched")


@pytest.mark.parametrize("resolution", [8, 16])
def test_what_cannot_be_fetched_is_no_damage(root: Path, resolution: int) -> None:
    """It ends the run in its own words, under quarantine too: the data may be sound."""
    settings = ImageSettings(path=str(root), faults="quarantine", max_faults=1.0)
    loader = Loader(settings, OutOfReach(root), Manifest.load(root), SEED, CPU)
    with pytest.raises(OSError, match=r"shard-\d+\.(index\.)?npy could not be fetched$"):
        next(loader.batches([Request(0, 4, resolution)]))
    loader.close()


# Resources.


@pytest.mark.slow
def test_files_and_memory_do_not_grow_with_phases(root: Path) -> None:
    """Levels that are done with are let go of; what was decoded there is still counted."""
    loader = make(root, prefetch=2)

    def in_use() -> int:
        gc.collect()
        return sum(str(root) in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if alive(fd))

    def alive(fd: str) -> bool:
        return os.path.lexists(f"/proc/self/fd/{fd}")

    def mapped() -> int:
        return sum(str(root) in line for line in Path("/proc/self/maps").read_text().splitlines())

    held = []
    for _ in range(3):
        for resolution in (4, 8, 16):
            for _batch in loader.batches(Request(position, 6, resolution) for position in range(0, 60, 6)):
                pass
            held.append((resolution, in_use(), mapped()))
    assert {files for resolution, files, _ in held if resolution == 16} == {8}  # one a shard
    assert {(files, maps) for resolution, files, maps in held if resolution < 16} == {(8, 8)}
    assert {maps for resolution, _, maps in held if resolution == 16} == {0}
    assert loader.decoded == 3 * 60
    loader.close()
    assert in_use() == 0 and mapped() == 0
