"""Plain grids of images, as tensors for TensorBoard and as pictures."""

import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images.ranges import to_unit


def grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> one image [3, H', W'] in [0, 1] with `columns` in a row, white around each.

    An image alone has no frame. Pixels are those of torchvision's make_grid, whose import compiles half of torch.
    """
    unit = to_unit(images).cpu()
    if unit.shape[1] == 1:
        unit = unit.expand(-1, 3, -1, -1)
    count, channels, height, width = unit.shape
    if count == 1:
        return unit[0]
    gap, columns = max(1, width // 32), min(columns, count)
    rows = -(-count // columns)
    whole = unit.new_ones(channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for number, image in enumerate(unit):
        row, column = divmod(number, columns)
        top, left = row * (height + gap) + gap, column * (width + gap) + gap
        whole[:, top : top + height, left : left + width] = image
    return whole


def in_rows(*sets: Tensor, columns: int) -> Tensor:
    """Interleaves sets of N images each: the first `columns` of every set as rows under each other, then the next.

    Short last rows are filled up with white, so that what belongs together stays under each other.
    """
    missing = -len(sets[0]) % columns
    full = [torch.cat((images, images.new_ones(missing, *images.shape[1:]))) for images in sets]
    return torch.cat([part for rows in zip(*(images.split(columns) for images in full), strict=True) for part in rows])


def to_picture(image: Tensor) -> Image.Image:
    """An image [C, H, W] in [0, 1], C of 1 or 3, as one of Pillow's."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
