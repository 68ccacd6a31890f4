"""Plain grids of images, as tensors for TensorBoard and as pictures."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from data_pipelines.images.ranges import to_unit


def grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> one image [3, H', W'] in [0, 1] with `columns` in a row."""
    return make_grid(to_unit(images).cpu(), nrow=columns, padding=max(1, images.shape[-1] // 32), pad_value=1.0)


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
