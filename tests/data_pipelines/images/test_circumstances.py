"""What a machine lacks ends the work with that reason: nothing is called damaged, replaced or left out for it."""

import errno
import gc
import os
import resource
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch

from data_pipelines.dataset import Request, SampleError
from data_pipelines.images import arrays, reader
from data_pipelines.images.annotations import read_labels
from data_pipelines.images.cache import Cache, CacheError
from data_pipelines.images.circumstances import CircumstanceError
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.loader import Loader
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.sources.folder import FolderSource
from data_pipelines.images.store import Directory
from data_pipelines.images.verify import verify
from tests.data_pipelines.images.sources.making import pngs, small, write_folder, write_zip
from tests.data_pipelines.images.sources.test_lsun import write_lmdb

SHARDS = 24
NOT_DAMAGE = r"^(?!.*(damaged|prepare))"

CIRCUMSTANCES = {
    errno.EMFILE: r"\(Too many open files\): the limit is \d+ open files per process; raise it \(ulimit -n 4096\)",
    errno.ENFILE: r"\(Too many open files in system\): .* raise fs.file-max",
    errno.ENOMEM: r"\(Cannot allocate memory\): free some memory or use fewer workers",
    errno.EACCES: r"\(Permission denied\): grant the permission",
    errno.ESTALE: r"\(Stale file handle\): check whether the file system is still mounted",
    errno.ENOTCONN: r"\(Transport endpoint is not connected\): check whether the file system is still mounted",
    errno.EIO: r"\(Input/output error\): a disk or its connection is failing",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source"), pngs(SHARDS, "{:02d}.png"))


@pytest.fixture(scope="module")
def root(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays at 4 px, tars from 8 px up, a sample a shard."""
    root = tmp_path_factory.mktemp("set") / "data"
    prepare(source, root, small(array_max_resolution=4, shard_size=1))
    return root


def failing(error: BaseException, when: Callable[[str], bool], function: Callable[..., Any]) -> Callable[..., Any]:
    def fail(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if when(str(path)):
            raise error
        return function(path, *arguments, **keywords)

    return fail


def batches(root: Path, resolution: int) -> list[Any]:
    manifest = Manifest.load(root)
    settings = ImageSettings(path=str(root), faults="quarantine", max_faults=1)
    loader = Loader(settings, Directory(root), manifest, 0, torch.device("cpu"))
    try:
        return list(loader.batches([Request(k * 6, 6, resolution) for k in range(SHARDS // 6)]))
    finally:
        loader.close()


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """Not more than so many further files can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest)]  # no number below the limit is free
    limit = max(held) + 1
    try:
        for descriptor in held[-more:] if more else []:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in held[: len(held) - more]:
            os.close(descriptor)


@pytest.mark.parametrize("resolution", [4, 8])
def test_a_set_of_many_shards_is_read_within_few_open_files(root: Path, resolution: int) -> None:
    want = batches(root, resolution)
    with few_files(5):
        found = batches(root, resolution)
    for one, other in zip(found, want, strict=True):
        assert not one.replaced
        assert torch.equal(one.x, other.x)


def open_below(root: Path) -> int:
    """How many files of a folder are open; others' may be closed at any time, as garbage."""
    descriptors = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(descriptor).startswith(f"{root.resolve()}/") for descriptor in descriptors)


def test_a_reader_holds_its_share_of_the_files_that_may_be_open(root: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(len(os.listdir("/proc/self/fd")) + 20, 64)
    gc.collect()  # what earlier tests left open there
    assert open_below(root) == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        reader = Reader(Directory(root), Manifest.load(root), 8)
        reader.pixels(range(SHARDS))
        assert open_below(root) == limit // 8
        reader.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("resolution", [4, 8])
def test_without_any_file_left_the_run_ends_with_that(root: Path, resolution: int) -> None:
    with few_files(0), pytest.raises(CircumstanceError, match=NOT_DAMAGE + ".*" + CIRCUMSTANCES[errno.EMFILE]):
        batches(root, resolution)
    assert len(batches(root, resolution)) == SHARDS // 6


@pytest.mark.slow
@pytest.mark.parametrize("number", CIRCUMSTANCES)
def test_a_circumstance_replaces_no_sample(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    error = OSError(number, os.strerror(number))
    for module, name, resolution in (
        (os, "open", 8),
        (os, "pread", 8),
        (Path, "read_bytes", 8),
        (arrays.np, "memmap", 4),
        (Path, "open", 4),
    ):
        with monkeypatch.context() as patched:
            always = name in ("pread", "memmap")
            shard = failing(error, lambda path, always=always: always or "shard" in path, getattr(module, name))
            patched.setattr(module, name, shard)
            with pytest.raises(CircumstanceError, match=NOT_DAMAGE + ".*" + CIRCUMSTANCES[number]):
                batches(root, resolution)
    assert not any(batch.replaced for batch in batches(root, 8))


def test_too_little_memory_for_an_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(reader, "decode", decode)
    with pytest.raises(CircumstanceError, match=NOT_DAMAGE + r".*data cannot be read \(Cannot allocate memory\)"):
        batches(root, 8)


@pytest.mark.parametrize("resolution", [4, 8])
def test_a_missing_shard_is_damage_but_a_missing_set_is_not(root: Path, tmp_path: Path, resolution: int) -> None:
    mounted = tmp_path / "mounted"
    shutil.copytree(root, mounted)
    manifest, store = Manifest.load(mounted), Directory(mounted)
    (mounted / f"{resolution:04d}" / f"shard-00003.{'npy' if resolution == 4 else 'tar'}").unlink()
    with pytest.raises(SampleError, match="shard-00003"):
        Reader(store, manifest, resolution).pixels(range(SHARDS))
    opened = Reader(store, manifest, resolution)
    opened.pixels([0])
    mounted.rename(tmp_path / "away")
    with pytest.raises(CircumstanceError, match=NOT_DAMAGE + ".*is gone, and so is the whole data set.*mounted"):
        opened.read([5])
    (tmp_path / "away").rename(mounted)
    opened.pixels([5])  # what passed is not remembered


def test_labels(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "s", {f"{k % 2}/{name}": data for k, (name, data) in enumerate(pngs(4).items())})
    manifest = prepare(tmp_path / "s", tmp_path / "out", small())
    error = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "read_bytes", failing(error, lambda path: True, Path.read_bytes))
    with pytest.raises(CircumstanceError, match=NOT_DAMAGE + ".*labels.npy cannot be read .*grant the permission"):
        read_labels(Directory(tmp_path / "out"), manifest)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, None])
def test_a_preparation_ends_and_continues(
    source: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    error = MemoryError() if number is None else OSError(number, os.strerror(number))
    message = CIRCUMSTANCES[errno.ENOMEM if number is None else number]
    settings = small(array_max_resolution=4, shard_size=1, skip_unreadable=True)
    with monkeypatch.context() as patched:
        patched.setattr(FolderSource, "read", lambda self, i: failing(error, lambda _: i == 7, read)(self, i))
        with pytest.raises(PrepareError, match=NOT_DAMAGE + rf"07\.png in .* cannot be read {message}") as raised:
            prepare(source, tmp_path / "out", settings)
    assert "\n" not in str(raised.value)
    assert prepare(source, tmp_path / "out", settings).skipped == ()
    name = "0008/shard-00007.tar"
    assert (tmp_path / "out" / name).read_bytes() == (root / name).read_bytes()


read = FolderSource.read


def test_a_preparation_that_cannot_write(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(os, "fsync", failing(error, lambda _: True, os.fsync))
    with pytest.raises(PrepareError, match=r"out\.partial cannot be written " + CIRCUMSTANCES[errno.EIO]):
        prepare(source, tmp_path / "out", small())


def test_a_source_that_is_gone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory")
    monkeypatch.setattr(FolderSource, "read", failing(error, lambda _: True, read))
    with pytest.raises(
        PrepareError, match=r"00\.png in .* was there and is now gone: check whether the file system is still"
    ):
        prepare(source, tmp_path / "out", small(skip_unreadable=True))


def test_verify_finds_no_fault_in_a_set_that_it_may_not_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EMFILE, errno.ESTALE):
        error = OSError(number, os.strerror(number))
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", failing(error, lambda path: "shard" in path, os.open))
            with pytest.raises(CircumstanceError, match=CIRCUMSTANCES[number]):
                verify(root)
    assert verify(root) == []


def test_a_cache_without_files_left_is_not_too_small(root: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1 << 30, threading.Event())
    record = Manifest.load(root).levels[8].files[0]
    with few_files(0), pytest.raises(CacheError, match=CIRCUMSTANCES[errno.EMFILE]) as raised:
        cache.open(record, lambda partial: None)
    assert "cache_gb" not in str(raised.value)


def test_arrays_are_equal_whatever_the_room(root: Path) -> None:
    whole = Reader(Directory(root), Manifest.load(root), 8).pixels(range(SHARDS))
    with few_files(4):
        np.testing.assert_array_equal(Reader(Directory(root), Manifest.load(root), 8).pixels(range(SHARDS)), whole)


def test_an_archive_that_may_not_be_opened_is_not_a_damaged_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(tmp_path / "s.zip", pngs(2))
    (tmp_path / "lmdb").mkdir()
    write_lmdb(tmp_path / "lmdb", {b"0": pngs(1)["00.png"]})

    def no_file(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def no_map(*_: Any, **__: Any) -> None:
        raise lmdb.Error("data.mdb: Too many open files")

    for owner, name, replacement, where in (
        (zipfile, "ZipFile", no_file, "s.zip"),
        (lmdb, "open", no_map, "lmdb"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, replacement)
            with pytest.raises(PrepareError, match=NOT_DAMAGE + ".*cannot be read " + CIRCUMSTANCES[errno.EMFILE]):
                prepare(tmp_path / where, tmp_path / "out", small())
