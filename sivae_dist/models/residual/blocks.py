"""The blocks of table 6."""

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.models.layers import SLOPE, BatchNorm2d, Conv2d, UpsampleConv2d

if TYPE_CHECKING:
    from sivae_dist.models.residual.settings import ResidualSettings

GROUP = 16
"""Feature maps that are normalised together (Wu & He 2018)."""
NORM_EPS = 1e-5


class Bias(nn.Module):
    """x [B, C, H, W] + bias [C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)[:, None, None]


def make_norm(settings: "ResidualSettings", width: int) -> nn.Module:
    if settings.norm == "none":
        return Bias(width)
    if settings.norm == "batch":
        return BatchNorm2d(width, tracks_all=settings.track == "all")
    return nn.GroupNorm(width // math.gcd(width, GROUP), width, NORM_EPS)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU in place, so that nothing but its result is kept."""
    return F.leaky_relu_(x, SLOPE)


class Stem(nn.Module):
    """Images [B, channels, R, R] -> features [B, widths[0], R/2, R/2]."""

    def __init__(self, settings: "ResidualSettings") -> None:
        super().__init__()
        self.conv = Conv2d(settings.channels, settings.widths[0], 5, equalized=False, bias=False)
        self.norm = make_norm(settings, settings.widths[0])

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(activate(self.norm(self.conv(x))), 2)


class ResidualBlock(nn.Module):
    """Features [B, inputs, H, W] -> [B, outputs, H', W']: averaged over 2x2 behind the block, with its pixels doubled
    before it, or of the same size."""

    def __init__(
        self, settings: "ResidualSettings", inputs: int, outputs: int, *, resample: Literal["down", "up"] | None
    ) -> None:
        super().__init__()
        self.normalizes_sum = settings.variant == "paper"
        self.resample = resample
        self.skip = Conv2d(inputs, outputs, 1, gain=1.0, equalized=False, bias=False) if inputs != outputs else None
        self.conv1: Conv2d = (
            UpsampleConv2d(inputs, outputs, equalized=False)
            if resample == "up"
            else Conv2d(inputs, outputs, 3, equalized=False, bias=False)
        )
        self.norm1 = make_norm(settings, outputs)
        # No activation follows before the sum, whose terms begin with one variance.
        self.conv2 = Conv2d(outputs, outputs, 3, gain=1.0, equalized=False, bias=False)
        self.norm2 = make_norm(settings, outputs)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(activate(self.norm1(self.conv1(x))))
        # A 1x1 convolution commutes with the doubling, and has a quarter of the pixels before it.
        skipped = x if self.skip is None else self.skip(x)
        if self.resample == "up":
            skipped = F.interpolate(skipped, scale_factor=2, mode="nearest")
        skipped = skipped.to(branch.dtype)
        x = activate(self.norm2(branch + skipped) if self.normalizes_sum else self.norm2(branch) + skipped)
        return F.avg_pool2d(x, 2) if self.resample == "down" else x
