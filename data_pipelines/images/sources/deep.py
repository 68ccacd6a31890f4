"""More than 8 bits a value, of which Pillow keeps 8 where there is more than one: TIFF, JPEG 2000, PPM and PGM.

Values [H, W, C] are uint16 with 65535 for full, so that 16 bits stay what they are.
"""

import io
import re
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    EXTRASAMPLES,
    ICCPROFILE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
)

from data_pipelines.images.sources import ImageError

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

ORIENTATION = Base.Orientation.value
_SUBFILE, _REDUCED, _MASK, _DNG = 254, 1, 4, 50706
_SEPARATE = 2
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ASSOCIATED, _UNASSOCIATED = 1, 2
_UNSIGNED, _FLOAT = 1, 3

Deep = NDArray[np.uint16]


class TiffTags:
    """The tags of a TIFF's first picture. Raises ImageError for an unsupported one, and anything for a damaged one."""

    def __init__(self, data: bytes) -> None:
        first, more = _directories(data)
        if IMAGEWIDTH not in first or IMAGELENGTH not in first:
            raise ImageError("is a damaged image (the TIFF is cut short)")
        self.size = (int(first[IMAGEWIDTH]), int(first[IMAGELENGTH]))
        self.orientation = first.get(ORIENTATION, 1)
        """As in Exif."""
        self.profile: bytes | None = first.get(ICCPROFILE) or None
        self.bits = max(first.get(BITSPERSAMPLE, (1,)))
        self._photometric = first.get(PHOTOMETRIC_INTERPRETATION)
        self._extra = first.get(EXTRASAMPLES, ())
        self._separate = first.get(PLANAR_CONFIGURATION) == _SEPARATE
        if _DNG in first or first.get(_SUBFILE, 0) & _REDUCED:
            raise ImageError("is a camera's raw file: develop it to a picture")
        pages = 1 + sum(IMAGEWIDTH in page and not page.get(_SUBFILE, 0) & (_REDUCED | _MASK) for page in more)
        if pages > 1:
            raise ImageError(f"has {pages} pages: save each as a file of its own")
        kinds = set(first.get(SAMPLEFORMAT, (_UNSIGNED,)))
        if _FLOAT in kinds:
            raise ImageError("has floating-point pixels, whose range is unknown: scale it to 8 or 16 bits")
        if self.bits > 16 or (self.bits > 8 and kinds != {_UNSIGNED}):
            signed = "" if kinds == {_UNSIGNED} else " signed"
            raise ImageError(f"has {self.bits}-bit{signed} pixels, whose range is unknown: scale it to 8 or 16 bits")
        if self.bits > 8 and self._photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            raise ImageError(f"has {self.bits}-bit pixels that are neither grey nor RGB: convert it to RGB")

    def decode(self, data: bytes) -> Deep:
        """[H, W, 1..4] of more than 8 bits: grey or RGB, perhaps with alpha."""
        pixels = imagecodecs.tiff_decode(data)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        elif self._separate:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = _widen(pixels, self.bits)
        colours = 3 if self._photometric == _RGB else 1
        if self._photometric == _WHITE_IS_ZERO:
            pixels[..., :1] = 65535 - pixels[..., :1]
        alpha = next((k for k, kind in enumerate(self._extra) if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
        if alpha is None:
            return pixels[..., :colours]
        opacity = pixels[..., colours + alpha, None]
        seen = pixels[..., :colours]
        if self._extra[alpha] == _ASSOCIATED:  # multiplied by it
            seen = np.minimum(seen * (65535 / np.maximum(opacity, 1)), 65535).round().astype(np.uint16)
        return np.concatenate([seen, opacity], axis=2)


def _directories(data: bytes) -> tuple[dict[int, Any], list[dict[int, Any]]]:
    """The tags of the first picture and of those after it."""
    found: list[dict[int, Any]] = []
    file = io.BytesIO(data)
    big = data[2:4] in (b"+\0", b"\0+")
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
    seen = set()
    while directory.next and directory.next not in seen:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        found.append({tag: directory[tag] for tag in _TAGS if tag in directory})
    return (found or [{}])[0], found[1:]


_TAGS = (
    _SUBFILE,
    ORIENTATION,
    ICCPROFILE,
    IMAGEWIDTH,
    IMAGELENGTH,
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    EXTRASAMPLES,
    SAMPLEFORMAT,
    _DNG,
)


def _widen(values: NDArray[Any], bits: int) -> Deep:
    """Values of so many bits, 65535 for full."""
    if bits == 16:
        return values.astype(np.uint16, copy=False)
    return np.rint(values.astype(np.float32) * np.float32(65535 / (2**bits - 1))).astype(np.uint16)


_SIZ = b"\xff\x4f\xff\x51"
_PROFILE_BOX = b"colr\x02"


def jpeg2000_bits(data: bytes) -> int:
    """Bits of a value, the most of any channel; 8 where it is not said."""
    at = data.find(_SIZ)
    channels = int.from_bytes(data[at + 40 : at + 42])
    depths = data[at + 42 : at + 42 + 3 * channels : 3]
    return 8 if at < 0 or not depths else max((depth & 0x7F) + 1 for depth in depths)


def jpeg2000_profile(data: bytes) -> bytes | None:
    """The ICC profile of a JP2 file."""
    at = data.find(_PROFILE_BOX, 0, data.find(_SIZ))
    return None if at < 4 else data[at + 7 : at - 4 + int.from_bytes(data[at - 4 : at])]


def decode_jpeg2000(data: bytes) -> Deep:
    """[H, W, C] of more than 8 bits."""
    pixels = imagecodecs.jpeg2k_decode(data)
    bits = jpeg2000_bits(data)
    if pixels.dtype.kind == "i":  # centred on zero
        pixels = pixels.astype(np.int32) + 2 ** (bits - 1)
    if bits > 16:
        raise ImageError(f"has {bits}-bit pixels, whose range is unknown: scale it to 8 or 16 bits")
    return _widen(pixels if pixels.ndim == 3 else pixels[..., None], bits)


_PNM = re.compile(rb"P([2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:#[^\n]*\n)?\s")


def decode_pnm(data: bytes) -> Deep | None:
    """[H, W, 1 or 3] of a PGM or PPM of more than 8 bits; None when it is another file."""
    if data.startswith((b"PF\n", b"Pf\n")):
        raise ImageError("has floating-point pixels, whose range is unknown: scale it to 8 or 16 bits")
    head = _PNM.match(data)
    if head is None:
        return None
    kind, width, height, most = (int(number) for number in head.groups())
    if most < 256:
        return None
    count = width * height * (3 if kind in (3, 6) else 1)
    if most > 65535:
        raise ImageError("is a damaged image (a PGM or PPM has at most 16 bits)")
    if kind in (5, 6):
        values = np.frombuffer(data, ">u2", count, head.end()).astype(np.uint16)
    else:
        text = re.sub(rb"#[^\n]*", b"", data[head.end() :])
        values = np.array(text.split()[:count], np.int64).astype(np.uint16)
    if values.max(initial=0) > most:
        raise ImageError("is a damaged image (a value is above the largest that it names)")
    if most != 65535:
        values = np.rint(values * np.float64(65535 / most)).astype(np.uint16)
    return values.reshape(height, width, -1)
