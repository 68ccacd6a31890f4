"""Content to pixels: exact where it can be, refused by name where not; the same from every kind of source."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from data_pipelines.prepare import PrepareError, prepare
from data_pipelines.sources import ImageError
from data_pipelines.sources.image import to_pixels
from tests.data_pipelines.sources.making import encoded, noise, pngs, small, write_folder, write_tar, write_zip
from tests.data_pipelines.sources.test_lsun import write_lmdb


def deep(channels: int, seed: int = 0) -> NDArray[np.uint16]:
    """16 bits, every value another: [16, 16, channels] as RGB or RGBA."""
    return np.random.default_rng(seed).permutation(65536)[: 256 * channels].astype(np.uint16).reshape(16, 16, channels)


def deep_png(pixels: NDArray[np.uint16], orientation: int | None = None) -> bytes:
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]
    encoded_image = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))[1].tobytes()
    if orientation is None:
        return encoded_image
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    return encoded_image[:33] + chunk + encoded_image[33:]


def test_16_bit_rgb_is_scaled_exactly() -> None:
    np.testing.assert_array_equal(to_pixels(deep_png(deep(3)), 3), deep(3).astype(np.float32) / np.float32(257))


def test_16_bit_rgb_is_rounded_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "s", {"0.png": deep_png(deep(3))})
    prepare(tmp_path / "s", tmp_path / "out", small(array_max_resolution=16))
    stored = np.load(tmp_path / "out/0016/shard-00000.npy")[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(stored, np.rint(deep(3) / 257.0))


def test_16_bit_rgb_to_grey() -> None:
    luma = deep(3) / 257.0 @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(to_pixels(deep_png(deep(3)), 1)[..., 0], luma, atol=1e-3)


def test_16_bit_rgb_over_white() -> None:
    pixels = deep(4)
    alpha = pixels[..., 3:] / 65535.0
    want = pixels[..., :3] / 257.0 * alpha + 255 * (1 - alpha)
    np.testing.assert_allclose(to_pixels(deep_png(pixels), 3), want, atol=1e-3)


def test_16_bit_grey_with_alpha() -> None:
    pixels = np.ascontiguousarray(deep(4)[..., 2:])
    data = imagecodecs.png_encode(pixels)
    want = pixels[..., :1] / 257.0 * (pixels[..., 1:] / 65535.0) + 255 * (1 - pixels[..., 1:] / 65535.0)
    for channels in (1, 3):
        np.testing.assert_allclose(to_pixels(data, channels), np.repeat(want, channels, axis=2), atol=1e-3)


def test_16_bits_with_one_colour_for_transparent() -> None:
    """Of a kind so rare that it may as well be less exact: but laid over white."""
    data = deep_png(deep(3))
    rest = b"tRNS" + struct.pack(">3H", *deep(3)[0, 0].tolist())
    data = data[:33] + struct.pack(">I", 6) + rest + struct.pack(">I", zlib.crc32(rest)) + data[33:]
    pixels = to_pixels(data, 3)
    assert pixels[0, 0].tolist() == [255] * 3
    np.testing.assert_array_equal(pixels.reshape(-1, 3)[1:], deep(3).reshape(-1, 3)[1:] / np.float32(257))


def test_16_bits_that_are_cut() -> None:
    for size in (100, 400, 1000):
        with pytest.raises(ImageError, match="is a damaged image"):
            to_pixels(deep_png(deep(3))[:size], 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_rgb_is_turned_upright(orientation: int) -> None:
    tall = deep(3)[:, :10]
    turned: dict[int, Callable[[NDArray[np.uint16]], NDArray[np.uint16]]] = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    pixels = to_pixels(deep_png(tall, orientation), 3)
    np.testing.assert_array_equal(pixels, turned[orientation](tall).astype(np.float32) / np.float32(257))


# Plain PNG.

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


# Refused.


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(noise(i)) for i in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb() -> bytes:
    """A small file that claims 60000 x 60000 pixels."""
    png = encoded(noise(0))
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def gif_bomb() -> bytes:
    data = bytearray(encoded(noise(0), "GIF"))
    data[6:10] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


REFUSED: dict[str, tuple[bytes, str]] = {
    "cmyk": (cmyk(), "has CMYK colours: convert it to RGB with its colour profile"),
    "animated gif": (animated("GIF"), "is animated or has several pages"),
    "animated png": (animated("PNG"), "is animated or has several pages"),
    "animated webp": (animated("WEBP"), "is animated or has several pages"),
    "pages": (animated("TIFF"), "is animated or has several pages"),
    "bomb": (bomb(), r"has (60000x60000 pixels, )?more than \d+"),
    "gif bomb": (gif_bomb(), r"has (60000x60000 pixels, )?more than \d+"),
    "cut": (encoded(noise(0))[:200], "is a damaged image"),
    "text": (b"text", "is not an image"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "lmdb"])
@pytest.mark.parametrize("refused", REFUSED)
def test_refused_by_source_and_key(tmp_path: Path, refused: str, kind: str) -> None:
    data, message = REFUSED[refused]
    files = pngs(2) | {"x.jpg": data}
    if kind == "folder":
        where = write_folder(tmp_path / "s", files)
    elif kind == "zip":
        where = write_zip(tmp_path / "s", files)
    elif kind == "tar":
        where = write_tar(tmp_path / "s", files)
    else:
        where = write_lmdb(tmp_path / "s", {name.encode(): content for name, content in files.items()})
    with pytest.raises(PrepareError, match=rf"^x\.jpg in .*/s {message}") as error:
        prepare(where, tmp_path / "out", small(array_max_resolution=16))
    assert "\n" not in str(error.value)
    manifest = prepare(where, tmp_path / "out", small(array_max_resolution=16, skip_unreadable=True))
    assert manifest.skipped == ("x.jpg",) and manifest.samples == 2
