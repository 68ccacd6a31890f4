"""What a growing network has to be told beside its input."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Stage(NamedTuple):
    """Where a growing network stands.

    `blend` is a 0-dimensional tensor in [0, 1], the weight of the newest blocks, while they are blended in, and None
    otherwise. It is a tensor so that a compiled network is not compiled again when its value changes.
    """

    resolution: int
    blend: Tensor | None = None


class Mixing(NamedTuple):
    """Style mixing: layers from `cutoff` [B] (int64) on take their style from the latent `z` [B, latent]."""

    z: Tensor
    cutoff: Tensor


def blend_real(x: Tensor, blend: Tensor | None) -> Tensor:
    """Real images [B, C, H, W] as a network in transition sees them: mixed with their own half resolution."""
    if blend is None:
        return x
    half = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")
    return torch.lerp(half, x, blend.to(x.dtype))
