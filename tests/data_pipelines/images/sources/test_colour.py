"""Colours to sRGB: as Pillow's ImageCms shows them, said where it is done, and never done to what is sRGB already."""

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from data_pipelines.images.manifest import Manifest, RemarkedImages
from data_pipelines.images.prepare import prepare
from data_pipelines.images.sources import ImageError
from data_pipelines.images.sources.image import to_pixels
from data_pipelines.images.sources.remarks import Remark
from tests.data_pipelines.images.sources.making import encoded, noise, pngs, small, write_folder
from tests.data_pipelines.images.sources.profiles import ADOBE_RGB, DISPLAY_P3, LINEAR_GREY, PRO_PHOTO, cmyk, rgb
from tests.data_pipelines.images.sources.test_image import chunk, deep

SOFT: NDArray[np.uint8] = cv2.GaussianBlur(noise(0, 32, 32), (5, 5), 2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def seen(pixels: NDArray[np.uint8], profile: bytes, mode: str | None = None) -> NDArray[np.uint8]:
    """What Pillow makes of them."""
    image = Image.fromarray(pixels) if mode is None else Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


def taken(data: bytes, channels: int = 3) -> tuple[NDArray[Any], list[Remark]]:
    said: list[Remark] = []
    return to_pixels(data, channels, said.append), said


def off_by(got: NDArray[Any], want: NDArray[Any]) -> float:
    return float(np.abs(got.astype(float) - want).max())


def with_chunks(*chunks: bytes, pixels: NDArray[np.uint8] = SOFT) -> bytes:
    data = encoded(pixels)
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize("profile", [ADOBE_RGB, DISPLAY_P3, PRO_PHOTO], ids=["Adobe RGB", "Display P3", "ProPhoto"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_wide_space_is_converted_in_every_format(kind: str, profile: bytes) -> None:
    plain = encoded(SOFT, kind)
    pixels, said = taken(encoded(SOFT, kind, icc_profile=profile))
    assert said == [Remark.CONVERTED]
    assert off_by(pixels, seen(np.asarray(Image.open(io.BytesIO(plain)).convert("RGB")), profile)) <= 1
    assert off_by(pixels, to_pixels(plain, 3)) > 10


def test_a_wide_space_of_jpeg_2000_is_converted() -> None:
    data: bytes = imagecodecs.jpeg2k_encode(SOFT, level=0)
    at = data.index(b"colr") - 4
    box = struct.pack(">I", len(ADOBE_RGB) + 11) + b"colr\2\0\0" + ADOBE_RGB
    old, header = int.from_bytes(data[at : at + 4]), data.index(b"jp2h") - 4
    size = struct.pack(">I", int.from_bytes(data[header : header + 4]) + len(box) - old)
    pixels, said = taken(data[:header] + size + data[header + 4 : at] + box + data[at + old :])
    assert said == [Remark.CONVERTED] and off_by(pixels, seen(SOFT, ADOBE_RGB)) <= 1


def test_16_bits_are_converted_as_16_bits() -> None:
    data = imagecodecs.tiff_encode(deep(3), photometric="rgb", iccprofile=PRO_PHOTO)
    pixels, said = taken(data)
    assert said == [Remark.CONVERTED]
    assert off_by(pixels, seen(np.rint(deep(3) / 257).astype(np.uint8), PRO_PHOTO)) < 12  # steep in the darkest ones
    assert len(np.unique(pixels)) > 256


def test_transparency_stays_beside_converted_colours() -> None:
    clear = np.dstack([SOFT, np.full((32, 32), 51, np.uint8)])
    pixels, _ = taken(encoded(clear, "PNG", icc_profile=ADOBE_RGB))
    assert off_by(pixels, seen(SOFT, ADOBE_RGB) * 0.2 + 255 * 0.8) < 0.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_with_a_curve_of_its_own(kind: str, channels: int) -> None:
    grey = SOFT[..., 0]
    plain = np.asarray(Image.open(io.BytesIO(encoded(grey, kind))))
    pixels, said = taken(encoded(grey, kind, icc_profile=LINEAR_GREY), channels)
    assert said == [Remark.CONVERTED] and pixels.shape == (32, 32, channels)
    assert off_by(pixels, seen(plain, LINEAR_GREY)[..., :channels]) <= 1


def test_cmyk_with_its_profile() -> None:
    inks = cv2.GaussianBlur(np.dstack([noise(1, 32, 32), noise(2, 32, 32)[..., :1]]), (5, 5), 2)
    image = Image.frombytes("CMYK", (32, 32), inks.tobytes())
    for kind, options in (("JPEG", {"quality": 95}), ("TIFF", {})):
        buffer = io.BytesIO()
        image.save(buffer, kind, icc_profile=cmyk(), **options)  # type: ignore[arg-type]
        pixels, said = taken(buffer.getvalue())
        stored = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
        assert said == [Remark.CONVERTED] and off_by(pixels, seen(stored, cmyk(), "CMYK")) <= 1
        assert pixels.std() > 10
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", icc_profile=ADOBE_RGB)
    with pytest.raises(ImageError, match="a colour profile that is broken or not for CMYK: convert it to RGB"):
        to_pixels(buffer.getvalue(), 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_srgb_keeps_every_bit(kind: str) -> None:
    """Its makers' profiles differ by a level: here are two, of a curve in numbers and of one in a table."""
    plain = to_pixels(encoded(SOFT, kind), 3)
    curve = np.linspace(0, 1, 1024)
    table = np.where(curve <= 0.04045, curve / 12.92, ((curve + 0.055) / 1.055) ** 2.4)
    primaries = [0.64, 0.33, 1, 0.30, 0.60, 1, 0.15, 0.06, 1]
    tabled = imagecodecs.cms_profile(
        "rgb", whitepoint=[0.3127, 0.329, 1], primaries=primaries, transferfunction=np.rint(table * 65535).astype("u2")
    )
    for profile in (SRGB, tabled):
        pixels, said = taken(encoded(SOFT, kind, icc_profile=profile))
        assert said == []
        np.testing.assert_array_equal(pixels, plain)


def test_what_is_nearly_srgb_is_converted() -> None:
    """Its primaries with a plain exponent: another curve in the darkest levels, and nothing else."""
    near = rgb((0.64, 0.33, 0.30, 0.60, 0.15, 0.06), 2.2)
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    pixels, said = taken(encoded(ramp, icc_profile=near))
    assert said == [Remark.CONVERTED] and off_by(pixels, seen(ramp, near)) <= 1 and 2 < off_by(pixels, ramp) < 10


def test_a_profile_of_no_use_is_ignored_and_said() -> None:
    for profile in (b"rubbish" * 40, ADOBE_RGB[:300], ADOBE_RGB[:400] + bytes(500), LINEAR_GREY, cmyk()):
        for kind in ("PNG", "JPEG", "WEBP"):
            pixels, said = taken(encoded(SOFT, kind, icc_profile=profile))
            assert said == [Remark.PROFILE_IGNORED]
            np.testing.assert_array_equal(pixels, to_pixels(encoded(SOFT, kind), 3))
    pixels, said = taken(encoded(SOFT[..., 0], "JPEG", icc_profile=ADOBE_RGB))
    assert said == [Remark.PROFILE_IGNORED]
    assert taken(encoded(SOFT[..., 0], "JPEG", icc_profile=SRGB))[1] == []  # grey is the same in both
    assert taken(with_chunks(chunk(b"iCCP", b"name\0\0no zlib")))[1] == [Remark.PROFILE_IGNORED]


def test_a_png_may_say_its_colours_in_numbers() -> None:
    plain = to_pixels(encoded(SOFT), 3)
    p3 = rgb((0.68, 0.32, 0.265, 0.69, 0.15, 0.06), 2.2)
    linear = np.where(SOFT / 255 <= 0.0031308, SOFT / 255 * 12.92, 1.055 * (SOFT / 255) ** (1 / 2.4) - 0.055) * 255
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    wide = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    usual = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    for same in ((gamma,), (gamma, usual), (chunk(b"sRGB", b"\0"), wide), (wide,), (chunk(b"cICP", b"\1\x0d\0\1"),)):
        pixels, said = taken(with_chunks(*same))
        assert said == []
        np.testing.assert_array_equal(pixels, plain)
    steep = chunk(b"gAMA", struct.pack(">I", 100000))
    for channels, source in ((3, SOFT), (1, SOFT[..., 0])):
        pixels, said = taken(with_chunks(steep, pixels=source), channels)
        assert said == [Remark.CONVERTED] and off_by(pixels, linear[..., :channels]) < 1
    assert off_by(taken(with_chunks(gamma, wide))[0], seen(SOFT, p3)) <= 6  # of another curve in the darkest ones
    pixels, said = taken(with_chunks(steep, chunk(b"cICP", b"\x0c\x0d\0\1")))
    assert said == [Remark.CONVERTED] and off_by(pixels, seen(SOFT, p3)) <= 6
    assert taken(with_chunks(chunk(b"cICP", b"\2\2\0\1")))[1] == [Remark.PROFILE_IGNORED]
    with pytest.raises(ImageError, match=r"has HDR colours \(PQ\)"):
        to_pixels(with_chunks(chunk(b"cICP", b"\x09\x10\0\1")), 3)


def test_an_avif_may_say_its_colours_by_codes() -> None:
    plain = encoded(SOFT, "AVIF", quality=100)
    want = to_pixels(plain, 3)

    def coded(primaries: int, transfer: int) -> tuple[NDArray[Any], list[Remark]]:
        at = plain.index(b"colrnclx") + 8
        return taken(plain[:at] + struct.pack(">HH", primaries, transfer) + plain[at + 4 :])

    for same in ((1, 13), (1, 1), (2, 2), (1, 2)):
        pixels, said = coded(*same)
        assert said == []
        np.testing.assert_array_equal(pixels, want)
    pixels, said = coded(12, 13)
    assert said == [Remark.CONVERTED] and off_by(pixels, want) > 10
    assert coded(77, 13)[1] == [Remark.PROFILE_IGNORED]
    with pytest.raises(ImageError, match=r"has HDR colours \(HLG\)"):
        coded(9, 18)


def test_what_was_done_is_counted_in_the_manifest_for_any_number_of_workers(tmp_path: Path) -> None:
    files = pngs(5) | {
        f"x{k}.png": encoded(noise(k), icc_profile=(ADOBE_RGB, b"rubbish" * 40)[k % 2]) for k in range(7)
    }
    write_folder(tmp_path / "s", files)
    manifests = []
    for workers in (1, 2):
        prepare(tmp_path / "s", tmp_path / f"out{workers}", small(shard_size=4), workers)
        manifests.append((tmp_path / f"out{workers}/manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    manifest = Manifest.load(tmp_path / "out1")
    assert [(found.images, found.named(), remark) for remark, found in manifest.remarks.items()] == [
        (4, "x0.png, x2.png, x4.png, ...", "with colours converted to sRGB"),
        (
            3,
            "x1.png, x3.png, x5.png",
            "with a colour profile that is broken or of another kind of image, taken as sRGB",
        ),
    ]


def test_remarks_leave_the_digest_as_it_always_was(tmp_path: Path) -> None:
    write_folder(tmp_path / "s", pngs(3))
    manifest = prepare(tmp_path / "s", tmp_path / "out", small())
    content = manifest.model_dump(mode="json")
    for key in ("source", "remarks", "found"):
        del content[key]
    known = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert known == manifest.model_copy(update={"remarks": {"x": RemarkedImages(images=1)}}).digest == manifest.digest
