"""What is worth saying about an image that is taken all the same."""

from collections.abc import Callable
from enum import StrEnum


class Remark(StrEnum):
    """Each is said once for all images that it is true of, with their number before it."""

    CONVERTED = "with colours converted to sRGB"
    PROFILE_IGNORED = "with a colour profile that is broken or of another kind of image, taken as sRGB"
    FIRST_FRAME = "animated, of which the first frame was taken"
    TRANSPARENT = "wholly transparent, so stored as white"
    EXIF_IGNORED = "with broken EXIF data, ignored"


Remarks = Callable[[Remark], None]
"""Gets what is to be said about an image."""


def no_remarks(remark: Remark) -> None:
    pass
