"""metrics.jsonl and speed.jsonl: one JSON object a line, with the number of images seen.

metrics.jsonl holds only what follows from the settings and the seed, so that two runs of the same settings, one of them
killed and resumed, leave the same file; speed.jsonl holds what follows from the machine.
"""

import json
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any


class Rows:
    """A file of rows that is cut back to a position when a run resumes there."""

    def __init__(self, path: Path, images: int, warn: Callable[[str], object] | None = None) -> None:
        """Rows past `images`, and a last row that was cut short, are removed.

        With `warn` nobody depends on the file: where it cannot be written, that is told once, and rows wait for it.
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
        path = self.path
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _belongs(line, images)]
            if kept != lines:  # else it is left alone: `sivae evaluate` may be adding rows to its file
                partial = path.with_name(f".{path.name}.partial")
                with open(partial, "w") as file:
                    file.writelines(kept)
                    file.flush()
                    os.fsync(file.fileno())
                partial.rename(path)

    def write(self, images: int, values: dict[str, Any]) -> None:
        """Adds a row and hands it to the operating system; when that has no room, with the next one."""
        if self._file is None:
            return
        with self._lock:
            self._waiting += (json.dumps({"images": images, **values}) + "\n").encode()
            try:
                self._hand_over(self._file)
            except OSError as error:  # else `sync` tells, and no checkpoint is written without it
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


def _silent(message: str) -> None:
    """It has been told."""


def _belongs(line: str, images: int) -> bool:
    if not line.endswith("\n"):  # only the last line can be cut short, by a kill while it was written
        return False
    try:
        return bool(json.loads(line)["images"] <= images)
    except ValueError:
        return False


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
