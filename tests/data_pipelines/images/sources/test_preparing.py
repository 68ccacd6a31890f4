"""From every kind of source to a data set: continued byte for byte, with faults named by source and key."""

import gzip
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.images.prepare import PrepareError, PrepareSettings, prepare
from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import (
    encoded,
    noise,
    pngs,
    small,
    tar_bytes,
    tree,
    write_folder,
    write_tar,
    write_zip,
)
from tests.data_pipelines.images.sources.test_cifar import cifar10
from tests.data_pipelines.images.sources.test_lsun import write_lmdb

REPOSITORY = Path(__file__).resolve().parents[4]
FILES = {f"{('train', 'test')[i >= 12]}/{i:02d}.png": encoded(noise(i, 20, 16)) for i in range(15)}


def as_compressed(path: Path) -> Path:
    path.write_bytes(gzip.compress(tar_bytes(FILES)))
    return path


def as_shards(path: Path) -> Path:
    names = list(FILES)
    return write_folder(path, {f"{k}.tar": tar_bytes({name: FILES[name] for name in names[k::3]}) for k in range(3)})


KINDS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda path: write_folder(path, FILES),
    "zip": lambda path: write_zip(path, FILES, zipfile.ZIP_DEFLATED),
    "tar": lambda path: write_tar(path, FILES),
    "tar.gz": as_compressed,
    "shards": as_shards,
    "lmdb": lambda path: write_lmdb(path, {name.encode(): data for name, data in FILES.items()}),
    "cifar": lambda path: write_folder(path, cifar10()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_splits(tmp_path: Path, kind: str) -> None:
    manifest = prepare(KINDS[kind](tmp_path / "source"), tmp_path / "out", small())
    assert manifest.samples == (24 if kind == "cifar" else 15)
    assert manifest.test == {"lmdb": 0, "cifar": 4}.get(kind, 3)
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_prepared_as_what_they_hold(tmp_path: Path, kind: str) -> None:
    """The data sets differ in nothing but what the source was called."""
    folder = prepare(KINDS["folder"](tmp_path / "folder"), tmp_path / "folder-out", small())
    archive = prepare(KINDS[kind](tmp_path / "archive"), tmp_path / "archive-out", small())
    assert folder.levels == archive.levels
    assert folder.digest == archive.digest


RUN = """
import sys, time
from data_pipelines.images.prepare import PrepareSettings, prepare
if __name__ == "__main__":
    settings = PrepareSettings(resolution=16, shard_size=1)
    slowly = lambda done, total: time.sleep(600 if done > 3 else 0.05)  # until it is killed
    prepare(sys.argv[1], sys.argv[2], settings, 1, progress=slowly)
"""


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "lmdb", "cifar"])
def test_continues_after_a_kill_with_two_workers_and_ends_with_the_same_bytes(tmp_path: Path, kind: str) -> None:
    where = KINDS[kind](tmp_path / "source")
    partial = tmp_path / "out.partial"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", RUN, where, tmp_path / "out"], env=environment)
    try:
        end = time.monotonic() + 60
        while len(list(partial.glob("work/shard-*.json"))) < 3:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 3 <= len(list(partial.glob("work/shard-*.json"))) < 24
    copies = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in partial.glob("work/source/*")]
    assert len(copies) == (kind in ("tar.gz", "cifar"))
    settings = PrepareSettings(resolution=16, shard_size=1)
    seen: list[int] = []

    def look(done: int, total: int) -> None:
        seen.append(done)
        assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path, *_ in copies] == copies

    prepare(where, tmp_path / "out", settings, 2, look)
    assert seen[0] >= 3
    prepare(where, tmp_path / "whole", settings)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["zip", "tar", "lmdb"])
def test_another_archive_is_not_continued(tmp_path: Path, kind: str) -> None:
    files = pngs(12)
    writers: dict[str, Callable[[dict[str, bytes]], object]] = {
        "zip": lambda files: write_zip(tmp_path / "s", files),
        "tar": lambda files: write_tar(tmp_path / "s", files),
        "lmdb": lambda files: write_lmdb(tmp_path / "s", {name.encode(): data for name, data in files.items()}),
    }
    writers[kind](files | {"11.png": files["11.png"][:100]})
    with pytest.raises(PrepareError, match=r"^11\.png in .*/s is a damaged image"):
        prepare(tmp_path / "s", tmp_path / "out", small())
    writers[kind](files | {"11.png": files["11.png"][:200]})
    with pytest.raises(PrepareError, match="unfinished preparation with other settings or another source"):
        prepare(tmp_path / "s", tmp_path / "out", small())


# Opening.


def test_a_file_that_is_nothing(tmp_path: Path) -> None:
    files = {
        "a.txt": b"text",
        "a.zip": b"text",
        "empty": b"",
        "a.png": encoded(noise(0)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=rf"^source .*{name} is neither a folder, zip, tar, LMDB, nor .*: give"):
            open_source(str(tmp_path / name))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text"))
    with pytest.raises(SourceError, match=r"^source .*a\.gz is a gzip file, which is not read: unpack it"):
        open_source(str(tmp_path / "a.gz"))
    (tmp_path / "b.tar").write_bytes(b"text")
    with pytest.raises(SourceError, match=r"b\.tar is a damaged tar at offset 0"):
        open_source(str(tmp_path / "b.tar"))
    (tmp_path / "b.tgz").write_bytes(gzip.compress(tar_bytes(pngs(1)))[:100])
    with pytest.raises(SourceError, match=r"b\.tgz is damaged \(.*\): get it again"):
        open_source(str(tmp_path / "b.tgz"), spool=tmp_path / "spool")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceError, match="fifo is neither"):
        open_source(str(tmp_path / "fifo"))


def test_folders_of_images_with_archives_among_them(tmp_path: Path) -> None:
    """One picture or folder beside the shards, and they are not meant as shards."""
    folder = write_folder(tmp_path / "f", {"0.tar": tar_bytes(pngs(1)), "readme.txt": b"x"})
    assert list(open_source(str(folder)).listing.names) == ["00.png"]
    (folder / "1.PNG").write_bytes(encoded(noise(1)))
    assert list(open_source(str(folder)).listing.names) == ["0.tar", "1.PNG"]
    (folder / "1.PNG").unlink()
    (folder / "more").mkdir()
    assert list(open_source(str(folder)).listing.names) == ["0.tar"]
    with pytest.raises(
        PrepareError, match=r"^0\.tar in .* is a tar archive, which is not read \(unpack it, or give it"
    ):
        prepare(folder, tmp_path / "out", small())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_member_is_for_tars(tmp_path: Path, kind: str) -> None:
    with pytest.raises(PrepareError, match="but --member is for WebDataset's samples: leave it out"):
        prepare(KINDS[kind](tmp_path / "source"), tmp_path / "out", small(member="png"))


def test_not_permitted() -> None:
    with tempfile.TemporaryDirectory() as folder:  # which others may enter, unlike pytest's
        Path(folder).chmod(0o755)
        path = write_zip(Path(folder) / "a.zip", FILES)
        path.chmod(0)
        was_root = os.geteuid() == 0
        if was_root:  # to whom nothing is forbidden
            os.seteuid(65534)
        try:
            with pytest.raises(SourceError, match=r"a\.zip cannot be read \(Permission denied\)"):
                open_source(str(path))
        finally:
            if was_root:
                os.seteuid(0)


# Scale: what a listing keeps of an image, in bytes.


def test_listings_of_tars_take_little_memory(tmp_path: Path) -> None:
    count = 20_000
    block = tar_bytes({f"{0:032d}.png": b"\xff\xd8\xff"})[:1024]
    header = bytearray(block)
    with (tmp_path / "a.tar").open("wb") as file:
        for i in range(count):
            header[:32] = b"%032d" % i
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header[:512])
            file.write(header)
        file.write(bytes(1024))
    source = open_source(str(tmp_path / "a.tar"))
    assert len(source) == count and source.read(count - 1) == b"\xff\xd8\xff"
    # 36 of the name; its end, the size, the part's file, offset and size
    assert len(pickle.dumps(source)) / count < 36 + 8 + 8 + 4 + 8 + 8 + 4
    assert list(source.listing.names[count - 2 :]) == [f"{i:032d}.png" for i in (count - 2, count - 1)]


def test_listings_of_zips_take_little_memory(tmp_path: Path) -> None:
    count = 20_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for i in range(count):
            file.writestr(f"{i:032d}.png", b"\xff\xd8\xff")
    source = open_source(str(tmp_path / "a.zip"))
    assert len(source) == count and source.read(count - 1) == b"\xff\xd8\xff"
    # as of tars; the whole size, the CRC-32 and how it is stored as well
    assert len(pickle.dumps(source)) / count < 36 + 8 + 8 + 4 + 8 + 8 + 8 + 8 + 1 + 4
