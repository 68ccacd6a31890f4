"""Where images come from before they are prepared.

A `Source` is a list of images in a fixed order, each with a name and perhaps a label. It must be picklable:
every worker process of a preparation gets a copy.
"""

import hashlib
import io
import json
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Labels = Literal["auto", "folders", "none"]

# What Pillow may try on a file. EPS is left out because it runs a program, TGA because it has no magic bytes.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


class SourceError(ValueError):
    """A source cannot be used; the message is one line."""


class ImageError(SourceError):
    """A file's content is no usable image; the message is one line to be put behind the file's name."""


class Source(ABC):
    """A list of images in a fixed order."""

    classes: tuple[str, ...]
    """Names of the labels 0, 1, ...; empty when there are no labels."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def name(self, i: int) -> str:
        """Name of image i inside the source, unique, with `/` between folders."""

    @abstractmethod
    def label(self, i: int) -> int | None:
        """Label of image i in [0, len(classes)), None when it has none."""

    @abstractmethod
    def size(self, i: int) -> int:
        """Stored bytes of image i; used to notice that a source has changed."""

    @abstractmethod
    def image(self, i: int) -> Image.Image:
        """Image i, decoded and upright, of any size and mode.

        Raises ImageError when its content is no usable image and OSError when it cannot be read at all.
        """

    def digest(self) -> str:
        """SHA-256 of everything but the images' content: names, sizes, labels and classes."""
        listing = hashlib.sha256(json.dumps(self.classes).encode())
        for i in range(len(self)):
            listing.update(json.dumps([self.name(i), self.size(i), self.label(i)]).encode())
        return listing.hexdigest()


def open_source(path: Path, labels: Labels = "auto") -> Source:
    """The source at a path. Raises SourceError with one line when there is none that can be used.

    labels: `auto` looks for labels as each source describes, `folders` takes the first-level sub-folders as
    classes, `none` ignores labels.
    """
    from data_pipelines.sources.folder import FolderSource

    if not path.exists():
        raise SourceError(f"source {path} does not exist: give the folder that holds the images")
    if not path.is_dir():
        raise SourceError(f"source {path} is not a folder: give the folder that holds the images")
    return FolderSource(path, labels)


def choose_test(source: Source, test: int | tuple[str, ...]) -> set[int]:
    """Positions of the images kept for testing: those named, or as many as asked for.

    A number takes the last ones, or evenly spread ones when there are labels. Raises SourceError for an
    unknown name.
    """
    count = len(source)
    if isinstance(test, int):
        test = min(test, count)
        if source.classes:  # sorted order often runs through the classes: its end would be one of them
            return {(2 * k + 1) * count // (2 * test) for k in range(test)}
        return set(range(count - test, count))
    positions = {source.name(position): position for position in range(count)}
    for name in test:
        if name not in positions:
            raise SourceError(f"test sample {name!r} is not in the source: names look like {source.name(0)}")
    return {positions[name] for name in test}


def open_image(data: bytes) -> Image.Image:
    """Decode a file's content by what it holds, never by its ending, and turn it upright as its EXIF data
    says.

    Raises ImageError for what is not an image, is damaged, is animated, or has more pixels than
    PIL.Image.MAX_IMAGE_PIXELS.
    """
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        with warnings.catch_warnings():
            # Size is judged below; what remains are remarks on metadata that say nothing about the pixels.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=formats)
            _refuse_unusual(image)
            image.load()
            return ImageOps.exif_transpose(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is not an image" if data else "is empty") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged input
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"is a damaged image ({reason})") from None


def _refuse_unusual(image: Image.Image) -> None:
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(f"has {width}x{height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
    # An MPO is a camera's JPEG with further views after the picture proper, so its first frame is the image.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError("is animated or has several pages")


def centre_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle of an image, towards the top left where that is between two pixels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_float(image: Image.Image, channels: int) -> NDArray[np.float32]:
    """Pixels of an image as float32 [H, W, channels] in 0..255: RGB or grey, alpha over white, 16 bits
    scaled.

    Raises ImageError for pixels without a known range.
    """
    if image.mode == "F":
        raise ImageError("has floating-point pixels, whose range is unknown")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError("has 32-bit pixels, whose range is unknown")
        pixels = grey.astype(np.float32)[..., None] / np.float32(257)  # 65535 becomes 255
        return np.repeat(pixels, channels, axis=2)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
        alpha = rgba[..., 3:] / 255
        rgb = (rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.float32, copy=False)
        luma = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return rgb if channels == 3 else (rgb @ luma)[..., None]
    plain = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    return plain.reshape(*plain.shape[:2], channels)
