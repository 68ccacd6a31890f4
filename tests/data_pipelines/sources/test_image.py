"""Pixels of image files."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from data_pipelines.sources import ImageError
from data_pipelines.sources.image import to_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def png(**options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, "PNG", **options)
    return data.getvalue()


def test_a_plain_png_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's decoder takes as long as ours; it runs when it is asked for metadata."""

    def load(image: object) -> None:
        raise AssertionError("decoded by Pillow")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    np.testing.assert_array_equal(to_pixels(png(), 3), PIXELS)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_an_orientation_behind_the_pixels_is_heeded() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = png()
    turned = data[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[-12:]
    np.testing.assert_array_equal(to_pixels(turned, 3), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("missing", [1, 4, 8, 12, 20, 200])
def test_a_png_that_is_cut_is_refused(missing: int) -> None:
    with pytest.raises(ImageError, match="is a damaged image"):
        to_pixels(png()[:-missing], 3)


def test_what_follows_a_png_does_not_matter() -> None:
    np.testing.assert_array_equal(to_pixels(png() + b"\0" * 100, 3), PIXELS)
