"""A source's image files to pixels: told by content, turned upright, bounded before anything is decoded."""

import io
import warnings

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data_pipelines.decode import resize_square
from data_pipelines.sources import ImageError

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""[H, W, C] in 0..255."""

MAX_BYTES = 1 << 29
"""No image file is larger; what claims to be is not read."""

# What Pillow may try on a file. EPS is left out because it runs a program, TGA because it has no magic bytes.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_ORIENTATION = 0x0112
_PNG_METADATA = (b"eXIf", b"Raw profile type", b"com.adobe.xmp")
_PNG_END = b"IEND\xaeB`\x82"
_PNG_DEPTH = 24


def to_pixels(content: bytes | NDArray[np.uint8], channels: int) -> Pixels:
    """What a source gives, as [H, W, channels] in 0..255: RGB or grey, alpha over white, 16 bits scaled.

    Raises ImageError for what is no image, is damaged, is animated, has more pixels than
    PIL.Image.MAX_IMAGE_PIXELS, or has pixels whose range or colours are unknown (float, 32 bits, CMYK).
    """
    if isinstance(content, np.ndarray):
        return _of_array(content, channels)
    try:
        with warnings.catch_warnings():
            # Size is judged below; what remains are remarks on metadata that say nothing about the pixels.
            warnings.simplefilter("ignore")
            return _decode(content, channels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is not an image" if content else "is empty") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # decoders raise nearly anything on damaged input
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"is a damaged image ({reason})") from None


def _decode(data: bytes, channels: int) -> Pixels:
    Image.init()
    image = Image.open(io.BytesIO(data), formats=[known for known in _FORMATS if known in Image.OPEN])
    _refuse_unusual(image)
    # Pillow decodes a whole PNG to look for metadata behind the pixels.
    bare = image.format == "PNG" and not any(mark in data for mark in _PNG_METADATA)
    orientation = 1 if bare else image.getexif().get(_ORIENTATION, 1)
    if image.format == "PNG" and data[_PNG_DEPTH] == 16 and image.mode in ("RGB", "RGBA", "LA"):
        # Pillow would drop the lower 8 bits of each colour, unrounded. It finds damage first, of which this decoder
        # gives up a reference to None each time.
        image.load()
        deep = imagecodecs.png_decode(data).astype(np.float32) / np.float32(257)  # 65535 becomes 255
        return _flatten(_turn_upright(deep, orientation), channels)
    plain = image.mode == ("L" if channels == 1 else "RGB") and not image.has_transparency_data
    if plain and orientation == 1:
        # By far the most files: decoded to the same pixels in half the time.
        if image.format == "PNG":
            if data.rfind(_PNG_END) < 0:  # libspng does not look at what follows the pixels
                raise ImageError("is a damaged image (the PNG is cut short)")
            return imagecodecs.spng_decode(data).reshape(image.height, image.width, channels)
        if image.format == "JPEG":
            space = "GRAY" if channels == 1 else "RGB"
            return simplejpeg.decode_jpeg(data, colorspace=space, fastdct=False, fastupsample=False, strict=True)
    image.load()
    return _to_array(ImageOps.exif_transpose(image), channels)


def _refuse_unusual(image: Image.Image) -> None:
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"has {width}x{height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
    # An MPO is a camera's JPEG with further views after the picture proper, so its first frame is the image.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("is animated or has several pages")
    if image.mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        raise ImageError(f"has {image.mode} colours: convert it to RGB with its colour profile")
    if image.mode == "F":
        raise ImageError("has floating-point pixels, whose range is unknown")


def _to_array(image: Image.Image, channels: int) -> Pixels:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError("has 32-bit pixels, whose range is unknown")
        pixels = grey.astype(np.float32)[..., None] / np.float32(257)  # 65535 becomes 255
        return np.repeat(pixels, channels, axis=2)
    if image.has_transparency_data:
        return _flatten(np.asarray(image.convert("RGBA"), dtype=np.float32), channels)
    plain = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return plain.reshape(*plain.shape[:2], channels)


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


def _turn_upright(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """As Exif says that [H, W, C] is to be seen."""
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
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def is_image(content: bytes) -> bool:
    try:
        to_pixels(content, 3)
    except ImageError:
        return False
    return True


def to_square(content: bytes | NDArray[np.uint8], channels: int, resolution: int) -> NDArray[np.float32]:
    """What a source gives, cropped to the largest square in its middle (towards the top left where that is between
    two pixels), as float32 [resolution, resolution, channels] in 0..255. Raises ImageError as `to_pixels`."""
    pixels = to_pixels(content, channels)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    return resize_square(np.ascontiguousarray(square, np.float32), resolution)
