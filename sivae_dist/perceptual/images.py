"""The images that VGG16 takes, and how much it makes of them. Loads nothing."""

import math

_LEAST_SIDE = 32
"""Pixels a side that leave the last of five poolings a value."""

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions between two poolings."""


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be compared: [C, H, W] with C of 1 or 3."""
    return len(shape) == 3 and shape[0] in (1, 3)


def repeats(height: int, width: int) -> int:
    """How often each pixel is repeated in both directions, so that small images are large enough; mostly once."""
    return math.ceil(_LEAST_SIDE / min(height, width))


def feature_values(shape: tuple[int, ...]) -> int:
    """Values of all layers that a pass of an image [C, H, W] keeps for its backward."""
    pixels, values = shape[1] * shape[2] * repeats(*shape[1:]) ** 2, 0
    for channels, convolutions in _BLOCKS:
        values += channels * convolutions * pixels
        pixels //= 4
        values += channels * pixels
    return values
