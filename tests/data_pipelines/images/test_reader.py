import gc
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.dataset import SampleError
from data_pipelines.images import reader as module
from data_pipelines.images.decode import DecodeError, decode, encode
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Directory

COUNT = 40


def noise(i: int, side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """40 images in 8 training shards and 2 test shards; 4 and 8 are arrays, 16 and 32 tars."""
    (tmp_path / "source").mkdir()
    for i in range(COUNT):
        Image.fromarray(noise(i)).save(tmp_path / "source" / f"{i:02d}.png")
    settings = PrepareSettings(resolution=32, array_max_resolution=8, shard_size=4, test=8)
    prepare(tmp_path / "source", tmp_path / "set", settings)
    return tmp_path / "set"


def expected(resolution: int) -> NDArray[np.uint8]:
    size = 32 // resolution
    images = [noise(i).reshape(resolution, size, resolution, size, 3).mean(axis=(1, 3)) for i in range(COUNT)]
    return np.rint(images).astype(np.uint8).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("resolution", [4, 8, 16, 32])
def test_pixels_at_every_level(root: Path, resolution: int) -> None:
    reader = Reader(Directory(root), Manifest.load(root), resolution)
    order = np.random.default_rng(0).integers(0, COUNT, 100)
    pixels = reader.pixels(order)
    assert pixels.dtype == np.uint8 and pixels.shape == (100, 3, resolution, resolution)
    np.testing.assert_array_equal(pixels, expected(resolution)[order])
    assert reader.decoded == (100 if resolution > 8 else 0)
    assert reader.pixels(np.array([], np.int64)).shape == (0, 3, resolution, resolution)


def test_raw(root: Path) -> None:
    reader = Reader(Directory(root), Manifest.load(root), 32)
    np.testing.assert_array_equal(decoded(reader.raw(17)), expected(32)[17].transpose(1, 2, 0))
    with pytest.raises(ValueError, match="arrays"):
        Reader(Directory(root), Manifest.load(root), 8).raw(0)


@pytest.mark.parametrize("resolution", [8, 32])
def test_threads_with_few_open_shards(root: Path, monkeypatch: pytest.MonkeyPatch, resolution: int) -> None:
    monkeypatch.setattr(module, "OPEN_SHARDS", 2)
    reader = Reader(Directory(root), Manifest.load(root), resolution)
    want = expected(resolution)

    def read(seed: int) -> None:
        for round_number in range(15):
            order = np.random.default_rng([seed, round_number]).integers(0, COUNT, 16)
            np.testing.assert_array_equal(reader.pixels(order), want[order])

    files_before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read, range(8)))
    assert reader.decoded == (8 * 15 * 16 if resolution == 32 else 0)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= files_before + 2
    reader.close()
    assert len(os.listdir("/proc/self/fd")) <= files_before
    with pytest.raises(ValueError, match="closed"):
        reader.pixels(np.array([0]))


def test_damage_is_found_and_named(root: Path) -> None:
    manifest = Manifest.load(root)
    path = root / manifest.levels[32].files[2].name
    index = np.load(root / manifest.levels[32].indexes[2].name)
    data = bytearray(path.read_bytes())
    data[int(index["offset"][1]) + 100] ^= 1
    path.write_bytes(data)
    reader = Reader(Directory(root), manifest, 32)
    with pytest.raises(SampleError, match=rf"{path} key 00000009 \(sample 9\) is damaged") as error:
        reader.pixels(np.arange(COUNT))
    assert "\n" not in str(error.value)
    with pytest.raises(SampleError, match="sample 9"):
        reader.raw(9)
    others = np.delete(np.arange(COUNT), 9)
    np.testing.assert_array_equal(reader.pixels(others), expected(32)[others])


def test_missing_cut_and_strange_files(root: Path) -> None:
    manifest = Manifest.load(root)
    tar, index = (root / record[0].name for record in (manifest.levels[32].files, manifest.levels[32].indexes))
    array = root / manifest.levels[8].files[0].name
    whole = index.read_bytes()
    other = index.with_name("shard-00001.index.npy").read_bytes()
    for content, reason in (
        (whole[:-20], rf"it has {len(whole) - 20} bytes instead of {len(whole)}"),
        (b"", f"it has 0 bytes instead of {len(whole)}"),
        (other, "its checksum differs"),
    ):
        index.write_bytes(content)
        with pytest.raises(SampleError, match=rf"shard-00000\.index\.npy is damaged \({reason}\)"):
            Reader(Directory(root), manifest, 32).pixels([0])
    index.write_bytes(whole)
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(SampleError, match="bytes instead of"):
        Reader(Directory(root), manifest, 32).pixels([0])
    tar.unlink()
    with pytest.raises(SampleError, match="No such file"):
        Reader(Directory(root), manifest, 32).pixels([0])
    np.save(array, np.zeros((4, 3, 8, 4), np.uint8))
    with pytest.raises(SampleError, match="not uint8"):
        Reader(Directory(root), manifest, 8).pixels([0])
    array.unlink()
    with pytest.raises(SampleError, match="No such file"):
        Reader(Directory(root), manifest, 8).pixels([0])


def test_a_changed_pixel_in_an_array_is_found(root: Path) -> None:
    manifest = Manifest.load(root)
    path = root / manifest.levels[8].files[1].name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    reader = Reader(Directory(root), manifest, 8)
    pixels, faults = reader.read(np.arange(COUNT))
    assert sorted(faults) == [4, 5, 6, 7]
    assert all(
        re.search(r"shard-00001\.npy is damaged \(its checksum differs\)", str(fault)) for fault in faults.values()
    )
    others = np.delete(np.arange(COUNT), sorted(faults))
    np.testing.assert_array_equal(pixels[others], expected(8)[others])


def test_numbers_outside(root: Path) -> None:
    reader = Reader(Directory(root), Manifest.load(root), 8)
    for wrong in (-1, COUNT):
        with pytest.raises(IndexError, match=f"sample {wrong} is outside"):
            reader.pixels(np.array([0, wrong]))
    with pytest.raises(ValueError, match="no level 64: it has 4, 8, 16, 32"):
        Reader(Directory(root), Manifest.load(root), 64)


def decoded(data: bytes, height: int = 32, width: int = 32, channels: int = 3) -> NDArray[np.uint8]:
    out = np.full((height, width, channels), 77, np.uint8)
    decode(data, out)
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_and_decode(channels: int) -> None:
    pixels = noise(0)[..., :channels]
    np.testing.assert_array_equal(decoded(encode(pixels, "png", 95), channels=channels), pixels)
    smooth = np.repeat(np.repeat(noise(1, 4), 8, axis=0), 8, axis=1)[..., :channels]
    again = decoded(encode(smooth, "jpeg", 95), channels=channels)
    assert np.abs(again.astype(int) - smooth).mean() < 5
    with Image.open(io.BytesIO(encode(smooth, "jpeg", 95))) as image:
        np.testing.assert_array_equal(again, np.asarray(image).reshape(again.shape))


def test_decode_refuses() -> None:
    for file_format in ("png", "jpeg"):
        data = encode(noise(0), file_format, 95)
        for bad in (data[: len(data) // 2], data[:10]):
            with pytest.raises(DecodeError, match="cannot be decoded"):
                decoded(bad)
        for height, width in ((16, 32), (32, 16), (64, 64)):
            with pytest.raises(DecodeError):
                decoded(data, height, width)
    for bad in (b"", b"hello"):
        with pytest.raises(DecodeError, match="neither PNG nor JPEG"):
            decoded(bad)
    webp = io.BytesIO()
    Image.fromarray(noise(0)).save(webp, "WEBP")
    with pytest.raises(DecodeError, match="neither PNG nor JPEG"):
        decoded(webp.getvalue())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_png_of_other_pixels_is_refused(mode: str) -> None:
    data = io.BytesIO()
    grey = Image.fromarray(noise(0)[..., 0])
    (Image.fromarray(np.zeros((32, 32), np.uint16)) if mode == "I;16" else grey.convert(mode)).save(data, "PNG")
    if mode == "P":  # the same colours, stored otherwise
        assert decoded(data.getvalue()).shape == (32, 32, 3)
        return
    with pytest.raises(DecodeError):
        decoded(data.getvalue())
