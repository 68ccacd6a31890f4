"""JPEG files as cameras and programs write them: decoded strictly, apart from flaws that cost no pixel.

libjpeg warns of anything that is not as it should be, and its first warning is all that can be had. A warning of a
harmless flaw is answered by taking the flaw out of a copy and decoding that one: so it hides no second, real one.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

JPEG_SIGNATURE = b"\xff\xd8\xff"

_EOI, _SOS, _APP0, _APP14 = 0xD9, 0xDA, 0xE0, 0xEE
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REPAIRS = 8  # flaws of one file that are taken out
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")


def decode_jpeg(
    data: bytes, space: Literal["GRAY", "RGB", "CMYK"], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """uint8 [H, W, C] of a JPEG of which every pixel is there, in `out` if that is given.

    Harmless, and the same in preparation, training and every loader: bytes behind the end or between two parts, a
    missing end marker, versions that nobody knows. Raises ValueError with libjpeg's words for anything else.
    """
    for _ in range(_REPAIRS):
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                data, colorspace=space, fastdct=False, fastupsample=False, strict=True, buffer=out
            )
            return pixels
        except ValueError as error:
            repaired = _without(str(error), data)
            if repaired is None:
                raise
            data = repaired
    raise ValueError(f"it has more than {_REPAIRS} flaws")


def _without(warning: str, data: bytes) -> bytes | None:
    """A copy without the flaw that a warning is about; None when it is not a harmless one."""
    if warning.startswith("Premature end"):
        # With pixels missing, the added marker comes too early, which is another warning.
        return None if data.endswith(bytes((0xFF, _EOI))) else data + bytes((0xFF, _EOI))
    if found := _EXTRANEOUS.search(warning):
        count, marker = int(found[1]), int(found[2], 16)
        for at in _positions(data, marker):
            if data[at - 1] != 0xFF and at - count > 2:
                return data[: at - count] + data[at:]
    if "JFIF revision" in warning:
        return _patched(data, _APP0, b"JFIF\0", 5, 1)
    if "Adobe color transform" in warning:  # libjpeg then takes the usual one, which 1 stands for
        return _patched(data, _APP14, b"Adobe", 11, 1)
    return None


def _positions(data: bytes, marker: int) -> Iterator[int]:
    """Positions where `marker` may occur after bytes that belong to nothing."""
    end = 2
    for kind, start, stop in _parts(data):
        gap = data.find(bytes((0xFF, marker)), end, start)
        if kind == marker and start - 4 > end:
            yield start - 4
        elif gap >= 0:
            yield gap
        end = stop
    at = data.find(bytes((0xFF, marker)), end)
    while at >= 0:
        yield at
        at = data.find(bytes((0xFF, marker)), at + 2)


def _patched(data: bytes, kind: int, name: bytes, offset: int, value: int) -> bytes | None:
    for found, start, stop in _parts(data):
        if found == kind and data.startswith(name, start) and start + offset < stop and data[start + offset] != value:
            return data[: start + offset] + bytes((value,)) + data[start + offset + 1 :]
    return None


class Frame(NamedTuple):
    """The frame header of a JPEG, which describes its pixels."""

    width: int
    height: int
    channels: int
    bits: int


def frame(data: bytes) -> Frame:
    """Raises ValueError where it is missing."""
    for kind, start, stop in _parts(data):
        if kind in _FRAMES and stop - start >= 6:
            height, width = int.from_bytes(data[start + 1 : start + 3]), int.from_bytes(data[start + 3 : start + 5])
            return Frame(width, height, data[start + 5], data[start])
    raise ValueError("it ends before its pixels")


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of what stands before a JPEG's pixels; ends early where it is broken."""
    for kind, start, stop in _parts(data):
        yield kind, data[start:stop]


def _parts(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Markers, and where their contents begin and end, up to that of the first scan."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        kind = data[at + 1]
        if kind in (0x00, 0xFF):  # not a marker, as libjpeg reads it
            at += 1
        elif kind == _EOI:
            return
        elif kind in _ALONE:
            at += 2
        else:
            stop = at + 2 + int.from_bytes(data[at + 2 : at + 4])
            yield kind, at + 4, min(stop, len(data))
            if kind == _SOS:
                return
            at = max(stop, at + 2)
