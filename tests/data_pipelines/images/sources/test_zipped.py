import io
import json
import os
import pickle
import stat
import struct
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.sources import ImageError, SourceError
from data_pipelines.images.sources.findings import PassedOver
from data_pipelines.images.sources.image import MAX_BYTES
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import pngs, small, write_folder, write_zip


def contents(where: Path) -> dict[str, object]:
    source = pickle.loads(pickle.dumps(open_source(str(where))))
    return {name: source.read(i) for i, name in enumerate(source.listing.names)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_as_in_the_unpacked_folder(tmp_path: Path, method: int) -> None:
    files = {f"{('b', 'a')[i % 2]}/{name}": data for i, (name, data) in enumerate(pngs(6).items())}
    files |= {"about.txt": b"no image" * 100, "empty": b""}
    write_zip(tmp_path / "images.zip", {"a/": b"", **files, ".hidden": b"x", "__MACOSX/a/00.png": b"x"}, method)
    write_folder(tmp_path / "folder", files)
    folder, zipped = (open_source(str(tmp_path / name)) for name in ("folder", "images.zip"))
    assert zipped.listing.digest() == folder.listing.digest()
    assert zipped.listing.classes == ("a", "b")
    assert contents(tmp_path / "images.zip") == {name: data for name, data in files.items() if name.endswith(".png")}
    assert zipped.found.passed_over == folder.found.passed_over | {
        "hidden and system files": PassedOver(2, (".hidden", "__MACOSX/a/00.png"))
    }


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    write_zip(tmp_path / "images.tar", pngs(2))
    assert contents(tmp_path / "images.tar") == pngs(2)
    (tmp_path / "in front.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "images.tar").read_bytes())
    assert contents(tmp_path / "in front.zip") == pngs(2)


def test_stylegans_zip(tmp_path: Path) -> None:
    files = pngs(6, "00000/img{:08d}.png")
    labels = json.dumps({"labels": [[name, i % 3] for i, name in enumerate(files)]}).encode()
    write_zip(tmp_path / "ffhq.zip", files | {"dataset.json": labels}, zipfile.ZIP_DEFLATED)
    listing = open_source(str(tmp_path / "ffhq.zip")).listing
    assert [listing.top + name for name in listing.names] == list(files)
    assert listing.classes == ("0", "1", "2") and listing.labels is not None
    assert listing.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert open_source(str(tmp_path / "ffhq.zip"), "none").listing.classes == ()


def test_test_folder_is_the_test_split(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", pngs(7, "train/{:02d}.png") | pngs(2, "test/{:02d}.png"))
    manifest = prepare(tmp_path / "a.zip", tmp_path / "out", small())
    assert (manifest.train, manifest.test) == (7, 2)


@pytest.mark.parametrize("name", ["../00.png", "/etc/00.png", "a/../../00.png", "./../x.png", "../.hidden"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    write_zip(tmp_path / "a.zip", pngs(2) | {name: b"x"})
    with pytest.raises(SourceError, match=r"a\.zip has a member whose name leads out of it"):
        open_source(str(tmp_path / "a.zip"))


def test_repeated_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("0.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("0.png", b"2")
    with pytest.raises(SourceError, match=r"a\.zip holds '0\.png' twice"):
        open_source(str(tmp_path / "a.zip"))


def test_a_file_without_a_name(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"./": b"", "./0.png": b"x"})
    assert contents(tmp_path / "a.zip") == {"0.png": b"x"}
    path = write_zip(tmp_path / "b.zip", {"X.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"X.png", b"\0.png"))  # a name ends at its first zero
    with pytest.raises(SourceError, match=r"b\.zip has a member without a name"):
        open_source(str(tmp_path / "b.zip"))


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(pngs(1)["00.png"])
    entry = zipfile.ZipInfo("01.png")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("00.png", pngs(1)["00.png"])
        opened.writestr(entry, "../secret.png")
    with pytest.raises(PrepareError, match=r"^01\.png in .*a\.zip is a link, which is not followed: "):
        prepare(tmp_path / "a.zip", tmp_path / "out", small())
    manifest = prepare(tmp_path / "a.zip", tmp_path / "out", small(skip_unreadable=True))
    assert manifest.skipped == ("01.png",)


def test_encrypted(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", pngs(2))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    source = open_source(str(tmp_path / "a.zip"))
    with pytest.raises(ImageError, match="is encrypted"):
        source.read(0)
    assert source.read(1) == pngs(2)["01.png"]


def test_other_methods(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", pngs(1), zipfile.ZIP_BZIP2)
    with pytest.raises(ImageError, match="is compressed by method 12: unpack"):
        open_source(str(tmp_path / "a.zip")).read(0)


def claim(path: Path, size: int) -> None:
    """Let the only member say that it is as large when unpacked."""
    data = path.read_bytes()
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(signature) + at
        data = data[:start] + struct.pack("<L", size) + data[start + 4 :]
    path.write_bytes(data)


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"0.png": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    claim(path, 1000)
    source = open_source(str(path))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="is damaged"):
            source.read(0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    claim(path, 1 << 30)
    with pytest.raises(ImageError, match=f"has {1 << 30} bytes, more than {MAX_BYTES}"):
        open_source(str(path)).read(0)


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
        file.write(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in a member": (lambda path: os.truncate(path, 300), "is a damaged zip"),
    "cut in the directory": (lambda path: os.truncate(path, path.stat().st_size - 60), "is a damaged zip"),
    "no files": (lambda path: write_zip(path, {}), "holds no images"),
    "a directory of nothing": (lambda path: overwrite(path, path.stat().st_size - 70, bytes(30)), "is a damaged zip"),
    "an offset beyond the end": (
        lambda path: overwrite(path, path.read_bytes().rindex(b"PK\x01\x02") + 42, b"\xff\xff\xff\x7f"),
        "is a damaged zip",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_zips(tmp_path: Path, damage: str) -> None:
    path = write_zip(tmp_path / "a.zip", pngs(3))
    spoil, message = DAMAGE[damage]
    spoil(path)
    with pytest.raises(SourceError, match=rf"^source .*a\.zip {message}") as error:
        open_source(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("start", [0, 100])
def test_damaged_members(tmp_path: Path, method: int, start: int) -> None:
    path = write_zip(tmp_path / "a.zip", pngs(3), method)
    overwrite(path, path.read_bytes().index(b"PK\x03\x04", 1) + start, b"\xff\xfe\xfd")
    source = open_source(str(path))
    assert source.read(0) == pngs(3)["00.png"] and source.read(2) == pngs(3)["02.png"]
    with pytest.raises(ImageError, match="is damaged"):
        source.read(1)


def test_changed_under_way(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", pngs(3))
    source = open_source(str(path))
    os.truncate(path, 300)
    with pytest.raises(ImageError, match="is cut short"):
        source.read(0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 10_000))
def test_any_damage_is_told(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SMALL)
    for position, value in changes:
        data[position % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        path.write_bytes(data[: len(data) - cut if cut < len(data) // 4 else len(data)])
        try:
            source = open_source(str(path))
        except SourceError as error:
            assert "\n" not in str(error)
            return
        for i in range(len(source)):
            try:
                assert source.read(i) in (b"first", b"second " * 20)  # its checksum is right
            except ImageError as error:
                assert "\n" not in str(error)


def _small() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/0.png", b"first")
        opened.writestr("b/1.png", b"second " * 20)
    return buffer.getvalue()


SMALL = _small()
