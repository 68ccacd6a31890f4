import os
import pickle
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np
import pytest

from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.sources import ImageError, SourceError
from data_pipelines.images.sources.image import to_pixels
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import encoded, noise, small
from tests.helpers import begin, tiny_settings, train

JPEG_AND_WEBP = {
    f"{i:040x}".encode(): encoded(noise(i, 16 + i, 24), ("JPEG", "WEBP")[i % 2], quality=75) for i in range(12)
}


def write_lmdb(path: Path, values: Mapping[bytes, bytes], size: int = 1 << 20) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=size) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    (path / "lock.mdb").unlink()
    return path


def test_values_are_read_by_key_and_nothing_is_written(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", JPEG_AND_WEBP)
    before = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in path.iterdir()]
    for where in (path, path / "data.mdb"):
        source = pickle.loads(pickle.dumps(open_source(str(where))))
        assert list(source.listing.names) == [key.decode() for key in sorted(JPEG_AND_WEBP)]
        assert [source.read(i) for i in range(12)] == [JPEG_AND_WEBP[key] for key in sorted(JPEG_AND_WEBP)]
        assert source.listing.sizes.tolist() == [len(JPEG_AND_WEBP[key]) for key in sorted(JPEG_AND_WEBP)]
    assert [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in path.iterdir()] == before


def test_from_lmdb_to_a_trained_network(tmp_path: Path) -> None:
    """JPEG and WebP, neither square, in databases named as LSUN's."""
    write_lmdb(tmp_path / "bedroom" / "bedroom_train_lmdb", JPEG_AND_WEBP)
    write_lmdb(tmp_path / "bedroom" / "bedroom_val_lmdb", dict(list(JPEG_AND_WEBP.items())[:3]))
    manifest = prepare(tmp_path / "bedroom", tmp_path / "data", small(resolution=8, array_max_resolution=4))
    assert (manifest.train, manifest.test, manifest.classes) == (12, 3, ())
    names = (tmp_path / "data" / "names.txt").read_text().split()
    assert names[0] == f"train/{0:040x}" and names[12] == f"val/{0:040x}"
    stored = np.concatenate([np.load(tmp_path / "data" / file.name) for file in manifest.levels[4].files])
    for i, data in enumerate(JPEG_AND_WEBP.values()):
        pixels = to_pixels(data, 3)
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        if side % 4 == 0:  # otherwise no pixel is a mean of whole ones
            blocks = pixels[top : top + side, left : left + side].reshape(4, side // 4, 4, side // 4, 3)
            mean = blocks.astype(np.float64).mean(axis=(1, 3)).transpose(2, 0, 1)
            assert np.abs(stored[i] - mean).max() <= 0.51 + (side % 8 != 0)
    trainer = train(begin(tmp_path / "run", tiny_settings(tmp_path / "data")), steps=5)
    assert trainer.images == 40


@pytest.mark.parametrize("folders", [["a_train_lmdb", "b_train_lmdb"], ["a_train_lmdb", "b_val_lmdb"], ["a", "b", "c"]])
def test_which_of_several(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        write_lmdb(tmp_path / "l" / folder, {b"k": b"v"})
    with pytest.raises(SourceError, match=rf"l holds several databases, {', '.join(folders)}: give one"):
        open_source(str(tmp_path / "l"))
    assert list(open_source(str(tmp_path / "l" / folders[0])).listing.names) == ["k"]


def test_one_inside_a_folder(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "l" / "church_outdoor_train_lmdb", {b"k": b"v"})
    listing = open_source(str(tmp_path / "l")).listing
    assert list(listing.names) == ["k"] and listing.test is None


@pytest.mark.parametrize("key", [b"\xff\x00", b"new\nline", "\u202e".encode(), b"\x00\x00\x00\x07"])
def test_keys_that_are_no_text(tmp_path: Path, key: bytes) -> None:
    source = open_source(str(write_lmdb(tmp_path / "l", {key: b"1", b"plain": b"2"})))
    assert sorted(source.listing.names) == sorted([key.hex(), b"plain".hex()])
    assert source.read(list(source.listing.names).index(key.hex())) == b"1"


def test_values_that_are_no_images_are_named(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", JPEG_AND_WEBP | {b"length": b"12", b"odd": b"12"})
    with pytest.raises(PrepareError, match=r"^odd in .*l is not an image \(it is text\): .*--skip-unreadable"):
        prepare(path, tmp_path / "out", small())
    manifest = prepare(path, tmp_path / "out", small(skip_unreadable=True))
    assert manifest.skipped == ("odd",)
    assert manifest.found is not None
    assert manifest.found.passed_over["entries about the images"].examples == ("length",)


def test_one_of_several_resolutions_is_taken(tmp_path: Path) -> None:
    """As stylegan2-pytorch writes them."""
    sides = {8: encoded(noise(0, 8, 8)), 32: encoded(noise(1, 32, 32)), 128: encoded(noise(2, 128, 128))}
    values = {f"{side}-{i:05d}".encode(): data for side, data in sides.items() for i in range(3)}
    source = open_source(str(write_lmdb(tmp_path / "l", values | {b"length": b"3"})))
    assert list(source.listing.names) == ["128-00000", "128-00001", "128-00002"]
    assert source.read(2) == sides[128]
    assert source.found.passed_over["images of 8 px"].files == 3
    assert source.found.notes == ["its keys hold several resolutions of each image: 128 px is taken"]
    one = open_source(str(write_lmdb(tmp_path / "m", {b"256-%05d" % i: sides[8] for i in range(2)} | {b"x": sides[8]})))
    assert len(one) == 3


def test_pickled_values_are_explained_and_not_opened(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", {b"0": pickle.dumps((b"image", 3)), b"1": pickle.dumps((b"image", 4), 2)})
    with pytest.raises(PrepareError, match=r"^0 in .*it is a Python pickle: it is not opened because a pickle can run"):
        prepare(path, tmp_path / "out", small())


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", {b"k": b"v"})
    with pytest.raises(SourceError, match="is LMDB and has no sub-folders"):
        open_source(str(path), "folders")
    with pytest.raises(SourceError, match="is LMDB, but --member is for WebDataset"):
        open_source(str(path), member="jpg")


# Damage.


def test_empty(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"data\.mdb holds no images"):
        open_source(str(write_lmdb(tmp_path / "l", {})))


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.99])
def test_cut(tmp_path: Path, share: float) -> None:
    """A page that is not there would end the process, for the file is mapped into memory."""
    path = write_lmdb(tmp_path / "l", JPEG_AND_WEBP | {b"large": bytes(100_000)}) / "data.mdb"
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(SourceError, match=r"data\.mdb is (cut short|a damaged LMDB)") as error:
        open_source(str(path.parent))
    assert "\n" not in str(error.value)


def test_damaged_pages(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", JPEG_AND_WEBP) / "data.mdb"
    with lmdb.open(str(path.parent), readonly=True, lock=False) as environment:
        page = environment.stat()["psize"]
    data = bytearray(path.read_bytes())
    for start in range(2 * page, len(data), page):
        struct.pack_into("<H", data, start + 10, 0)  # pages of no kind
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"data\.mdb is a damaged LMDB database \(.*: get it again"):
        open_source(str(path.parent))


def test_changed_under_way(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", {b"k": b"first"})
    source = open_source(str(path))
    write_lmdb(path, {b"k": b"other value"})
    with pytest.raises(ImageError, match="has changed since it was listed"):
        source.read(0)


# Scale.


def test_listing_does_not_read_values(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "l", {b"%d" % i: bytes(4 << 20) for i in range(3)}, 1 << 24)
    tracemalloc.start()
    try:
        assert open_source(str(path)).listing.sizes.tolist() == [4 << 20] * 3
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_listing_takes_little_memory(tmp_path: Path) -> None:
    """LSUN's bedrooms are three million: bytes an entry are counted, without those of the values."""
    count = 200_000
    path = write_lmdb(tmp_path / "l", {b"%040d" % i: b"\xff\xd8\xff" + b"v" * 17 for i in range(count)}, 1 << 26)
    tracemalloc.start()
    try:
        source = open_source(str(path))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == count and source.listing.names[count - 1] == f"{count - 1:040d}"
    assert kept / count < 40 + 16 + 8  # name, its end, size
    assert most / count < 3 * 64
    assert len(pickle.dumps(source)) / count < 64
