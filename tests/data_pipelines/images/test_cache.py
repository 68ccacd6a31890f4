import fcntl
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.images.cache import Cache, CacheError, Partial
from data_pipelines.images.manifest import FileRecord
from tests.disks import mounted_or_skipped

SIZE = 1000


def content(number: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(number).bytes(size)


def record(data: bytes) -> FileRecord:
    return FileRecord(name="0008/shard.tar", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def total(folder: Path) -> int:
    """Bytes of the files, whole or on their way, at one moment: under the lock with which the cache changes them.

    Without it a file that has to go and the one that takes its room would both be counted, now and then.
    """
    with open(folder / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return sum(path.stat().st_size for path in folder.iterdir())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


class Subject:
    """A cache that is filled from memory, and what it was asked to fetch."""

    def __init__(self, folder: Path, bound: int) -> None:
        self.closing = threading.Event()
        self.cache = Cache(folder, bound, self.closing)
        self.folder = folder
        self.fetched: list[bytes] = []

    def get(self, data: bytes, during: Callable[[], Any] = lambda: None, wait: bool = True) -> bytes | None:
        """A file's content by way of the cache; `during` is called when half of it is written."""

        def fill(partial: Partial) -> None:
            self.fetched.append(data)
            partial.restart()
            partial.write(data[: len(data) // 2])
            during()
            partial.write(data[len(data) // 2 :])

        descriptor = self.cache.open(record(data), fill, wait)
        if descriptor is None:
            return None
        with open(descriptor, "rb") as file:
            return file.read()

    def has(self, data: bytes) -> bool:
        return (self.folder / record(data).sha256).exists()

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"lock"}


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    """It holds three files of SIZE."""
    before = len(os.listdir("/proc/self/fd"))
    yield Subject(tmp_path / "deep" / "cache", 3 * SIZE + 10)
    # None is left open; one of another test may be closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_file_is_fetched_once(subject: Subject) -> None:
    a, b = content(0), content(1)
    assert [subject.get(data) for data in (a, b, a, b)] == [a, b, a, b]
    assert subject.fetched == [a, b]
    assert subject.names == {record(a).sha256, record(b).sha256}


def test_empty_file(subject: Subject) -> None:
    assert [subject.get(b""), subject.get(b"")] == [b"", b""]
    assert subject.fetched == [b""]


@pytest.mark.parametrize("hours", [None, -1, 0, 1])
def test_the_least_recently_used_go_first(subject: Subject, hours: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever clock: the true one, or one that has moved by so many hours whenever it is read."""
    if hours is not None:
        clock = itertools.count(time.time_ns(), hours * 3600 * 10**9)
        monkeypatch.setattr("data_pipelines.images.cache.time.time_ns", lambda: next(clock))
    a, b, c, d, large = content(0), content(1), content(2), content(3), content(4, 2 * SIZE)
    for data in (a, b, c, a, d):
        subject.get(data)
    assert [subject.has(data) for data in (a, b, c, d)] == [True, False, True, True]
    subject.get(large)
    assert [subject.has(data) for data in (a, b, c, d, large)] == [False, False, False, True, True]


def test_an_open_file_outlives_its_removal(subject: Subject) -> None:
    a = content(0)
    descriptor = subject.cache.open(record(a), lambda partial: partial.write(a))
    assert descriptor is not None
    for number in range(1, 4):
        subject.get(content(number))
    assert not subject.has(a)
    with open(f"/proc/self/fd/{descriptor}", "rb") as file:
        assert file.read() == a
    os.close(descriptor)


def test_the_bound_holds_at_every_moment(subject: Subject) -> None:
    """Four threads fetch files of all sizes; whenever one has written half, the folder is measured."""
    generator = np.random.default_rng(0)
    files = [content(number, int(generator.integers(1, 2 * SIZE))) for number in range(60)]
    seen = []

    def get(data: bytes) -> None:
        assert subject.get(data, lambda: seen.append(total(subject.folder))) == data

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(get, files))
    assert len(seen) == len(files)
    assert max(seen) <= subject.cache.bound
    assert max(seen) > subject.cache.bound - 2 * SIZE  # and it is made use of


def test_a_file_on_its_way_counts_in_full(subject: Subject) -> None:
    a, b = content(0, 2 * SIZE), content(1, 2 * SIZE)
    half, on = threading.Event(), threading.Event()

    def wait() -> None:
        half.set()
        assert on.wait(30)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(subject.get, a, wait)
        assert half.wait(30)
        second = threads.submit(subject.get, b, lambda: order.append(subject.has(a)))
        order: list[bool] = []
        until(lambda: f"{record(b).sha256}.partial" in subject.names)
        assert total(subject.folder) == 2 * SIZE
        assert subject.fetched == [a]
        assert subject.get(content(2, 10)) == content(2, 10)  # for which there is room
        on.set()
        assert (first.result(30), second.result(30)) == (a, b)
    assert order == [False]
    assert subject.fetched == [a, content(2, 10), b]


def test_many_threads_fetch_a_file_once(subject: Subject) -> None:
    a = content(0)
    half, on = threading.Event(), threading.Event()

    def wait() -> None:
        half.set()
        assert on.wait(30)

    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(subject.get, a, wait) for _ in range(8)]
        assert half.wait(30)
        assert subject.get(a, wait=False) is None  # without waiting nothing is to be had
        on.set()
        assert [result.result(30) for result in results] == [a] * 8
    assert subject.fetched == [a]


def test_what_fails_leaves_nothing_and_another_goes_on(subject: Subject) -> None:
    a = content(0)
    half, on = threading.Event(), threading.Event()

    def fail() -> None:
        half.set()
        assert on.wait(30)
        raise ConnectionError("gone")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(subject.get, a, fail)
        assert half.wait(30)
        second = threads.submit(subject.get, a)
        on.set()
        with pytest.raises(ConnectionError, match="gone"):
            first.result(30)
        assert second.result(30) == a
    assert subject.fetched == [a, a]
    assert subject.names == {record(a).sha256}


def test_what_the_dead_have_left_is_removed(subject: Subject) -> None:
    """Both what is wanted again and what is not."""
    a, b = content(0), content(1, 3 * SIZE)
    for data in (a, b):
        (subject.folder / f"{record(data).sha256}.partial").write_bytes(content(9, 3 * SIZE))
    assert subject.get(a) == a
    assert subject.names == {record(a).sha256}


def test_other_peoples_files_stay(subject: Subject) -> None:
    (subject.folder / "notes.txt").write_bytes(bytes(5 * SIZE))
    for number in range(5):
        subject.get(content(number))
    assert "notes.txt" in subject.names and len(subject.names) == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:]], ids=["size", "content"])
def test_a_damaged_file_is_fetched_again(subject: Subject, damage: Callable[[bytes], bytes]) -> None:
    a = content(0)
    subject.get(a)
    path = subject.folder / record(a).sha256
    path.write_bytes(damage(a))
    another = Subject(subject.folder, subject.cache.bound)  # as another process would
    assert another.get(a) == a
    assert another.fetched == [a]
    assert path.read_bytes() == a


def test_the_content_is_checked_once_a_process(subject: Subject) -> None:
    a = content(0)
    Subject(subject.folder, subject.cache.bound).get(a)
    assert subject.get(a) == a and subject.fetched == []
    (subject.folder / record(a).sha256).write_bytes(b"x" + a[1:])
    assert subject.get(a) == b"x" + a[1:]
    (subject.folder / record(a).sha256).write_bytes(a[1:])  # while the size is looked at each time
    assert subject.get(a) == a and subject.fetched == [a]


def test_a_file_larger_than_the_bound(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "cache", 10**6)
    large = content(0, 1_234_567)
    with pytest.raises(CacheError, match=r"^0008/shard.tar has 1234567 bytes, .*cache_gb to at least 0\.002$"):
        subject.get(large)
    assert Subject(tmp_path / "cache", 2 * 10**6).get(large) == large


def test_whoever_waits_is_let_go_at_the_end(subject: Subject) -> None:
    a = content(0)
    half, on = threading.Event(), threading.Event()

    def wait() -> None:
        half.set()
        assert on.wait(30)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(subject.get, a, wait)
        assert half.wait(30)
        second = threads.submit(subject.get, a)
        subject.closing.set()
        with pytest.raises(CacheError, match="closed"):
            second.result(30)
        on.set()
        assert first.result(30) == a


def test_a_full_disk(tmp_path: Path) -> None:
    with mounted_or_skipped(tmp_path / "disk", 256) as disk:
        subject = Subject(disk / "cache", 10**6)
        with pytest.raises(CacheError) as caught:
            subject.get(content(0, 400_000))
        assert str(caught.value) == (
            f"the cache {disk}/cache cannot be written (No space left on device): make room there, lower "
            "data.remote.cache_gb, or set data.remote.cache to another folder"
        )
        assert subject.names == set()
        assert subject.get(content(1, 100_000)) == content(1, 100_000)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError) as caught:
        Subject(tmp_path / "file" / "cache", SIZE)
    assert "cannot be written (Not a directory)" in str(caught.value) and "\n" not in str(caught.value)
