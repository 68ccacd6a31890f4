"""A cache of remote files on a local disk: bounded in bytes, shared by all processes of a machine.

    FOLDER/lock             held (flock) whenever files come, go, are used or counted
    FOLDER/SHA256           a whole file, named by its content: data sets, and versions of one, never mix; its time is
                            that of its last use
    FOLDER/SHA256.partial   a file on its way, locked (flock) by the process that fetches it

A lock ends with the process that holds it, however that ends: a partial file that nobody locks is left over, and is
taken over or removed. A partial file has its full length from the start, so that the lengths of all files are the room
that is taken or promised.
"""

import errno
import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.images.circumstances import explained, is_circumstance
from data_pipelines.images.manifest import FileRecord

_WHOLE = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"[0-9a-f]{64}\.partial")
_PAUSE = 0.02  # seconds between two looks at what another process or thread is doing


class CacheError(OSError):
    """The cache cannot hold a file; one line says what to do."""


class Partial:
    """A file of the cache while it is written."""

    def __init__(self, folder: Path, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._folder = folder

    def restart(self) -> None:
        """Starts again at the file's first byte."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Appends. Raises CacheError when the disk is full or fails."""
        rest = memoryview(data)
        with _explained(self._folder):
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]


class Cache:
    """A bounded folder of files. Any number of threads and processes may use one at once."""

    def __init__(self, folder: Path, bound: int, closing: threading.Event) -> None:
        """`bound` in bytes; after `closing` is set nobody waits here any more.

        Raises CacheError when the folder cannot be made, written or locked.
        """
        self.folder = folder
        self.bound = bound
        self._closing = closing
        self._trusted: set[str] = set()
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass

    def open(self, record: FileRecord, fill: Callable[[Partial], None], wait: bool = True) -> int | None:
        """A descriptor of the file, for reading, which is the caller's to close.

        When the cache does not have the file, room is made and `fill` writes it; it must see to it that bytes and
        checksum are the record's. When another thread or process is at it, waits for its result, or returns None when
        not to `wait`. What `fill` raises is raised here, and the file is then as if it had never been begun. Raises
        CacheError when the file is larger than the bound, the disk is full, or the cache is closed.
        """
        if record.bytes > self.bound:
            raise CacheError(
                f"{record.name} has {record.bytes} bytes, more than the cache may hold: "
                f"set data.remote.cache_gb to at least {_gigabytes(record.bytes)}"
            )
        while (descriptor := self._whole(record)) is None:
            with self._partial(record) as partial:
                if partial is not None:
                    return self._fetch(record, fill, partial)
            if not wait:
                return None
            self._pause()
        return descriptor

    def _whole(self, record: FileRecord) -> int | None:
        """Opens a file that is there, marks it as used now, and removes it if it is not what it should be."""
        path = self.folder / record.sha256
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _cache_error(self.folder, error) from error
        if os.fstat(descriptor).st_size == record.bytes and self._is_trusted(record, descriptor):
            with _explained(self.folder), self._locked() as lock:
                _mark_used(descriptor, lock)
            return descriptor
        with self._locked():
            if _is_at(path, descriptor):  # and not already another's new one
                path.unlink()
        os.close(descriptor)
        return None

    def _is_trusted(self, record: FileRecord, descriptor: int) -> bool:
        """Whether the content is right. It is read once per process, as disks fail and people edit files."""
        if record.sha256 not in self._trusted:
            with open(descriptor, "rb", closefd=False) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                    return False
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._trusted.add(record.sha256)
        return True

    @contextmanager
    def _partial(self, record: FileRecord) -> Iterator[Partial | None]:
        """The right to fetch a file, or None when someone else has it. What is not given its name is removed."""
        path = self.folder / f"{record.sha256}.partial"
        with _explained(self.folder), self._locked():  # or it would seem left over before it is locked
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            mine = _try_lock(descriptor)
        try:
            yield Partial(self.folder, path, descriptor) if mine else None
        finally:
            with self._locked():
                if mine and _is_at(path, descriptor):
                    path.unlink()
                os.close(descriptor)

    def _fetch(self, record: FileRecord, fill: Callable[[Partial], None], partial: Partial) -> int:
        if (descriptor := self._whole(record)) is not None:  # it came between the two looks
            return descriptor
        os.ftruncate(partial.descriptor, 0)  # what a dead process left takes no room while this one waits for some
        while not self._reserve(record.bytes, partial):
            self._pause()
        fill(partial)
        with _explained(self.folder):
            os.fsync(partial.descriptor)  # some file systems report only now that they are full
            descriptor = os.open(partial.path, os.O_RDONLY | os.O_CLOEXEC)
            with self._locked() as lock:
                _mark_used(descriptor, lock)
                partial.path.rename(self.folder / record.sha256)
        self._trusted.add(record.sha256)
        return descriptor

    def _reserve(self, size: int, partial: Partial) -> bool:
        """Promises room to a file, for which the least recently used ones go; False when too much is on its way."""
        with _explained(self.folder), self._locked():
            whole, promised = self._contents()
            excess = size + promised + sum(file.st_size for file, _ in whole) - self.bound
            if size + promised > self.bound:
                return False
            for file, path in sorted(whole, key=lambda item: item[0].st_mtime_ns):
                if excess <= 0:
                    break
                path.unlink()
                excess -= file.st_size
            os.ftruncate(partial.descriptor, size)
            return True

    def _contents(self) -> tuple[list[tuple[os.stat_result, Path]], int]:
        """The whole files, and the bytes promised to those on their way; removes what dead processes have left."""
        whole: list[tuple[os.stat_result, Path]] = []
        promised = 0
        for path in self.folder.iterdir():
            if _WHOLE.fullmatch(path.name):
                whole.append((path.stat(), path))
            elif _PARTIAL.fullmatch(path.name):
                promised += _promised(path)
        return whole, promised

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Excludes all others that change the folder; yields the lock's descriptor."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _pause(self) -> None:
        if self._closing.wait(_PAUSE):
            raise CacheError(f"the cache {self.folder} was closed")


def _promised(path: Path) -> int:
    """Bytes of a partial file that somebody is writing; one that nobody is writing is removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _try_lock(descriptor):
            return os.fstat(descriptor).st_size
        path.unlink()
        return 0
    finally:
        os.close(descriptor)


def _mark_used(descriptor: int, lock: int) -> None:
    """Makes a file the one used last, by its time; the lock's own time is that of the last use of any.

    The clock alone does not give the order: it is set back now and then, and a file server has another one.
    """
    now = max(time.time_ns(), os.fstat(lock).st_mtime_ns + 1)
    for file in (descriptor, lock):
        os.utime(file, ns=(now, now))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether `path` is the name of the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _gigabytes(size: int) -> str:
    """Rounded up, so that the figure is enough."""
    return f"{-(-size // 10**6) / 1000:g}"


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cache_error(folder, error) from error


def _cache_error(folder: Path, error: OSError) -> CacheError:
    if is_circumstance(error) and error.errno not in _ABOUT_THE_FOLDER:
        return CacheError(str(explained(f"the cache {folder}", error, "used")))
    what = error.strerror or str(error)
    return CacheError(
        f"the cache {folder} cannot be written ({what}): make room there, lower data.remote.cache_gb, "
        "or set data.remote.cache to another folder"
    )


_ABOUT_THE_FOLDER = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
