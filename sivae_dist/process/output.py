"""Printing that never ends the program: to a closed pipe, a terminal that is gone, a file on a full disk."""

import errno
import io
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_GONE = frozenset({errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENXIO, errno.EBADF})
"""Errors of a write that will never succeed again; any other (a full disk) may pass."""


class _Lasting(io.FileIO):
    """A file whose writes do not fail: what cannot be written is dropped; `warn` is called with the first reason."""

    def __init__(self, file: int | Path, warn: Callable[[OSError], object], *, closefd: bool = True) -> None:
        super().__init__(file, "a" if isinstance(file, Path) else "w", closefd=closefd)
        self._warn = warn
        self._warned = False
        self._gone = False

    def write(self, data: "ReadableBuffer", /) -> int:
        while not self._gone:
            try:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [self.fileno()], [])  # set to non-blocking by another program on the terminal
            except OSError as error:
                self._gone = error.errno in _GONE
                if not self._warned:
                    self._warned = True
                    self._warn(error)
                break
        return memoryview(data).nbytes


def outlast_watchers() -> None:
    """Makes this process survive the loss of its output: `| head`, a lost connection, `> log` on a full disk.

    What cannot be written to stdout is dropped with one line on stderr, and the other way round. Streams that are not
    the process's own, as under a test's capture, are left alone.
    """
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _lasting(sys.stdout, lambda error: _note("stdout", error, 2))
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _lasting(sys.stderr, lambda error: _note("stderr", error, 1))


def lasting_log(path: Path) -> TextIO:
    """A log to add lines to. Where it cannot be written, stderr says so once and the lines are dropped.

    OSError when it cannot be opened.
    """
    raw = _Lasting(path, lambda error: print(f"warning: {path} cannot be written: {error.strerror}", file=sys.stderr))
    return io.TextIOWrapper(io.BufferedWriter(raw), line_buffering=True)


def _lasting(stream: TextIO, warn: Callable[[OSError], object]) -> TextIO:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream
    raw = _Lasting(descriptor, warn, closefd=False)
    try:
        stream.flush()
    except OSError as error:
        warn(error)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=getattr(stream, "line_buffering", True),
    )


def _note(name: str, error: OSError, other: int) -> None:
    """Writes to a descriptor, as this happens during another write, when Python's streams cannot be used."""
    try:
        os.write(other, f"note: {name} cannot be written ({error.strerror}); everything else continues\n".encode())
    except OSError:
        pass  # it is gone as well
