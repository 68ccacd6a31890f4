"""What stands at URLs, comes from pipes or is compressed, written to a plain local file."""

import gzip
import io
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from data_pipelines.sources import SourceError

_WAITS = (1.0, 5.0, 25.0)
"""Seconds before each further try to fetch something."""

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20

_CURL_HTTP_ERROR = 22
"""Status of curl for a page that is not there; what may pass it has then tried again by itself."""


class _HopelessError(SourceError):
    """Another try would end the same way."""


def is_url(where: str) -> bool:
    """Whether it is for webdataset's opener, not for the file system."""
    return "://" in where or where.startswith("pipe:")


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def unpack(path: Path, dest: Path, size: int | None = None) -> None:
    """Write what a gzip file holds to `dest`. Raises SourceError for a damaged one, and when it is not `size` bytes."""
    with path.open("rb") as file, dest.open("wb") as copy, gzip.GzipFile(fileobj=file) as content:
        try:
            if size is None:
                shutil.copyfileobj(content, copy, _CHUNK)
                return
            while copy.tell() <= size and (data := content.read(_CHUNK)):
                copy.write(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(f"{path} is damaged ({error}): get it again") from None
        if copy.tell() != size:
            more = "more" if copy.tell() > size else f"only {copy.tell()}"
            raise SourceError(f"{path} is damaged ({more} of {size} bytes): get it again")


def fetch(url: str, dest: Path, check: Callable[[Path], None]) -> None:
    """Write what stands at a URL, or comes from a `pipe:` command, to `dest`, unpacked where it is gzip.

    What fails, or comes but does not pass `check` (which raises SourceError), is tried again a few times. Raises
    SourceError that names the URL.
    """
    for wait in _WAITS:
        try:
            return _fetch_once(url, dest, check)
        except _HopelessError:
            raise
        except SourceError:
            time.sleep(wait)
    _fetch_once(url, dest, check)


def _fetch_once(url: str, dest: Path, check: Callable[[Path], None]) -> None:
    with dest.open("wb") as copy, io.BufferedReader(_Stream(url), _CHUNK) as stream:
        try:
            packed = stream.peek(2).startswith(_GZIP)
            shutil.copyfileobj(gzip.GzipFile(fileobj=stream) if packed else stream, copy, _CHUNK)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(f"{url} came damaged ({error}): get a whole one there") from None
    check(dest)


class _Stream(io.RawIOBase):
    """Bytes from a URL; every failure to get them is a SourceError that names it."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._stream = _open(url)
        except Exception as error:  # of any of fsspec's backends
            raise _HopelessError(f"{url} cannot be opened ({_one_line(error)})") from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except Exception as error:
            if (process := self._process()) is not None and process.poll() is not None:
                self._check_status()
            raise SourceError(f"{self._url} cannot be fetched ({_one_line(error)})") from None
        if not data:
            self._check_status()
        buffer[: len(data)] = data
        return len(data)

    def _process(self) -> "subprocess.Popen[bytes] | None":
        return getattr(self._stream, "proc", None)

    def _check_status(self) -> None:
        """The end of what a program writes says nothing: only its status tells whether that was all."""
        process = self._process()
        if process is not None and (status := process.wait()) != 0:
            program = process.args[0] if isinstance(process.args, list) else "the command"
            hopeless = program == "curl" and status == _CURL_HTTP_ERROR
            message = f"{self._url} cannot be fetched ({program} ended with status {status})"
            raise (_HopelessError if hopeless else SourceError)(f"{message}: check it and run the same command again")

    def close(self) -> None:
        if not self.closed:
            super().close()
            try:
                self._stream.close()
            except OSError:  # the status of a program whose whole output was judged, or is no longer wanted
                pass


def _open(url: str) -> IO[bytes]:
    from webdataset.gopen import gopen, gopen_schemes  # takes seconds, for it imports torch

    if urlsplit(url).scheme in gopen_schemes:
        stream: IO[bytes] = gopen(url)
        return stream
    import fsspec  # knows more places, s3:// among them

    opened: IO[bytes] = fsspec.open(url).open()
    return opened


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
