"""Sources of images that have not been prepared yet.

A `Source` is a list of images in a fixed order, each with a name, perhaps a label, perhaps a split. It must be
picklable: every worker process of a preparation gets a copy.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources.findings import Findings

Labels = Literal["auto", "folders", "none"]


class SourceError(ValueError):
    """A source cannot be used; the message is one line."""


class ImageError(SourceError):
    """A file's content is no usable image; the message is one line to be put behind the file's name."""


class Names(Sequence[str]):
    """Many strings in little memory, and quick to copy to another process."""

    def __init__(self, names: Iterable[str | bytes]) -> None:
        """`names`: text, or its bytes in UTF-8, taken one at a time. Bytes that are no UTF-8 are kept as Python keeps
        them in the names of files."""
        text, ends = bytearray(), array("q")
        for name in names:
            encoded = name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
            text += encoded
            ends.append(len(text))
        self._text = bytes(text)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> "list[str]": ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        start = int(self._ends[i - 1]) if i else 0
        return self._text[start : int(self._ends[i])].decode(errors="surrogateescape")


@dataclass(frozen=True)
class Listing:
    """The images of a source, in order; columns of equal length."""

    names: Names
    """Of each image inside the source, unique, with `/` between folders."""
    sizes: NDArray[np.int64]
    """Stored bytes of each image; used to notice that a source has changed."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty when there are no labels."""
    labels: NDArray[np.int32] | None = None
    """Of each image in [0, len(classes)), -1 where it has none; None when there are no labels."""
    test: NDArray[np.bool_] | None = None
    """Which images the source itself keeps for testing; None when it does not say."""
    top: str = ""
    """The folders around everything in the source, with a slash behind, which the names leave out."""

    def __post_init__(self) -> None:
        columns = [self.names, self.sizes, self.labels, self.test]
        assert len({len(column) for column in columns if column is not None}) == 1
        assert bool(self.classes) == (self.labels is not None)

    def __len__(self) -> int:
        return len(self.names)

    def label(self, i: int) -> int | None:
        """Label of image i, None when it has none."""
        return None if self.labels is None or self.labels[i] < 0 else int(self.labels[i])

    def digest(self) -> str:
        """SHA-256 of all of it. Images' content does not go into it."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for name, size in zip(self.names, self.sizes.tolist(), strict=True):
            digest.update(f"{size} {name}\n".encode(errors="surrogateescape"))
        for column in (self.labels, self.test):
            digest.update(b"none" if column is None else column.tobytes())
        return digest.hexdigest()


class Source(ABC):
    """A list of images in a fixed order."""

    listing: Listing
    found: Findings
    """Findings from when it was listed."""

    def __len__(self) -> int:
        return len(self.listing)

    @abstractmethod
    def read(self, i: int) -> bytes | NDArray[np.uint8]:
        """Image i: the bytes of an image file, or pixels [H, W, C] with C of 1 or 3 (RGB).

        Raises ImageError when there is no usable image and OSError when it cannot be read at all.
        """


def listing_of(
    names: Iterable[str | bytes],
    sizes: Sequence[int] | NDArray[Any],
    classes: tuple[str, ...] = (),
    labels: Sequence[int | None] | None = None,
    test: Sequence[bool] | None = None,
    top: str = "",
) -> Listing:
    """A listing from plain lists; a label of None is none."""
    return Listing(
        names if isinstance(names, Names) else Names(names),
        np.asarray(sizes, np.int64),
        classes,
        None if labels is None else np.array([-1 if label is None else label for label in labels], np.int32),
        None if test is None else np.asarray(test, bool),
        top,
    )
