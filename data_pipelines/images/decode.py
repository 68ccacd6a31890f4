"""Pixels: between stored bytes and uint8, and from one size to another.

All decoders used here release the GIL while they work. Sizes change in float32, in 0..255, and what is to be
stored is rounded once, at the end.
"""

from typing import Literal

import cv2
import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.circumstances import is_circumstance
from data_pipelines.images.headers import PNG_SIGNATURE
from data_pipelines.images.jpeg import JPEG_SIGNATURE, decode_jpeg, frame

ImageFormat = Literal["png", "jpeg"]

_PNG_END = b"IEND\xaeB`\x82"


class DecodeError(ValueError):
    """Bytes are not a whole image."""


def decode(data: bytes, out: NDArray[np.uint8]) -> None:
    """Fills `out`, uint8 [H, W, C] and contiguous, with the pixels of a stored PNG or JPEG in 0..255, RGB when C is 3.

    The format is detected from the first bytes. Raises DecodeError when the bytes are not a whole image of that size,
    and MemoryError.
    """
    try:
        if data.startswith(JPEG_SIGNATURE):
            _decode_jpeg(data, out)
        elif data.startswith(PNG_SIGNATURE):
            if not data.endswith(_PNG_END) and _PNG_END not in data:  # libspng does not look behind the pixels
                raise DecodeError("cannot be decoded (the PNG is cut short)")
            imagecodecs.spng_decode(data, out=out if out.shape[2] == 3 else out[..., 0])
        else:
            raise DecodeError("cannot be decoded (it is neither PNG nor JPEG)")
    except DecodeError:
        raise
    except Exception as error:  # each library has errors of its own
        if is_circumstance(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"cannot be decoded ({reason})") from None


def _decode_jpeg(data: bytes, out: NDArray[np.uint8]) -> None:
    space: Literal["GRAY", "RGB"] = "GRAY" if out.shape[2] == 1 else "RGB"
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # of harmless flaws, too
        width, height, *_ = frame(data)
    if (height, width) != out.shape[:2]:  # a buffer that is too large would be filled in part
        raise DecodeError(f"is {width}x{height}, not {out.shape[1]}x{out.shape[0]}")
    decode_jpeg(data, space, out)


def encode(pixels: NDArray[np.uint8], file_format: ImageFormat, quality: int) -> bytes:
    """The reverse: uint8 [H, W, C] in RGB order to PNG, or to JPEG of a quality in 1..100 with full-size
    colour."""
    grey = pixels.shape[2] == 1
    if file_format == "jpeg":
        data: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels),
            quality=quality,
            colorspace="GRAY" if grey else "RGB",
            colorsubsampling="Gray" if grey else "444",
            fastdct=False,
        )
        return data
    bgr = np.ascontiguousarray(pixels if grey else pixels[..., ::-1])
    done, buffer = cv2.imencode(".png", bgr)  # its defaults are the best of a few ms at 256x256
    assert done, "OpenCV refuses to encode only what is not uint8 of 1 or 3 channels"
    return buffer.tobytes()


def resize_square(pixels: NDArray[np.float32], resolution: int) -> NDArray[np.float32]:
    """A square float32 [S, S, C] in 0..255 to [resolution, resolution, C]: area means when shrinking, which are
    exactly repeated 2x2 means where S is resolution times a power of two, and Lanczos when growing."""
    side, _, channels = pixels.shape
    if side >= resolution:
        return _area(pixels, resolution) if side > resolution else pixels
    size = (resolution, resolution)
    planes = [Image.fromarray(pixels[..., c]).resize(size, Image.Resampling.LANCZOS) for c in range(channels)]
    return np.clip(np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1), 0, 255)


def halve(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """2x2 means: float32 [2n, 2n, C] to [n, n, C]."""
    return _area(pixels, len(pixels) // 2)


def _area(pixels: NDArray[np.float32], resolution: int) -> NDArray[np.float32]:
    # Sums of up to 2^16 bytes are exact in float32, so that one step of ratio 2^k is k steps of ratio 2, bit for bit.
    small = cv2.resize(pixels, (resolution, resolution), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32, copy=False).reshape(resolution, resolution, pixels.shape[2])


def round_pixels(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The nearest uint8 values, same shape."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
