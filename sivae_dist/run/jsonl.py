"""JSON lines: files of rows, each a JSON object on a line of its own, that grow while others read them.

A row that is being written, or was cut short by a kill or a full disk, is not there for any reader.
"""

import json
import os
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from sivae_dist.run.atomic import replacing

Row = dict[str, Any]

_TAIL = 1 << 16
"""Bytes at the end of a file in which its last row is looked for."""


def read_rows(path: Path) -> list[Row]:
    """All complete rows; none where there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [row for line in lines if (row := _parsed(line)) is not None]


def last_row(path: Path, wanted: Callable[[Row], bool] = lambda row: True) -> Row | None:
    """The last complete row that is `wanted`, of the newest 64 KiB, since the file may be long."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    rows = (_parsed(line) for line in reversed(lines))
    return next((row for row in rows if row is not None and wanted(row)), None)


def append_rows(path: Path, rows: Iterable[Row], *, durable: bool = False) -> None:
    """Adds rows at once, so that any process on any node may add some. The folder is made.

    durable: they are on disk when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        cut_short = size and os.pread(descriptor, 1, size - 1) != b"\n"
        content = b"\n" * bool(cut_short) + b"".join(map(_line, rows))  # or the first would be lost with that one
        while content:
            content = content[os.write(descriptor, content) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Rows:
    """A file of rows with the number of `images` seen, kept open, and cut back to a position when a run resumes."""

    def __init__(self, path: Path, images: int, warn: Callable[[str], object] | None = None) -> None:
        """Rows past `images`, and a last row that was cut short, are removed.

        With `warn` nobody depends on the file: where it cannot be written, that is reported once, and rows wait for it.
        """
        self.path = path
        self._warn = warn
        self._file: FileIO | None = None
        self._waiting = b""
        self._lock = Lock()
        try:
            self._cut_back(images)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open for the life of the run)
        except OSError as error:
            if warn is None:
                raise
            self._tell(error)

    def _cut_back(self, images: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _belongs(line, images)]
        if kept != lines:  # else it is left alone: `sivae evaluate` may be adding rows to its file
            with replacing(self.path) as partial:
                partial.write_bytes(b"".join(kept))

    def write(self, images: int, values: Row) -> None:
        """Adds a row and hands it to the operating system; when that has no room, with the next one."""
        if self._file is None:
            return
        with self._lock:
            self._waiting += _line({"images": images, **values})
            try:
                self._hand_over(self._file)
            except OSError as error:  # else `sync` reports it, and no checkpoint is written without it
                self._tell(error)

    def _tell(self, error: OSError) -> None:
        if self._warn is not None:
            self._warn(f"warning: {self.path} cannot be written for now: {error.strerror}")
            self._warn = _silent

    def _hand_over(self, file: FileIO) -> None:
        while self._waiting:
            self._waiting = self._waiting[file.write(self._waiting) :]

    def sync(self) -> None:
        """Puts all rows on disk, as must be before a checkpoint says that they are there; from any thread.

        OSError naming the file when that is not possible.
        """
        if self._file is None:
            return
        with self._lock:
            try:
                self._hand_over(self._file)
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _line(row: Row) -> bytes:
    return f"{json.dumps(row)}\n".encode()


def _parsed(line: bytes) -> Row | None:
    """None for anything but a whole object."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _belongs(line: bytes, images: int) -> bool:
    row = _parsed(line) if line.endswith(b"\n") else None  # else the next row would be written onto the same line
    return row is not None and row.get("images", images + 1) <= images


def _silent(message: str) -> None:
    """It has been reported."""
