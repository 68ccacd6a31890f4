"""Checks that a tar is exactly what its index and the labels say, for thousands of members at once.

This only says yes or no. What is wrong where it says no, examination.py finds out member by member.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.verify.tars import BLOCK, MAGIC

_CHECKSUM = slice(148, 156)


class Layout:
    """Looks at the chunks of a tar, in order, while they are read for another reason."""

    def __init__(
        self, index: NDArray[np.void], size: int, ending: str, labelled: bool, labels: NDArray[np.int64] | None
    ) -> None:
        """`index` has a row an image; `size` is the tar's in bytes; a labelled sample has a .cls member before its
        image, with the text of its entry in `labels` [n] if these are known."""
        self.keys: NDArray[np.int64] = np.full(len(index), -1)
        """[n] key of every sample as a number; -1 before it was seen, or where it is not as it should be."""
        self._ending, self._labels = ending, labels
        self._frame = 3 if labelled else 1  # blocks before an image: its header, and before it .cls and its header
        self._label_keys: NDArray[np.int64] = np.full(len(index) if labelled else 0, -1)
        self._sound = bool((index["offset"] <= size).all() and (index["size"] <= size).all()) and size % BLOCK == 0
        if not self._sound:
            return
        offsets, self._sizes = index["offset"].astype(np.int64), index["size"].astype(np.int64)
        ends = offsets + (self._sizes + BLOCK - 1) // BLOCK * BLOCK
        begins = np.concatenate([[0], ends[:-1]])
        self._sound = bool((offsets == begins + self._frame * BLOCK).all())
        self._first = begins // BLOCK
        self._end = int(ends[-1])
        self._sound &= size - self._end >= 2 * BLOCK

    def look(self, start: int, content: memoryview) -> None:
        """At bytes [start, start + len(content)) of the tar, whole blocks."""
        if not self._sound:
            return
        blocks = np.frombuffer(content, np.uint8).reshape(-1, BLOCK)
        if start + len(content) > self._end:
            self._sound &= not blocks[max(self._end - start, 0) // BLOCK :].any()
        image, rows = self._pick(blocks, start // BLOCK, self._frame - 1)
        self.keys[rows] = read_keys(image, self._ending, self._sizes[rows])
        if self._frame == 3:
            header, rows = self._pick(blocks, start // BLOCK, 0)
            texts = None if self._labels is None else self._labels[rows].astype("S20")
            self._label_keys[rows] = read_keys(header, "cls", None if texts is None else np.char.str_len(texts))
            text, rows = self._pick(blocks, start // BLOCK, 1)
            if self._labels is not None:
                # The comparison of such strings ignores zeros at their ends: the rest of the block is all zeros.
                self._sound &= bool((text.view(f"S{BLOCK}")[:, 0] == self._labels[rows].astype("S20")).all())

    def _pick(self, blocks: NDArray[np.uint8], start: int, place: int) -> tuple[NDArray[np.uint8], slice]:
        """The blocks at that place before the images, and the rows of the samples that have theirs here."""
        numbers = self._first + place
        rows = slice(*np.searchsorted(numbers, [start, start + len(blocks)]).tolist())
        return blocks[numbers[rows] - start], rows

    @property
    def sound(self) -> bool:
        """Whether the tar is as it should be, once all of it has been seen."""
        labels = self._frame == 1 or bool((self._label_keys == self.keys).all())
        return self._sound and labels and bool((self.keys >= 0).all())


def read_keys(headers: NDArray[np.uint8], ending: str, sizes: NDArray[Any] | None) -> NDArray[np.int64]:
    """Keys [n] of members from their headers [n, 512]; -1 for one that is not the header of KEY.ending of that size.

    Understands only headers like the first one: names of equal length, sizes in the usual form.
    """
    if not len(headers):
        return np.empty(0, np.int64)
    width = max(bytes(headers[0, :18]).find(b"."), 0)
    rest = np.frombuffer(f".{ending}".encode().ljust(100 - width, b"\0"), np.uint8)
    total = headers.sum(axis=1, dtype=np.uint32) - headers[:, _CHECKSUM].sum(axis=1, dtype=np.uint32) + 8 * ord(" ")
    keys = _number(headers[:, :width], 10)
    good = (
        (headers[:, 257:262] == np.frombuffer(MAGIC, np.uint8)).all(axis=1)
        & (headers[:, width:100] == rest).all(axis=1)
        & ~headers[:, 345:500].any(axis=1)  # the part of a long name that goes before
        & (headers[:, 156] == ord("0"))
        & (_number(headers[:, 148:154], 8) == total)
    )
    size = _number(headers[:, 124:135], 8)
    good &= (size == sizes) if sizes is not None else (size <= BLOCK)
    return np.where(good & (size > 0), keys, -1)


def _number(digits: NDArray[np.uint8], base: int) -> NDArray[np.int64]:
    """Numbers [n] from their digits [n, k]; -1 where some are none."""
    values = digits - np.uint8(ord("0"))  # what is smaller wraps around
    numbers = values.astype(np.int64) @ base ** np.arange(values.shape[1])[::-1]
    return np.where((values < base).all(axis=1), numbers, -1) if values.shape[1] else np.full(len(values), -1)
