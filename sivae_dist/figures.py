"""Grids of images, as tensors for TensorBoard and as PNG files."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return ((images.float() + 1) / 2).clamp(0, 1)


def grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> one image [3, H', W'] in [0, 1] with `columns` in a row."""
    return make_grid(to_unit(images).cpu(), nrow=columns, padding=max(1, images.shape[-1] // 32), pad_value=1.0)


def in_rows(*sets: Tensor, columns: int) -> Tensor:
    """Interleaves sets of N images each: the first `columns` of every set as rows under each other, then the next."""
    return torch.cat([part for chunks in zip(*(s.split(columns) for s in sets), strict=True) for part in chunks])


def save_png(path: Path, picture: Tensor) -> None:
    """Writes an image [C, H, W] in [0, 1]."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, format="PNG")
