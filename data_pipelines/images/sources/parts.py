"""Images stored as stretches of bytes in local files, as in archives."""

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import ImageError, Source
from data_pipelines.images.sources.image import MAX_BYTES


def read_part(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on. Raises ImageError when the file has fewer."""
    # Opened anew for every image, which costs nothing against decoding it: so no descriptor has to be kept out of a
    # pickle, closed, or counted where a source has thousands of files.
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise ImageError(f"is cut short ({len(data)} of {size} bytes): {path} has changed or is damaged")
    return data


@dataclass
class Parts:
    """The position of every image, gathered image by image; columns of equal length."""

    files: list[Path]
    """The files that `file` counts."""
    file: "array[int]" = field(default_factory=lambda: array("i"))
    offset: "array[int]" = field(default_factory=lambda: array("q"))
    size: "array[int]" = field(default_factory=lambda: array("q"))
    unusable: dict[int, str] = field(default_factory=dict)
    """Images that are not to be read, and why: the rest of a sentence about them."""

    def add(self, file: int, offset: int, size: int, unusable: str | None = None) -> None:
        if unusable is None and size > MAX_BYTES:
            unusable = f"has {size} bytes, more than {MAX_BYTES}"
        if unusable is not None:
            self.unusable[len(self.size)] = unusable
        self.file.append(file)
        self.offset.append(offset)
        self.size.append(size)

    def __len__(self) -> int:
        return len(self.size)


class PartsSource(Source):
    """A source that reads its images as parts of files."""

    parts: Parts

    def read(self, i: int) -> bytes | NDArray[np.uint8]:
        """Like Source.read; raises ImageError also for a part that is unusable or no longer complete."""
        if i in self.parts.unusable:
            raise ImageError(self.parts.unusable[i])
        path = self.parts.files[self.parts.file[i]]
        return self.content(i, path, self.parts.offset[i], self.parts.size[i])

    def content(self, i: int, path: Path, offset: int, size: int) -> bytes | NDArray[np.uint8]:
        """Image i out of the `size` bytes at `offset`: these bytes themselves unless a source says otherwise."""
        return read_part(path, offset, size)
