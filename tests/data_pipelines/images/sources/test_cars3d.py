"""Cars3D from MATLAB files written here by the published format: axes, names, split, archives, damage."""

import gzip
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.annotations import contents_of
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareError, PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.cars3d import held_out
from data_pipelines.images.sources.matlab import Piece, find_bytes
from data_pipelines.images.sources.opening import open_source
from data_pipelines.images.store import Directory
from tests.data_pipelines.images.sources.making import tar_bytes, write_folder

SIDE = 8


def model(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3, 24, 4), np.uint8)


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    """An element with padding; a short one has its size beside its type."""
    if 0 < len(data) <= 4:
        return struct.pack(order + "I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(
    name: str, array: NDArray[np.uint8], order: str = "<", kind: int = 9, shape: tuple[int, ...] | None = None
) -> bytes:
    """A matrix of MATLAB's class `kind`. `shape`: what it claims."""
    dimensions = np.array(shape or array.shape, order + "i4").tobytes()
    parts = [(6, struct.pack(order + "II", kind, 0)), (5, dimensions), (1, name.encode()), (2, array.tobytes("F"))]
    return element(14, b"".join(element(k, data, order) for k, data in parts), order)


def mat(*variables: bytes, order: str = "<", compress: bool = True) -> bytes:
    header = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124, b" ") + (b"\0\1IM" if order == "<" else b"\1\0MI")
    packed = [zlib.compress(content) for content in variables]
    stored = [struct.pack(order + "II", 15, len(content)) + content for content in packed]
    return header + b"".join(stored if compress else variables)


def files(count: int = 3) -> dict[str, bytes]:
    return {f"car_{k:03d}_mesh.mat": mat(variable("im", model(k))) for k in range(count)}


def as_folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "cars", files() | {"list.txt": b"car_000_mesh\n"})


def as_unpacked(tmp_path: Path) -> Path:
    content = {f"data/cars/{name}": data for name, data in files().items()}
    return write_folder(tmp_path / "all", content | {"data/sprites/knight.mat": mat()})


def as_tar(tmp_path: Path) -> Path:
    content = {f"data/cars/{name}": data for name, data in reversed(files().items())}
    path = tmp_path / "nips2015-analogy-data.tar"
    path.write_bytes(tar_bytes({"data/sprites/knight.mat": mat()} | content | {"data/cars/list.txt": b""}))
    return path


def as_archive(tmp_path: Path) -> Path:
    path = tmp_path / "nips2015-analogy-data.tar.gz"
    path.write_bytes(gzip.compress(as_tar(tmp_path).read_bytes()))
    return path


@pytest.mark.parametrize("make", [as_folder, as_unpacked, as_tar, as_archive])
def test_a_set_has_models_as_classes_and_views_as_contents(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    lines: list[str] = []
    settings = PrepareSettings(resolution=SIDE)
    manifest = prepare(make(tmp_path), tmp_path / "set", settings, say=lines.append)
    assert any(line.endswith("Cars3D, 288 images") for line in lines)
    assert manifest.classes == ("car_000_mesh", "car_001_mesh", "car_002_mesh")
    assert (manifest.train, manifest.test) == (192, 96)
    views = [f"azimuth-{a:02d}-elevation-{e}" for a in range(24) for e in range(4)]
    assert contents_of(tmp_path / "set") == 3 * views
    names = (tmp_path / "set" / "names.txt").read_text().splitlines()
    assert names == [f"{'test' if k == 2 else 'train'}/car_00{k}_mesh/{view}" for k in range(3) for view in views]
    labels = np.load(tmp_path / "set" / "labels.npy")
    assert labels.tolist() == [k for k in range(3) for _ in range(96)]
    pixels = Reader(Directory(tmp_path / "set"), manifest, SIDE).pixels(range(288))  # [n, 3, height, width]
    expected = np.stack([model(k)[..., a, e] for k in range(3) for a in range(24) for e in range(4)])
    np.testing.assert_array_equal(pixels.transpose(0, 2, 3, 1), expected)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compress", [False, True])
def test_any_form_of_level_5_is_read(tmp_path: Path, order: str, compress: bool) -> None:
    other = variable("im", model(9)[:1, :1, :1, 0, 0], order, kind=8)  # not of bytes
    long = variable("a_long_name", model(9), order)
    content = mat(other, long, variable("im", model(5, 16), order), order=order, compress=compress)
    source = open_source(str(write_folder(tmp_path / "set", {"a.mat": content})))
    for position in (95, 0, 4 * 7 + 2):
        np.testing.assert_array_equal(source.read(position), model(5, 16)[..., position // 4, position % 4])
    assert source.listing.test is None  # a single model


def test_held_out_models_are_the_papers_number_and_its_share() -> None:
    assert [held_out(count) for count in (183, 1, 2, 14, 366)] == [20, 0, 1, 2, 40]


def test_labels_are_ignored_if_asked(tmp_path: Path) -> None:
    source = open_source(str(as_folder(tmp_path)), "none")
    assert source.listing.labels is None
    assert source.listing.test is not None
    with pytest.raises(SourceError, match="is Cars3D and has no sub-folders"):
        open_source(str(tmp_path / "cars"), "folders")


@pytest.mark.slow
def test_workers_and_the_kind_of_source_change_no_byte(tmp_path: Path) -> None:
    sources = {"one": (as_folder(tmp_path), 1), "three": (as_folder(tmp_path), 3), "tar": (as_tar(tmp_path), 1)}
    digests = []
    for name, (source, workers) in sources.items():
        prepare(source, tmp_path / name, PrepareSettings(resolution=SIDE, shard_size=50), workers)
        digests.append(Manifest.load(tmp_path / name).digest)
    assert len(set(digests)) == 1


def plain(array: NDArray[np.uint8], **form: object) -> bytes:
    return mat(variable("im", array, **form), compress=False)  # type: ignore[arg-type]


BROKEN = {
    "hdf5": (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "has the format of MATLAB 7.3 .*save it again"),
    "cut": (plain(model(1))[:-9], r"damaged MATLAB file \(a variable claims 18496 bytes, but the file ends before"),
    "cut short": (plain(model(1))[:150], "a variable claims"),
    "huge": (plain(model(1), shape=(2**31 - 1, 2**31 - 1, 3, 24, 4)), "im of shape .* has 18432 bytes of type 2"),
    "negative": (plain(model(1), shape=(-8, -8, 3, 24, 4)), "im of shape .* has 18432 bytes"),
    "wrong shape": (plain(model(1)[..., :3]), r"does not hold a model of Cars3D.*has the shape \(8, 8, 3, 24, 3\)"),
    "no array": (mat(variable("other", model(1))), "does not hold a model of Cars3D.*there is no im"),
    "no stream": (mat()[:128] + struct.pack("<II", 15, 8) + b"nonsense", "damaged MATLAB file .*incorrect header"),
    "bomb": (
        mat()[:128] + element(15, zlib.compress(struct.pack("<II", 14, 2**32 - 1) + bytes(600))),
        "a compressed variable claims 4294967295 bytes of type 14",
    ),
    "no description": (mat()[:128] + element(14, bytes(64)), "the description of a variable cannot be read"),
    "empty": (b"", "there is no im"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    write_folder(tmp_path / "cars", files(2) | {"car_001_mesh.mat": content})
    with pytest.raises(SourceError, match=reason) as error:
        open_source(str(tmp_path / "cars"))
    assert str(error.value).startswith(f"source {tmp_path}/cars") or str(tmp_path / "cars") in str(error.value)
    assert "car_001_mesh.mat" in str(error.value)
    assert "\n" not in str(error.value)


def test_damage_that_only_reading_shows_ends_the_preparation(tmp_path: Path) -> None:
    whole = mat(variable("im", model(1)))
    wrong_sum = whole[:-1] + bytes([whole[-1] ^ 1])
    small = variable("im", model(1))[:-8]
    short = mat()[:128] + element(15, zlib.compress(small))
    for content, reason in ((wrong_sum, "incorrect data check"), (short, "does not hold the 18504 bytes")):
        write_folder(tmp_path / "cars", files(3) | {"car_001_mesh.mat": content})
        with pytest.raises(PrepareError, match=rf"^train/car_001_mesh/azimuth-00-elevation-0 in .*{reason}") as error:
            prepare(tmp_path / "cars", tmp_path / "set", PrepareSettings(resolution=SIDE))
        assert "\n" not in str(error.value)


def test_any_damage_to_a_description_is_a_complaint_or_without_effect(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    whole, path = plain(model(1)), tmp_path / "a.mat"
    outcomes: Counter[str] = Counter()
    for _ in range(1000):
        content = bytearray(whole)
        at = random.integers(120, 200, random.integers(1, 4))
        content[at[0]] = random.choice([0, 1, 2, 5, 6, 9, 14, 15, 128, 255])
        for k in at[1:]:
            content[k] = random.integers(256)
        if random.random() < 0.5:
            content[128:] = element(15, zlib.compress(content[128:]))
        path.write_bytes(content)
        try:
            array = find_bytes(Piece(path, 0, len(content), "a.mat"), "im")
            outcomes["another" if array is None else f"{array.read().ndim} axes"] += 1
        except SourceError as error:
            assert str(error).startswith("a.mat")
            outcomes["complaint"] += 1
    assert outcomes.total() == 1000
    assert min(outcomes["another"], outcomes["5 axes"], outcomes["complaint"]) > 50


def test_a_folder_with_other_matlab_files_is_left_to_others(tmp_path: Path) -> None:
    write_folder(
        tmp_path / "set", {"annotations.mat": mat(variable("annotations", model(0))), "digits.mat": BROKEN["hdf5"][0]}
    )
    Image.fromarray(model(0)[..., 0, 0]).save(tmp_path / "set" / "a.png")
    source = open_source(str(tmp_path / "set"))
    assert source.found.kind == "folder"
    assert len(source) == 1
    path = tmp_path / "set.tar"
    path.write_bytes(
        tar_bytes({"a.png": (tmp_path / "set" / "a.png").read_bytes(), "cars/a.mat": files(1)["car_000_mesh.mat"]})
    )
    assert open_source(str(path)).found.kind == "tar"


def test_matlab_7_3_alone_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "cars", {"a.mat": BROKEN["hdf5"][0], "list.txt": b"a"})
    with pytest.raises(SourceError, match=re.escape(f"{tmp_path}/cars/a.mat has the format of MATLAB 7.3 (HDF5)")):
        open_source(str(tmp_path / "cars"))


def test_a_model_twice_in_a_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    content = files(1)["car_000_mesh.mat"]
    path.write_bytes(tar_bytes({"x/cars/a.mat": content, "y/cars/a.mat": content}))
    with pytest.raises(SourceError, match=r"holds 'y/cars/a.mat' twice"):
        open_source(str(path))
