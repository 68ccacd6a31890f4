"""Remarks about images that are used nevertheless."""

from collections.abc import Callable
from enum import StrEnum


class Remark(StrEnum):
    """Each is reported once for all images it applies to, with their number before it."""

    CONVERTED = "with colours converted to sRGB"
    PROFILE_IGNORED = "with a colour profile that is broken or of another kind of image, taken as sRGB"
    FIRST_FRAME = "animated, of which the first frame was taken"
    TRANSPARENT = "wholly transparent, so stored as white"
    EXIF_IGNORED = "with broken EXIF data, ignored"


Remarks = Callable[[Remark], None]
"""Receives remarks about an image."""


def no_remarks(remark: Remark) -> None:
    pass
