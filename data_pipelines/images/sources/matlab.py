"""Arrays of bytes in MATLAB's files of level 5 (`save -v6` and `-v7`), without trusting what their headers claim.

A file is a sequence of elements, each with its type and size in front: variables, which may each be compressed.
scipy.io reads more forms of them, but a wrong type in front of an array ends its process by a segmentation fault.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.parts import read_part

MAX_BYTES = 1 << 28
"""Of an array."""

_HEADER = 128
_START = 512
"""Bytes of a variable that are looked at for its name and shape."""
_HDF5 = b"MATLAB 7.3 MAT-file"
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15
"""Types of elements."""
_CLASS_UINT8 = 9
_COMPLEX = 0x800


@dataclass(frozen=True)
class Piece:
    """A file, or its stretch in an archive."""

    path: Path
    offset: int
    size: int
    name: str
    """In messages."""

    def read(self, start: int, count: int) -> bytes:
        return read_part(self.path, self.offset + start, count)

    def damaged(self, reason: str) -> SourceError:
        return SourceError(f"{self.name} is a damaged MATLAB file ({reason}): get it again")


@dataclass(frozen=True)
class Bytes:
    """A uint8 array in a file, in MATLAB's order: the first axis changes fastest."""

    piece: Piece
    shape: tuple[int, ...]
    start: int
    """Of its variable, behind the size of it."""
    size: int
    """Stored bytes of its variable."""
    inflated: int | None
    """Bytes of its variable before it was compressed; None when it is not."""
    skip: int
    """Bytes of the variable, as it was before, in front of the array."""

    def read(self) -> NDArray[np.uint8]:
        """uint8 [*shape]. Raises SourceError when it is damaged."""
        content = self.piece.read(self.start, self.size)
        if self.inflated is not None:
            content = self._inflate(content, self.inflated)
        return np.frombuffer(content, np.uint8, prod(self.shape), self.skip).reshape(self.shape, order="F")

    def _inflate(self, content: bytes, size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(content, size + 1)
        except zlib.error as error:
            raise self.piece.damaged(str(error)) from None
        if len(plain) != size or not stream.eof:  # at whose end a checksum is compared
            raise self.piece.damaged(f"a compressed variable does not hold the {size} bytes that it claims")
        return plain


def find_bytes(piece: Piece, variable: str) -> Bytes | None:
    """The uint8 array of this name; None in a file that is no MATLAB file or has none of that name and kind.

    Raises SourceError for one of MATLAB 7.3 (HDF5), and for one that is damaged as far as headers tell.
    """
    head = piece.read(0, min(_HEADER, piece.size))
    if head.startswith(_HDF5):
        raise SourceError(f"{piece.name} has the format of MATLAB 7.3 (HDF5): save it again with save(..., '-v7')")
    if len(head) < _HEADER or head[124:128] not in (b"\0\1IM", b"\1\0MI"):
        return None
    order = "<" if head.endswith(b"IM") else ">"
    for kind, start, size in _variables(piece, order):
        if kind == _MATRIX:
            content, inflated, tag = piece.read(start, min(size, _START)), None, 0
        elif kind == _COMPRESSED:
            content, tag = _first_bytes(piece, start, size), 8
            inner, claimed, _ = _element(piece, content, 0, order)
            inflated = 8 + claimed
            if inner != _MATRIX or inflated > MAX_BYTES + _START:
                raise piece.damaged(f"a compressed variable claims {claimed} bytes of type {inner}")
        else:
            continue
        if (found := _array(piece, content, tag, order, variable)) is not None:
            shape, skip = found
            if skip + prod(shape) > (size if inflated is None else inflated):
                raise piece.damaged(f"{variable} of shape {shape} is larger than its variable")
            return Bytes(piece, shape, start, size, inflated, skip)
    return None


def _variables(piece: Piece, order: str) -> Iterator[tuple[int, int, int]]:
    """Type, start and stored bytes of each."""
    at = _HEADER
    while at + 8 <= piece.size:
        kind, size = struct.unpack(order + "II", piece.read(at, 8))
        if size > piece.size - at - 8:
            raise piece.damaged(f"a variable claims {size} bytes, but the file ends before that")
        yield kind, at + 8, size
        at += 8 + size


def _first_bytes(piece: Piece, start: int, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(piece.read(start, min(size, 4 * _START)), _START)
    except zlib.error as error:
        raise piece.damaged(str(error)) from None


def _element(piece: Piece, content: bytes, at: int, order: str) -> tuple[int, int, int]:
    """Type and size of the element there, and where its data start."""
    if at + 8 > len(content):
        raise piece.damaged("a variable ends inside its description")
    first, size = struct.unpack_from(order + "II", content, at)
    return (first & 0xFFFF, first >> 16, at + 4) if first >> 16 else (first, size, at + 8)


def _array(piece: Piece, content: bytes, at: int, order: str, variable: str) -> tuple[tuple[int, ...], int] | None:
    """Shape of a uint8 array and where its data start, from the first bytes of its variable; None for any other."""

    def part(expected: int) -> bytes:
        nonlocal at
        kind, size, start = _element(piece, content, at, order)
        if kind != expected or start + size > len(content) or (size % 4 and expected != _INT8):
            raise piece.damaged("the description of a variable cannot be read")
        at = -(-(start + size) // 8) * 8
        return content[start : start + size]

    flags = struct.unpack_from(order + "I", part(_UINT32).ljust(4, b"\0"))[0]
    if flags & 0xFF != _CLASS_UINT8 or flags & _COMPLEX:
        return None
    dimensions = part(_INT32)
    if part(_INT8) != variable.encode():
        return None
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    kind, size, start = _element(piece, content, at, order)
    if kind != _UINT8 or min(shape, default=0) < 1 or prod(shape) != size or size > MAX_BYTES:
        raise piece.damaged(f"{variable} of shape {shape} has {size} bytes of type {kind}")
    return shape, start
