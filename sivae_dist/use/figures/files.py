"""Pictures as files: the ending decides the format, and a file appears whole or not at all."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from sivae_dist.run.atomic import replacing
from sivae_dist.use.figures.grids import to_picture

_JPEG: tuple[str, dict[str, Any]] = ("JPEG", {"quality": 95, "subsampling": 0})
_TIFF: tuple[str, dict[str, Any]] = ("TIFF", {"compression": "tiff_deflate"})
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": ("BMP", {}),
}
"""By ending: Pillow's name of the format, and how it is written. All but JPEG keep every pixel."""

_LARGEST = {"JPEG": 65_500, "WEBP": 16_383}
"""Pixels of a side that a format can hold."""

PICTURES = tuple(_FORMATS)
"""Endings of pictures that stand still."""


def check_out(path: Path, endings: Collection[str] = PICTURES) -> str:
    """The ending of a file that is to be written, in small letters.

    ValueError when it is none of `endings`, or when `path` is a directory.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        raise ValueError(f"{path} is a directory; name a file in it, like {path / f'picture{next(iter(endings))}'}")
    if ending not in endings:
        has = f"ends in {path.suffix}" if ending else "has no ending"
        raise ValueError(f"{path} {has}, by which the format is chosen; write one of {', '.join(endings)}")
    return ending


def save_picture(path: Path, picture: Tensor | Image.Image) -> None:
    """Writes a picture, or an image [C, H, W] in [0, 1]. ValueError as `check_out`, or when the format is too small."""
    kind, options = _FORMATS[check_out(path)]
    image = to_picture(picture) if isinstance(picture, Tensor) else picture
    if max(image.size) > _LARGEST.get(kind, max(image.size)):
        raise ValueError(
            f"{path}: {kind} holds {_LARGEST[kind]:,} pixels a side, not {max(image.size):,}; write a .png"
        )
    with replacing(path, durable=False) as partial:
        image.save(partial, format=kind, **options)
