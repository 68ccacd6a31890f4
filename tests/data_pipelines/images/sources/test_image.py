"""Content to pixels: exact where it can be, refused by name where not; the same from every kind of source."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from data_pipelines.images.decode import DecodeError, decode
from data_pipelines.images.manifest import RemarkedImages
from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.sources import ImageError
from data_pipelines.images.sources.image import to_pixels
from data_pipelines.images.sources.remarks import Remark
from tests.data_pipelines.images.sources.making import encoded, noise, pngs, small, write_folder, write_tar, write_zip
from tests.data_pipelines.images.sources.test_lsun import write_lmdb


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


def over_white(pixels: NDArray[np.uint16]) -> NDArray[np.float64]:
    """[16, 16, 3] in 0..255 of [16, 16, 1..4] of 16 bits."""
    colours = pixels[..., : 1 if pixels.shape[2] < 3 else 3] / 257.0
    alpha = pixels[..., -1:] / 65535.0 if pixels.shape[2] in (2, 4) else 1.0
    return np.broadcast_to(colours * alpha + 255 * (1 - alpha), (16, 16, 3))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_every_format_are_scaled(channels: int) -> None:
    pixels = np.ascontiguousarray(deep(4)[..., 4 - channels :])
    plain = np.ascontiguousarray(pixels[..., 0]) if channels == 1 else pixels
    tiff: dict[str, Any] = {"photometric": "rgb" if channels > 2 else "minisblack"}
    if channels in (2, 4):
        tiff["extrasample"] = "unassalpha"
    found = {
        "png": imagecodecs.png_encode(plain),
        "tiff": imagecodecs.tiff_encode(plain, **tiff),
        "deflated tiff": imagecodecs.tiff_encode(plain, compression="deflate", predictor=True, **tiff),
    }
    if channels > 1:
        planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        found["tiff of planes"] = imagecodecs.tiff_encode(planes, planarconfig="separate", **tiff)
    if channels != 2:
        found["jpeg 2000"] = imagecodecs.jpeg2k_encode(plain, level=0)
    if channels in (1, 3):
        kinds = {1: (b"P5", b"P2"), 3: (b"P6", b"P3")}[channels]
        found["pnm"] = kinds[0] + b"\n# made by hand\n16 16\n65535\n" + pixels.astype(">u2").tobytes()
        found["plain pnm"] = kinds[1] + b" 16 16 65535 " + " ".join(map(str, pixels.ravel().tolist())).encode()
    for name, data in found.items():
        np.testing.assert_allclose(to_pixels(data, 3), over_white(pixels), atol=1e-3, err_msg=name)
        with pytest.raises(ImageError, match="is a damaged image"):
            to_pixels(data[: len(data) - 300], 3)


def test_12_bits_are_scaled_by_their_own_range() -> None:
    pixels = deep(3) >> 4
    for data in (
        imagecodecs.jpeg2k_encode(pixels, level=0, bitspersample=12),
        b"P6 16 16 4095\n" + pixels.astype(">u2").tobytes(),
    ):
        np.testing.assert_allclose(to_pixels(data, 3), pixels * (255 / 4095), atol=0.01)


def test_a_tiff_whose_white_is_zero() -> None:
    data = imagecodecs.tiff_encode(deep(1)[..., 0], photometric="miniswhite")
    np.testing.assert_allclose(to_pixels(data, 1), 255 - deep(1) / 257.0, atol=1e-3)


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


# JPEG.


def jpeg(**options: Any) -> bytes:
    return encoded(cv2.GaussianBlur(noise(0, 33, 31), (5, 5), 2), "JPEG", **options)


def with_version(data: bytes, version: int) -> bytes:
    return data[:11] + bytes((version,)) + data[12:]


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "text behind the end": lambda data: data + b"some text",
    "zeros behind the end": lambda data: data + bytes(5000),
    "no end marker": lambda data: data[:-2],
    "half an end marker": lambda data: data[:-1],
    "zeros in place of the end marker": lambda data: data[:-2] + bytes(40),
    "bytes before the end marker": lambda data: data[:-2] + b"more than a decoder reads ahead" + data[-2:],
    "bytes between two parts": lambda data: data[:20] + b"odd" + data[20:],
    "a version that nobody knows": lambda data: with_version(data, 7),
    "several": lambda data: with_version(data, 7)[:20] + b"odd" + data[20:-2] + bytes(20),
}
DAMAGING: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-20],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "cut before the pixels": lambda data: data[:100],
    "cut, and ended": lambda data: data[:-200] + data[-2:],
    "cut, behind a harmless flaw": lambda data: data[:20] + b"odd" + data[20:-100],
    "cut, in a version that nobody knows": lambda data: with_version(data, 7)[:-100],
}


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 60, "progressive": True}, {"subsampling": 0}])
def test_one_idea_of_a_damaged_jpeg_in_preparation_and_training(options: dict[str, Any]) -> None:
    whole = jpeg(**options)
    want = np.asarray(Image.open(io.BytesIO(whole)))
    out = np.empty_like(want)
    for name, change in HARMLESS.items():
        np.testing.assert_array_equal(to_pixels(change(whole), 3), want, name)
        out[:] = 0
        decode(change(whole), out)
        np.testing.assert_array_equal(out, want, name)
    for change in DAMAGING.values():
        with pytest.raises(ImageError, match="is a damaged image"):
            to_pixels(change(whole), 3)
        with pytest.raises(DecodeError):
            decode(change(whole), out)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_upright_as_pillow_does_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, options in (("JPEG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(noise(0, 33, 31), kind, exif=exif, **options)
        image = Image.open(io.BytesIO(data))
        image.load()
        np.testing.assert_array_equal(to_pixels(data, 3), np.asarray(ImageOps.exif_transpose(image)), kind)


# Metadata that says nothing, or what is not so.


def test_broken_exif_is_ignored_and_said() -> None:
    def segment(content: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content

    whole, exif = jpeg(), Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    for content in (b"Exif\0\0not a header", b"Exif\0\0II*\0\xff\xff\xff\x7f", block[:12] + b"\xff" * 8, block[:-9]):
        said: list[Remark] = []
        pixels = to_pixels(whole[:20] + segment(content) + whole[20:], 3, said.append)
        np.testing.assert_array_equal(np.sort(pixels, axis=None), np.sort(to_pixels(whole, 3), axis=None))
        assert said in ([], [Remark.EXIF_IGNORED])
    to_pixels(whole[:20] + segment(b"Exif\0\0not a header") + whole[20:], 3, said.append)
    assert said[-1] == Remark.EXIF_IGNORED
    for content in (b"", b"b'Exif\\x00\\x00II*'", b"\0\x08\0\2\1\x12\0\3"):
        np.testing.assert_array_equal(to_pixels(png()[:33] + chunk(b"eXIf", content) + png()[33:], 3), PIXELS)


def test_what_is_wrong_with_a_text_spoils_no_png() -> None:
    wrong = chunk(b"tEXt", b"a\0b")[:-1] + b"\0"
    huge = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
    for text in (
        wrong,
        huge,
        chunk(b"iTXt", b"nonsense"),
        chunk(b"abCd", b"x"),
        chunk(b"pHYs", b"x"),
        chunk(b"iCCP", b""),
    ):
        np.testing.assert_array_equal(to_pixels(png()[:33] + text + png()[33:], 3), PIXELS)
    with pytest.raises(ImageError, match=r"is a damaged image \(the checksum of IHDR differs\)"):
        to_pixels(png()[:30] + b"\0" + png()[31:], 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken_and_counted(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path / "s", pngs(2) | {"x.jpg": animated(kind)})
    manifest = prepare(tmp_path / "s", tmp_path / "out", small(array_max_resolution=16))
    (remark,) = manifest.remarks.items()
    assert remark == ("animated, of which the first frame was taken", RemarkedImages(images=1, examples=("x.jpg",)))
    stored = np.load(tmp_path / "out/0016/shard-00000.npy")[2].transpose(1, 2, 0)
    np.testing.assert_array_equal(stored, np.asarray(Image.open(io.BytesIO(animated(kind))).convert("RGB")))


def test_what_is_wholly_transparent_is_white_and_said() -> None:
    said: list[Remark] = []
    for alpha in (0, 1):
        clear = np.dstack([noise(0), np.full((16, 16), alpha, np.uint8)])
        pixels = to_pixels(encoded(clear), 3, said.append)
        assert said == [Remark.TRANSPARENT]
    assert pixels.max() <= 255 and to_pixels(encoded(clear * np.array([1, 1, 1, 0], np.uint8)), 3).min() == 255


def test_too_little_memory_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenJPEG's only word for it is that the stream is broken."""
    data: bytes = imagecodecs.jpeg2k_encode(noise(0), level=0)

    def no_room(*_: object) -> None:
        raise MemoryError

    with pytest.raises(ImageError, match="is a damaged image"):
        to_pixels(data[:-100], 3)
    monkeypatch.setattr(np, "empty", no_room)
    with pytest.raises(MemoryError):
        to_pixels(data[:-100], 3)


# Refused.


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(noise(i)) for i in range(2)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
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


def raw_of_camera() -> bytes:
    """What is in front of the sensor's values: a small picture that says that it is one."""
    return imagecodecs.tiff_encode(noise(0), photometric="rgb", subfiletype=1)


REFUSED: dict[str, tuple[bytes, str]] = {
    "12-bit jpeg": (
        imagecodecs.jpeg_encode(deep(3) >> 4, level=95, bitspersample=12),
        "is a JPEG of 12 bits per value: convert it to PNG or TIFF of 16 bits",
    ),
    "camera's raw": (raw_of_camera(), "is a camera's raw file: develop it to a picture"),
    "float rgb": (imagecodecs.tiff_encode(noise(0).astype(np.float32), photometric="rgb"), "has floating-point pixels"),
    "signed": (imagecodecs.tiff_encode(noise(0)[..., 0].astype(np.int16)), "has 16-bit signed pixels"),
    "cmyk": (cmyk(), "has CMYK colours without a colour profile, so how they look is unknown: convert it to RGB"),
    "pages": (animated("TIFF"), "has 2 pages: save each as a file of its own"),
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
