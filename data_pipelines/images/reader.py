"""Samples of a prepared data set by their number, as pixels or as the stored bytes of an image."""

import errno
import hashlib
import os
import resource
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.dataset import SampleError
from data_pipelines.images.arrays import map_array, parse_array
from data_pipelines.images.circumstances import CircumstanceError, explained, is_circumstance
from data_pipelines.images.decode import DecodeError, decode
from data_pipelines.images.manifest import INDEX_DTYPE, FileRecord, Manifest
from data_pipelines.images.store import Store, unreadable

OPEN_SHARDS = 32
"""Shards that a reader keeps open at most, besides those in use at the moment, unless another number is given; fewer
where few files may be open."""

_PATIENCE = 50
"""Number of tries, over a second, to open a file at the limit while other threads have theirs open."""

_AGAIN = "prepare the data set again"


class _ArrayShard:
    """uint8 [n, C, H, W], mapped into memory."""

    def __init__(self, store: Store, file: FileRecord, shape: tuple[int, ...], check: bool) -> None:
        """`check`: compare all of it with its checksum, for nothing else would notice a changed pixel."""
        path = store.file(file)  # that it cannot be fetched is no damage: its own error ends the run
        try:
            self.rows: NDArray[np.uint8] = map_array(path, np.uint8, shape)
            if check:
                with path.open("rb") as content:
                    if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                        raise ValueError("its checksum differs")
        except (OSError, ValueError) as error:
            raise _of_file(store, file, error, "is damaged") from None


class _TarShard:
    """An open tar and its index. The descriptor is closed when the last user lets go of the object."""

    def __init__(self, store: Store, file: FileRecord, index: FileRecord, count: int) -> None:
        self._fd = -1
        self.name = store.name(file)
        index_path = store.file(index)
        try:
            if index_path.stat().st_size != index.bytes:  # before as many bytes are read
                raise ValueError(f"it has {index_path.stat().st_size} bytes instead of {index.bytes}")
            content = index_path.read_bytes()
            if hashlib.sha256(content).hexdigest() != index.sha256:
                raise ValueError("its checksum differs")
            self.index = parse_array(content, INDEX_DTYPE, (count,))
        except (OSError, ValueError) as error:
            raise _of_file(store, index, error, "is damaged") from None
        path = store.file(file)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _of_file(store, file, error, "cannot be read") from None
        self.size = os.fstat(self._fd).st_size
        if self.size != file.bytes:
            raise SampleError(f"{self.name} has {self.size} bytes instead of {file.bytes}: {_AGAIN}")

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, row: int, sample: int) -> bytes:
        """Stored bytes of an image, checked against the index."""
        offset, size, crc = self.index[row].tolist()
        if offset + size > self.size:  # before as many bytes are asked for
            raise self.error(row, sample, f"is cut short ({max(self.size - offset, 0)} of {size} bytes)")
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            if is_circumstance(error):
                raise explained(self.name, error) from None
            raise self.error(row, sample, f"cannot be read ({_one_line(error)})") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise self.error(row, sample, "is damaged (its checksum differs)")
        return data

    def error(self, row: int, sample: int, what: str) -> SampleError:
        return SampleError(f"{self.name} key {self._key(row)} (sample {sample}) {what}")

    def _key(self, row: int) -> str:
        """The member's name without its ending, from the tar header before its first byte."""
        try:
            header = os.pread(self._fd, 100, int(self.index["offset"][row]) - 512)
        except (OSError, OverflowError):
            return "unknown"
        name = header.split(b"\0", 1)[0].decode("ascii", "replace").rsplit(".", 1)[0]
        return name if name and name.isprintable() else "unknown"


def _of_file(store: Store, file: FileRecord, error: OSError | ValueError, what: str) -> SampleError | CircumstanceError:
    """The error for a whole file. One that this machine cannot open is not reported as damaged."""
    circumstance = unreadable(store, file, error) if isinstance(error, OSError) else None
    return circumstance or SampleError(f"{store.name(file)} {what} ({_one_line(error)}): {_AGAIN}")


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


class Reader:
    """Reads one level of a prepared data set. Any number of threads may use a reader at once.

    Raises ValueError when the data set has no such level. All that reads raises CircumstanceError when the machine
    cannot do it, for lack of memory, open files, permission or the file system itself.
    """

    def __init__(self, store: Store, manifest: Manifest, resolution: int, open_shards: int | None = None) -> None:
        if resolution not in manifest.levels:
            known = ", ".join(str(level) for level in sorted(manifest.levels))
            raise ValueError(f"{store.location} has no level {resolution}: it has {known}")
        self.store = store
        self.manifest = manifest
        self.resolution = resolution
        self.decoded = 0
        """Images decoded so far from tars."""
        self._level = manifest.levels[resolution]
        self.kind = self._level.kind
        """Whether the level is stored as "array" or as "tar"."""
        self._starts = np.array(manifest.shard_starts, dtype=np.int64)
        self._room = min(open_shards or OPEN_SHARDS, max(2, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))
        self._open: OrderedDict[int, Future[_ArrayShard | _TarShard]] = OrderedDict()
        self._checked: set[int] = set()
        self._lock = threading.Lock()
        self._closed = False

    def read(
        self, samples: Sequence[int] | NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.uint8], dict[int, SampleError]]:
        """uint8 [n, C, H, W] in 0..255 of n sample numbers, in their order, and what is wrong with those that are
        damaged or missing, by place in 0..n-1; their pixels have any values.

        From tars the array is a view of [n, H, W, C] memory. Raises IndexError for a number outside the data set.
        """
        numbers = np.asarray(samples, dtype=np.int64)
        channels, side = self.manifest.channels, self.resolution
        if self.kind == "array":
            faults: dict[int, SampleError] = {}
            with self._enough_memory():
                out = np.empty((len(numbers), channels, side, side), np.uint8)
            for shard, places, rows in self._shards(numbers, faults):
                assert isinstance(shard, _ArrayShard)
                out[places] = shard.rows[rows]
            return out, faults
        with self._enough_memory():
            out = np.empty((len(numbers), side, side, channels), np.uint8)
        faults = self.each_stored(numbers, lambda place, data: decode(data, out[place]))
        with self._lock:
            self.decoded += len(numbers) - len(faults)
        return out.transpose(0, 3, 1, 2), faults

    def each_stored(
        self, samples: Sequence[int] | NDArray[np.integer[Any]], use: Callable[[int, bytes], None]
    ) -> dict[int, SampleError]:
        """Calls `use(place, data)` with the stored bytes, checked, of each of n images of a tar level, in any order;
        returns what is wrong with those that are damaged or missing, by place in 0..n-1. To these belong the ones for
        which `use` raises DecodeError.

        Raises IndexError for a number outside the data set, and ValueError for an array level.
        """
        if self.kind != "tar":
            raise ValueError(f"level {self.resolution} of {self.store.location} has arrays, not encoded images")
        numbers = np.asarray(samples, dtype=np.int64)
        faults: dict[int, SampleError] = {}
        for shard, places, rows in self._shards(numbers, faults):
            assert isinstance(shard, _TarShard)
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                sample = int(numbers[place])
                try:
                    use(place, shard.read(row, sample))
                except SampleError as error:
                    faults[place] = error
                except MemoryError as error:
                    raise explained(self.store.location, error) from None
                except DecodeError as error:
                    faults[place] = shard.error(row, sample, str(error))
        return faults

    def pixels(self, samples: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Like `read`, but raises SampleError for the first sample that is damaged or missing."""
        pixels, faults = self.read(samples)
        if faults:
            raise faults[min(faults)]
        return pixels

    def raw(self, sample: int) -> bytes:
        """Stored bytes of one image of a tar level, checked. Raises as `pixels`, and ValueError for an array
        level."""
        found: list[bytes] = []
        for fault in self.each_stored([sample], lambda _, data: found.append(data)).values():
            raise fault
        return found[0]

    def opened(self) -> frozenset[int]:
        """The shards that are open, or being opened."""
        with self._lock:
            return frozenset(self._open)

    def close(self) -> None:
        """Let go of all files. The reader cannot be used any more."""
        with self._lock:
            self._closed = True
            self._open.clear()

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        try:
            yield
        except MemoryError as error:
            raise explained(self.store.location, error) from None

    def _shards(
        self, samples: NDArray[np.int64], faults: dict[int, SampleError]
    ) -> Iterator[tuple[_ArrayShard | _TarShard, NDArray[np.intp], NDArray[np.int64]]]:
        """Like `_by_shard`, with the shard itself; if it cannot be opened, its samples are added to `faults`."""
        for number, places, rows in self._by_shard(samples):
            try:
                shard = self._shard(number)
            except SampleError as error:
                faults |= dict.fromkeys(places.tolist(), error)
                continue
            yield shard, places, rows

    def _by_shard(self, samples: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """For every shard that holds some of the samples: its number, where they stand in `samples`, its
        rows."""
        if samples.ndim != 1:
            raise ValueError(f"sample numbers must be one-dimensional, not of shape {list(samples.shape)}")
        wrong = (samples < 0) | (samples >= self.manifest.samples)
        if wrong.any():
            held = f"which has {self.manifest.samples} samples"
            raise IndexError(f"sample {samples[wrong][0]} is outside {self.store.location}, {held}")
        shards = np.searchsorted(self._starts, samples, side="right") - 1
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            yield shard, places, samples[places] - self._starts[shard]

    def _shard(self, number: int) -> _ArrayShard | _TarShard:
        """An open shard. A caller may continue to use the object after it has been dropped from the
        cache. Raises SampleError, and again without a new attempt as long as this shard is among the latest."""
        with self._lock:
            if self._closed:
                raise ValueError(f"the reader of {self.store.location} is closed")
            opened = self._open.get(number)
            first = opened is None
            if opened is None:
                opened = self._open[number] = Future()
            self._open.move_to_end(number)
            while len(self._open) > self._room:
                self._open.popitem(last=False)
        if first:  # outside the lock, since it may take long
            try:
                opened.set_result(self._open_with_few_files(number))
            except BaseException as error:
                if not isinstance(error, SampleError):  # may pass
                    with self._lock:
                        self._open.pop(number, None)
                opened.set_exception(error)
        return opened.result()

    def _open_with_few_files(self, number: int) -> _ArrayShard | _TarShard:
        """Like `_open_shard`; at the limit of open files, others are closed first, and threads that may be closing
        theirs are waited for a little."""
        patience = _PATIENCE
        while True:
            try:
                return self._open_shard(number)
            except CircumstanceError as error:
                with self._lock:
                    others = [other for other in self._open if other != number]
                    if error.errno not in (errno.EMFILE, errno.ENFILE) or not (others or patience):
                        raise
                    self._room = max(1, len(others) // 2)
                    for other in others[: len(others) - self._room + 1]:
                        del self._open[other]
                if not others:
                    patience -= 1
                    sleep(0.02)

    def _open_shard(self, number: int) -> _ArrayShard | _TarShard:
        count = self.manifest.shards[number].samples
        file = self._level.files[number]
        if self.kind == "tar":
            return _TarShard(self.store, file, self._level.indexes[number], count)
        shape = (count, self.manifest.channels, self.resolution, self.resolution)
        shard = _ArrayShard(self.store, file, shape, check=number not in self._checked)
        self._checked.add(number)
        return shard
