"""Colours to sRGB, which everything after the preparation takes pixels for.

A colour space is an ICC profile here, as most files give it; what a PNG says in numbers becomes one.
"""

from functools import lru_cache

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import ImageError
from data_pipelines.images.sources.remarks import Remark, Remarks

Encoded = NDArray[np.uint8] | NDArray[np.uint16]
"""[H, W, C] over the whole range of the type."""

MAX_PROFILE = 1 << 24
"""Bytes; the largest profiles in use, of printers, have a tenth of them."""

_SAME = 2
"""Levels of 255 by which sRGB's many profiles differ from one another, in their tables and by rounding."""

_SRGB_WHITE = (0.3127, 0.3290)
SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
SRGB_GAMMA = 1 / 0.45455

_PRIMARIES = {
    1: SRGB_PRIMARIES,
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""By their number in ITU-T H.273, of those with sRGB's white point: BT.709, BT.2020, Display P3."""

_TRANSFER = {1: 0.0, 6: 0.0, 13: 0.0, 14: 0.0, 15: 0.0, 4: 2.2, 5: 2.8, 8: 1.0}
"""Likewise their exponents, 0 for sRGB's own curve, as which browsers show the video curves too."""

_HDR = {16: "PQ", 18: "HLG"}


def to_srgb(pixels: Encoded, profile: bytes, remark: Remarks) -> Encoded:
    """Grey or RGB pixels, with or without alpha [H, W, 1..4], in sRGB, same shape and type.

    Untouched when the profile is one of sRGB, or is broken or of other pixels than these, which is remarked.
    """
    colours = 1 if pixels.shape[2] < 3 else 3
    kind = _kind(profile)
    if kind == "same":  # also of a grey image, whose grey means the same in RGB
        return pixels
    if kind != ("grey" if colours == 1 else "rgb"):
        remark(Remark.PROFILE_IGNORED)
        return pixels
    seen = _transform(pixels[..., :colours], profile, "gray" if colours == 1 else "rgb")
    remark(Remark.CONVERTED)
    # Grey becomes three values that agree but for rounding.
    seen = seen if colours == 3 else seen[..., 1:2]
    return seen if pixels.shape[2] == colours else np.concatenate([seen, pixels[..., colours:]], axis=2)


def cmyk_to_srgb(inks: NDArray[np.uint8], profile: bytes | None, remark: Remarks) -> NDArray[np.uint8]:
    """[H, W, 4], 255 for all of an ink, to RGB [H, W, 3]. Raises ImageError without a CMYK profile that works: what an
    ink looks like is another thing on every press."""
    if profile is None:
        raise ImageError("has CMYK colours without a colour profile, so how they look is unknown: convert it to RGB")
    if _kind(profile) != "cmyk":
        raise ImageError("has CMYK colours with a colour profile that is broken or not for CMYK: convert it to RGB")
    remark(Remark.CONVERTED)
    seen: NDArray[np.uint8] = _transform(inks, profile, "cmyk")
    return seen


@lru_cache(256)
def _kind(profile: bytes) -> str:
    """The kind of a profile: "grey", "rgb" or "cmyk"; "same" for sRGB, "" when it is of no use."""
    space = {b"GRAY": "grey", b"RGB ": "rgb", b"CMYK": "cmyk"}.get(profile[16:20], "")
    if not space or len(profile) > MAX_PROFILE:
        return ""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    if space == "rgb":
        steps = np.arange(0, 256, 51, dtype=np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
        probe = np.concatenate([np.repeat(ramp, 3, axis=1), grid])[None]
    else:
        probe = np.repeat(ramp, 4 if space == "cmyk" else 1, axis=1)[None]
    try:
        seen = _transform(probe, profile, "gray" if space == "grey" else space)
        if space != "cmyk":
            # sRGB's own profile for printing is not perceptually, but colorimetrically, sRGB.
            exact = _transform(probe, profile, "gray" if space == "grey" else space, intent=1)
            for found in (seen, exact):
                if np.abs(found.astype(int) - probe).max() <= _SAME:
                    return "same"
    except imagecodecs.CmsError:
        return ""
    return space


def _transform(pixels: NDArray, profile: bytes, space: str, intent: int = 0) -> NDArray:  # type: ignore[type-arg]
    """RGB [H, W, 3] in sRGB, perceptually as Pillow and browsers do, of pixels of the profile's space."""
    plain = np.ascontiguousarray(pixels[..., 0] if space == "gray" else pixels)
    return imagecodecs.cms_transform(plain, profile, _SRGB, colorspace=space, outcolorspace="rgb", intent=intent)


_SRGB: bytes = imagecodecs.cms_profile("srgb")


@lru_cache(256)
def profile_of_numbers(
    gamma: float | None, primaries: tuple[float, ...] | None, white: tuple[float, ...] | None, grey: bool
) -> bytes | None:
    """A profile from what PNG's gAMA and cHRM say: exponent (None: sRGB's curve), x and y of red, green and blue, and
    of white. None where it is sRGB, or where no colours have these numbers."""
    curve = None if gamma is None or abs(gamma - SRGB_GAMMA) < 0.05 else gamma
    primaries, white = primaries or SRGB_PRIMARIES, white or _SRGB_WHITE
    if grey:
        return None if curve is None else imagecodecs.cms_profile("gray", whitepoint=[*white, 1.0], gamma=curve)
    if curve is None and np.allclose([*primaries, *white], [*SRGB_PRIMARIES, *_SRGB_WHITE], atol=0.002):
        return None
    coordinates = [number for k in (0, 2, 4) for number in (*primaries[k : k + 2], 1.0)]
    curves = {"gamma": curve} if curve else {"transferfunction": _srgb_curve()}
    try:
        return imagecodecs.cms_profile("rgb", whitepoint=[*white, 1.0], primaries=coordinates, **curves)
    except (imagecodecs.CmsError, ValueError):
        return None


def profile_of_code(primaries: int, transfer: int, *_: int, grey: bool) -> bytes | None:
    """A profile from code points of ITU-T H.273; None where it is sRGB.

    Raises ImageError for HDR, whose brightness has no place in sRGB, and KeyError for a code that means nothing here.
    """
    if transfer in _HDR:
        raise ImageError(f"has HDR colours ({_HDR[transfer]}), which no rule maps to sRGB: convert it to sRGB")
    return profile_of_numbers(_TRANSFER[transfer] or None, _PRIMARIES[primaries], _SRGB_WHITE, grey)


_CODED = b"colrnclx"
_UNSPECIFIED = 2


def profile_of_avif(data: bytes, grey: bool, remark: Remarks) -> bytes | None:
    """The profile from the code points of an AVIF file. Raises ImageError as `profile_of_code`."""
    at = data.find(_CODED) + len(_CODED)
    primaries, transfer = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
    if at < len(_CODED) or primaries == _UNSPECIFIED:
        return None
    try:
        return profile_of_code(primaries, 13 if transfer == _UNSPECIFIED else transfer, grey=grey)
    except KeyError:
        remark(Remark.PROFILE_IGNORED)
        return None


def _srgb_curve() -> NDArray[np.uint16]:
    value = np.linspace(0, 1, 4096)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(linear * 65535).astype(np.uint16)
