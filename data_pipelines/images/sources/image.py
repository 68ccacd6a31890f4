"""A source's image files to pixels: detected by content, turned upright, in sRGB, bounded before they are decoded."""

import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data_pipelines.images.circumstances import is_circumstance
from data_pipelines.images.decode import resize_square
from data_pipelines.images.headers import PNG_SIGNATURE
from data_pipelines.images.jpeg import JPEG_SIGNATURE, decode_jpeg, frame, segments
from data_pipelines.images.sources import ImageError
from data_pipelines.images.sources.colour import Encoded, cmyk_to_srgb, profile_of_avif, to_srgb
from data_pipelines.images.sources.deep import (
    TIFF_SIGNATURES,
    TiffTags,
    decode_jpeg2000,
    decode_pnm,
    jpeg2000_bits,
    jpeg2000_profile,
)
from data_pipelines.images.sources.png import read_png
from data_pipelines.images.sources.remarks import Remark, Remarks, no_remarks

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""[H, W, C] in 0..255."""

MAX_BYTES = 1 << 29
"""No image file is larger; what claims to be is not read."""

# What Pillow may try on a file. EPS is left out because it runs a program, TGA because it has no magic bytes.
_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

# What it would print about a damaged file, without the file's name, is in the error as well.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ORIENTATION = 0x0112
_ORIENTATION_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


class _Raw(NamedTuple):
    """An image as its file has it."""

    pixels: Encoded
    """[H, W, C]: grey or RGB, with alpha where C is 2 or 4."""
    orientation: int = 1
    """As in Exif."""
    profile: bytes | None = None
    """ICC profile; None where the pixels are sRGB or nothing is said."""


def to_pixels(content: bytes | NDArray[np.uint8], channels: int, remark: Remarks = no_remarks) -> Pixels:
    """An image's pixels, as [H, W, channels] in 0..255: RGB (sRGB) or grey, alpha over white, 16 bits scaled.

    Raises ImageError for what is no image, is damaged, has several pages, has more pixels than
    PIL.Image.MAX_IMAGE_PIXELS, or has pixels whose range or colours are unknown (float, 32 bits, CMYK without a
    profile, HDR); MemoryError and OSError when the machine cannot do it. `remark` gets what should be said of an image
    that is taken.
    """
    if isinstance(content, np.ndarray):
        return _of_array(content, channels)
    try:
        with warnings.catch_warnings():
            # Size is judged below; what remains are remarks on metadata that say nothing about the pixels.
            warnings.simplefilter("ignore")
            raw = _read(content, remark)
            pixels = raw.pixels if raw.profile is None else to_srgb(raw.pixels, raw.profile, remark)
            if pixels.shape[2] in (2, 4) and not pixels[..., -1].any():
                remark(Remark.TRANSPARENT)
            return _finish(_turn_upright(pixels, raw.orientation), channels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is not an image" if content else "is empty") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # decoders raise nearly anything on damaged input
        if is_circumstance(error):
            raise
        if _lacks_memory(content):  # of which some decoders speak as of damage
            raise MemoryError from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"is a damaged image ({reason})") from None


def _lacks_memory(data: bytes) -> bool:
    """Whether there is no room for an image's pixels as decoders hold them."""
    try:
        width, height = _open(data).size
    except MemoryError:
        return True
    except Exception:  # the first error has reported it; without a size there is no reason to doubt it
        return False
    try:
        np.empty((height, width, 4), np.float32)
    except MemoryError:
        return True
    return False


def _read(data: bytes, remark: Remarks) -> _Raw:
    if data.startswith(JPEG_SIGNATURE):
        return _read_jpeg(data, remark)
    if data.startswith(PNG_SIGNATURE):
        return _read_png(data, remark)
    return _read_other(data, remark)


def _read_jpeg(data: bytes, remark: Remarks) -> _Raw:
    width, height, channels, bits = frame(data)
    _refuse_large(width, height)
    if bits != 8:  # decoders of these do not notice what is missing
        raise ImageError(f"is a JPEG of {bits} bits per value: convert it to PNG or TIFF of 16 bits")
    exif, xmp = b"", b""
    parts: dict[tuple[int, int], bytes] = {}
    for kind, content in segments(data):
        if kind == 0xE1 and content.startswith(b"Exif\0\0"):
            exif = exif or content
        elif kind == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or content
        elif kind == 0xE2 and content.startswith(b"ICC_PROFILE\0") and len(content) > 14:
            parts.setdefault((content[12], content[13]), content[14:])
    orientation = _orientation(lambda: _exif_of(exif), xmp, remark)
    numbers = {count for _, count in parts}
    profile = b"".join(part for _, part in sorted(parts.items())) or None
    if len(numbers) > 1 or (numbers and len(parts) != numbers.pop()):
        profile = b""  # broken, which is to be said
    if channels == 4:
        # Upside down, as Adobe's programs began to write them and all others followed.
        inks = 255 - decode_jpeg(data, "CMYK")
        return _Raw(cmyk_to_srgb(inks, profile, remark), orientation)
    return _Raw(decode_jpeg(data, "GRAY" if channels == 1 else "RGB"), orientation, profile)


def _exif_of(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    if segment:
        exif.load(segment)
    return exif


def _read_png(data: bytes, remark: Remarks) -> _Raw:
    png = read_png(data, remark)
    image = _open(png.data)
    # Pillow decodes a whole PNG to look for metadata behind the pixels.
    orientation = 1 if png.bare else _orientation(image.getexif, b"", remark)
    if png.depth == 16:
        # Pillow would drop the lower 8 bits of each colour, unrounded. It finds damage first, of which this decoder
        # gives up a reference to None each time.
        image.load()
        deep = imagecodecs.png_decode(png.data)
        return _Raw(deep if deep.ndim == 3 else deep[..., None], orientation, png.profile)
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        # By far the most files: decoded to the same pixels in half the time.
        pixels = imagecodecs.spng_decode(png.data).reshape(image.height, image.width, -1)
        return _Raw(pixels, orientation, png.profile)
    return _Raw(_load(image), orientation, png.profile)


def _read_other(data: bytes, remark: Remarks) -> _Raw:
    if data.startswith(TIFF_SIGNATURES):
        return _read_tiff(data, remark)
    if (deep := decode_pnm(data)) is not None:
        return _Raw(deep)
    image = _open(data)
    if getattr(image, "is_animated", False):
        remark(Remark.FIRST_FRAME)
    if image.format == "JPEG2000":
        pixels = decode_jpeg2000(data) if jpeg2000_bits(data) > 8 else _load(image)
        return _Raw(pixels, 1, jpeg2000_profile(data))
    orientation = _orientation(image.getexif, b"", remark)
    profile = image.info.get("icc_profile") or None
    if image.format == "AVIF" and profile is None:
        profile = profile_of_avif(data, image.mode == "L", remark)
    return _Raw(_load(image), orientation, profile)


def _read_tiff(data: bytes, remark: Remarks) -> _Raw:
    tags = TiffTags(data)
    _refuse_large(*tags.size)
    if tags.bits > 8:
        return _Raw(tags.decode(data), tags.orientation, tags.profile)
    try:
        image = _open(data)
    except UnidentifiedImageError:
        raise ImageError("is a damaged image (the TIFF is cut short, or of a kind that Pillow does not know)") from None
    if image.mode == "CMYK":
        return _Raw(cmyk_to_srgb(np.asarray(image), tags.profile, remark))
    return _Raw(_load(image), 1, tags.profile)  # turned upright by Pillow


def _open(data: bytes) -> Image.Image:
    Image.init()
    image = Image.open(io.BytesIO(data), formats=[known for known in _FORMATS if known in Image.OPEN])
    _refuse_large(*image.size)
    return image


def _refuse_large(width: int, height: int) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"has {width}x{height} pixels, more than {Image.MAX_IMAGE_PIXELS}: make it smaller")


def _orientation(read: Callable[[], Image.Exif], xmp: bytes, remark: Remarks) -> int:
    """The orientation in 1..8; 1 if it cannot be read, as broken metadata must not spoil an image."""
    try:
        orientation = read().get(_ORIENTATION)
    except Exception as error:
        if is_circumstance(error):
            raise
        remark(Remark.EXIF_IGNORED)
        orientation = None
    if orientation is None and (found := _ORIENTATION_IN_XMP.search(xmp)):
        orientation = int(found[1])
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _load(image: Image.Image) -> NDArray[np.uint8]:
    """[H, W, C] of 8 bits: grey, RGB, or RGBA of whatever has transparency."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ImageError(f"has {kind} pixels, whose range is unknown: scale it to 8 or 16 bits")
    if image.mode in ("CMYK", "LAB", "HSV"):
        raise ImageError(f"has {image.mode} colours: convert it to RGB")
    image.load()
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels.reshape(image.height, image.width, -1)


def _finish(pixels: Encoded, channels: int) -> Pixels:
    """[H, W, channels] of grey or RGB with or without alpha."""
    if pixels.dtype == np.uint16:
        return _flatten(pixels.astype(np.float32) / np.float32(257), channels)  # 65535 becomes 255
    if pixels.shape[2] in (2, 4):
        return _flatten(pixels.astype(np.float32), channels)
    return _of_array(pixels.astype(np.uint8, copy=False), channels)


def _flatten(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """[H, W, channels] of grey or RGB with or without alpha [H, W, 2..4], which is laid over white."""
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:] / 255
        pixels = (pixels[..., :-1] * alpha + 255 * (1 - alpha)).astype(np.float32, copy=False)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return (pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]


def _turn_upright(pixels: Encoded, orientation: int) -> Encoded:
    """The pixels [H, W, C] turned as the Exif orientation says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def _of_array(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]


def to_square(
    content: bytes | NDArray[np.uint8], channels: int, resolution: int, remark: Remarks = no_remarks
) -> NDArray[np.float32]:
    """An image of a source, cropped to the largest square in its middle (towards the top left where that is between
    two pixels), as float32 [resolution, resolution, channels] in 0..255. Raises and remarks as `to_pixels`."""
    pixels = to_pixels(content, channels, remark)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    return resize_square(np.ascontiguousarray(square, np.float32), resolution)
