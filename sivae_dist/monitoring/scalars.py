"""metrics.jsonl and speed.jsonl: one JSON object a line, with the number of images seen.

metrics.jsonl holds only what follows from the settings and the seed, so that two runs of the same settings, one of them
killed and resumed, leave the same file; speed.jsonl holds what follows from the machine.
"""

import json
import os
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any


class Rows:
    """A file of rows that is cut back to a position when a run resumes there."""

    def __init__(self, path: Path, images: int) -> None:
        """Rows past `images`, and a last row that was cut short, are removed."""
        self.path = path
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
        self._file: FileIO = open(path, "ab", buffering=0)  # noqa: SIM115 (open for the life of the run)
        self._waiting = b""
        self._lock = Lock()

    def write(self, images: int, values: dict[str, Any]) -> None:
        """Adds a row and hands it to the operating system; when that has no room, with the next one."""
        with self._lock:
            self._waiting += (json.dumps({"images": images, **values}) + "\n").encode()
            try:
                self._hand_over()
            except OSError:
                pass  # `sync` tells, and no checkpoint is written without it

    def _hand_over(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def sync(self) -> None:
        """Puts all rows on disk, as must be before a checkpoint says that they are there; from any thread.

        OSError naming the file when that is not possible.
        """
        with self._lock:
            try:
                self._hand_over()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        self._file.close()


def _belongs(line: str, images: int) -> bool:
    if not line.endswith("\n"):  # only the last line can be cut short, by a kill while it was written
        return False
    try:
        return bool(json.loads(line)["images"] <= images)
    except ValueError:
        return False


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
