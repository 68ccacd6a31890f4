"""A remote prepared data set: its files are fetched into a cache, when they are asked for or ahead."""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from pydantic import Field

from data_pipelines.images.cache import Cache, Partial
from data_pipelines.images.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileRecord, Manifest
from data_pipelines.images.store import Store
from data_pipelines.images.transport import RemoteError, Result, TransferError, TransferSettings, insist, open_transport
from data_pipelines.settings import expand


class RemoteSettings(TransferSettings):
    """How a remote data set is fetched and cached."""

    cache: str | None = None
    """Folder for the fetched files, best on a local disk of each machine; `~` and `$VARIABLES` are replaced. By default
    `sivae-data` in `$XDG_CACHE_HOME` or `~/.cache`."""
    cache_gb: float = Field(100.0, gt=0)
    """Gigabytes (10^9 bytes) that the folder may hold, of all runs that share it. Beyond that the least recently used
    files are removed; files that a process still has open occupy space until it closes them."""
    threads: int = Field(2, ge=1)
    """Files that each process fetches ahead at once."""

    @property
    def folder(self) -> Path:
        if self.cache is not None:
            return Path(expand(self.cache))
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sivae-data"


class RemoteStore(Store):
    """A prepared data set at a URL that fsspec can open, or behind a command (`pipe:ssh HOST cat SET/{name}`).

    Raises ValueError when nothing can open the URL or a command has no `{name}`, and CacheError when the cache's folder
    cannot be used.
    """

    remote = True

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        if url.startswith("pipe:") and "{name}" not in url:
            raise ValueError(f"{url} does not say where the name of a file goes: write {{name}} there")
        self._settings = settings
        self._transport = open_transport(url, settings.timeout)
        super().__init__(self._transport.location)
        self._closing = threading.Event()
        bound = int(settings.cache_gb * 1e9)
        self._cache = Cache(settings.folder, bound, self._closing)
        self._ahead = _Ahead(self._fetch_ahead, bound // 2, settings, self._closing)
        self._held: dict[int, int] = {}
        self._lock = threading.Lock()

    def name(self, record: FileRecord) -> str:
        return self._transport.name(record.name)

    def manifest(self) -> Manifest:
        """Fetched anew each time, as it shows whether anything has changed. Raises as Store.manifest."""
        name = self._transport.name(MANIFEST_NAME)
        try:
            text = self._insist(name, self._read_manifest, self._settings.delays)
        except RemoteError as error:
            if isinstance(error.__cause__, TransferError) and error.__cause__.missing:
                raise FileNotFoundError(f"no prepared data set at {self.location}: {error}") from None
            raise
        return Manifest.parse(text, name)

    def _read_manifest(self) -> bytes:
        text = bytearray()
        with closing(self._transport.chunks(MANIFEST_NAME)) as chunks:
            for chunk in chunks:
                self._check_open()
                text += chunk
                if len(text) > MAX_MANIFEST_BYTES:
                    raise TransferError(f"it has more than {MAX_MANIFEST_BYTES} bytes: not a manifest", final=True)
        return bytes(text)

    def file(self, record: FileRecord) -> Path:
        """The path can be opened until this thread asks for another file or the store is closed.

        Raises RemoteError when it cannot be fetched and CacheError when the cache cannot hold it.
        """
        self._ahead.asked(record)
        descriptor = self._cache.open(record, lambda partial: self._fetch(record, partial, self._settings.delays))
        assert descriptor is not None
        # Another process may remove the file before the caller has opened it. Held open it can still be opened.
        with self._lock:
            if (last := self._held.pop(threading.get_ident(), None)) is not None:
                os.close(last)
            self._held[threading.get_ident()] = descriptor
        return Path(f"/proc/{os.getpid()}/fd/{descriptor}")

    def expect(self, records: Sequence[FileRecord]) -> None:
        """Fetches these files in the background, as far as what nobody has asked for yet fits into half the cache.

        A failure there is retried, and reported, when the file is requested.
        """
        self._ahead.expect(records)

    def close(self) -> None:
        """Ends transfers and threads; threads that wait for a file get an OSError."""
        self._closing.set()
        self._transport.close()
        self._ahead.join()
        with self._lock:
            while self._held:
                os.close(self._held.popitem()[1])

    def _fetch_ahead(self, record: FileRecord) -> None:
        """One try, unless another thread or process is fetching the file."""
        descriptor = self._cache.open(record, lambda partial: self._fetch(record, partial, []), wait=False)
        if descriptor is not None:
            os.close(descriptor)

    def _fetch(self, record: FileRecord, partial: Partial, delays: list[float]) -> None:
        """Writes the file, checked. Raises RemoteError or CacheError."""
        self._insist(self.name(record), lambda: self._transfer(record, partial), delays)

    def _transfer(self, record: FileRecord, partial: Partial) -> None:
        partial.restart()
        count, digest = 0, hashlib.sha256()
        with closing(self._transport.chunks(record.name)) as chunks:
            for chunk in chunks:
                self._check_open()
                count += len(chunk)
                if count > record.bytes:
                    raise TransferError(f"it is longer than the {record.bytes} bytes in the manifest")
                digest.update(chunk)
                partial.write(chunk)
        if count < record.bytes:
            raise TransferError(f"it ended after {count} of {record.bytes} bytes")
        if digest.hexdigest() != record.sha256:
            raise TransferError("its SHA-256 differs from the manifest's: the copy there is damaged, or not this set's")

    def _insist(self, name: str, attempt: Callable[[], Result], delays: list[float]) -> Result:
        """The result of `attempt`, which is tried again after each of the delays. Raises RemoteError."""
        try:
            return insist(name, attempt, delays, self._pause)
        except RemoteError:
            self._check_open()  # then it failed because of that
            raise

    def _pause(self, delay: float) -> None:
        self._closing.wait(delay)
        self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise RemoteError(f"{self.location} was closed")


class _Ahead:
    """Fetches expected files in threads, in order, as long as those that nobody has asked for yet fit a budget."""

    def __init__(
        self, fetch: Callable[[FileRecord], None], budget: int, settings: RemoteSettings, closing: threading.Event
    ) -> None:
        self._fetch = fetch
        self._budget = budget
        self._settings = settings
        self._closing = closing
        self._expected: deque[FileRecord] = deque()
        self._unused: dict[str, int] = {}  # bytes of what was or is being fetched and was not asked for, by SHA-256
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def expect(self, records: Sequence[FileRecord]) -> None:
        """Replaces what was expected before."""
        wanted = {record.sha256: record for record in records if record.bytes <= self._budget}
        with self._changed:
            self._unused = {sha256: size for sha256, size in self._unused.items() if sha256 in wanted}
            self._expected = deque(record for sha256, record in wanted.items() if sha256 not in self._unused)
            self._changed.notify_all()
            while len(self._threads) < self._settings.threads and not self._closing.is_set():
                thread = threading.Thread(target=self._work, name=f"fetch-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def asked(self, record: FileRecord) -> None:
        """The file is used now: it leaves room for another, and the thread that asks fetches it if necessary."""
        with self._changed:
            self._unused.pop(record.sha256, None)
            if record in self._expected:
                self._expected.remove(record)
            self._changed.notify_all()

    def join(self) -> None:
        """Waits for the threads, after `closing` was set."""
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (record := self._next()) is not None:
            for delay in (0.0, *self._settings.delays):
                if self._closing.wait(delay) or record.sha256 not in self._unused:
                    break
                try:
                    self._fetch(record)
                    break
                except OSError:  # a later request for the file retries and reports
                    continue

    def _next(self) -> FileRecord | None:
        """The next file that fits; None when the store is closed."""
        with self._changed:
            while not self._closing.is_set():
                if self._expected and sum(self._unused.values()) + self._expected[0].bytes <= self._budget:
                    record = self._expected.popleft()
                    self._unused[record.sha256] = record.bytes
                    return record
                self._changed.wait()
        return None
