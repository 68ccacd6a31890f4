"""Checks that stored bytes are an image as a level holds it: strictly, since decoders overlook and convert a lot."""

import io
import warnings

import numpy as np
from PIL import Image

from data_pipelines.images.decode import DecodeError, decode

_FORMATS = {"png": "PNG", "jpeg": "JPEG"}


def image_fault(data: bytes, file_format: str, channels: int, resolution: int) -> str | None:
    """The fault of an image that should have that format ("png" or "jpeg"), [resolution, resolution, channels]
    and 8 bits; None when there is none."""
    try:
        # Pillow also tells MPO, which is JPEG with further images behind it.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "MPO"]) as image,
        ):
            kind, size, mode, frames = image.format, image.size, image.mode, getattr(image, "n_frames", 1)
            alpha = image.has_transparency_data
    except Exception:  # Pillow raises nearly anything on damaged bytes, and says nothing that helps
        return f"cannot be decoded (it is not a whole {_FORMATS[file_format]})"
    wanted = "L" if channels == 1 else "RGB"
    if kind != _FORMATS[file_format]:
        return f"is {kind}, not {_FORMATS[file_format]}"
    if size != (resolution, resolution):
        return f"is {size[0]}x{size[1]} pixels, not {resolution}x{resolution}"
    if frames > 1:
        return f"is animated ({frames} frames)"
    if kind == "PNG" and data[24] != 8:
        return f"has {data[24]} bits per channel, not 8"
    if mode != wanted or alpha:
        return f"has {mode} pixels, not {wanted}"
    try:
        decode(data, np.empty((resolution, resolution, channels), np.uint8))
    except DecodeError as error:
        return str(error)
    return None
