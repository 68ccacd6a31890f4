"""The metadata of a PNG, read without trusting it.

A text that is broken, doubled or huge spoils no pixel: what need not be there is taken out before a decoder sees it.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.images.headers import PNG_SIGNATURE
from data_pipelines.images.sources import ImageError
from data_pipelines.images.sources.colour import MAX_PROFILE, profile_of_code, profile_of_numbers
from data_pipelines.images.sources.remarks import Remark, Remarks

_PIXELS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
_TURNED = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
"""Texts in which programs leave the orientation."""
_COLOURS = frozenset((b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"))
_MAX_TEXT = 1 << 20


@dataclass(frozen=True)
class Png:
    """A PNG's pixels, and what is to be known about them."""

    data: bytes
    """A PNG of the same pixels, with nothing besides but what may hold the orientation."""
    depth: int
    """Bits of a value."""
    bare: bool
    """Whether nothing is there that may hold the orientation."""
    profile: bytes | None
    """Its colours, None when they are sRGB or nothing is said."""


def read_png(data: bytes, remark: Remarks) -> Png:
    """Raises ImageError when a part with pixels is cut, damaged or unknown."""
    kept, bare, animated = [PNG_SIGNATURE], True, False
    colours: dict[bytes, bytes] = {}
    for kind, chunk, sound in _chunks(data):
        content = chunk[8:-4]
        turning = kind == b"eXIf" or (content.startswith(_TURNED) and len(content) <= _MAX_TEXT)
        if kind in _PIXELS or (turning and sound):
            kept.append(chunk)
            bare &= not turning
        elif kind in _COLOURS and sound:
            colours.setdefault(kind, content)
        animated |= kind == b"acTL"
    if animated:
        remark(Remark.FIRST_FRAME)
    grey = data[25:26] in (b"\0", b"\4")
    whole = sum(map(len, kept)) == len(data)
    return Png(data if whole else b"".join(kept), data[24], bare, _profile(colours, grey, remark))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind and bytes of each chunk, and whether its checksum is right; that of the pixels is left to their decoder."""
    at, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        kind, stop = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if stop > len(data):
            raise ImageError("is a damaged image (the PNG is cut short)")
        if kind == b"CgBI":
            raise ImageError("is a PNG that Xcode rewrote for iPhones (CgBI): convert it back with pngcrush")
        if kind not in _PIXELS and not kind[:1].islower():
            raise ImageError(f"is a damaged image (the PNG has an unknown part {kind!r})")
        sound = kind == b"IDAT" or zlib.crc32(data[at + 4 : stop - 4]) == int.from_bytes(data[stop - 4 : stop])
        if kind in _PIXELS and not sound:
            raise ImageError(f"is a damaged image (the checksum of {kind.decode()} differs)")
        yield kind, data[at:stop], sound
        at = stop


def _profile(chunks: dict[bytes, bytes], grey: bool, remark: Remarks) -> bytes | None:
    """The profile from the first chunk present, in the PNG specification's order: cICP, iCCP, sRGB, gAMA with cHRM."""
    cicp = chunks.get(b"cICP", b"")
    if cicp:
        try:
            return profile_of_code(*cicp, grey=grey)
        except (KeyError, TypeError):
            remark(Remark.PROFILE_IGNORED)
    if b"iCCP" in chunks:
        profile = _inflate(chunks[b"iCCP"].partition(b"\0")[2][1:])
        if profile is not None:
            return profile
        remark(Remark.PROFILE_IGNORED)
    if b"sRGB" in chunks:
        return None
    gamma, numbers = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    exponent = 100_000 / int.from_bytes(gamma) if len(gamma) == 4 and any(gamma) else None
    if exponent is None:  # without a curve the primaries mean little: browsers ignore them, too
        return None
    xy = tuple(number / 100_000 for number in struct.unpack(">8I", numbers)) if len(numbers) == 32 else None
    return profile_of_numbers(exponent, xy and xy[2:], xy and xy[:2], grey)


def _inflate(data: bytes) -> bytes | None:
    try:
        inflater = zlib.decompressobj()
        profile = inflater.decompress(data, MAX_PROFILE)
    except zlib.error:
        return None
    return profile if inflater.eof else None
