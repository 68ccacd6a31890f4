"""Images in [-1, 1], as networks have them, in the ranges that others expect."""

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> fp32 in [0, 1], clamped."""
    return ((images.float() + 1) / 2).clamp(0, 1)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded and clamped: as the image would be stored."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
