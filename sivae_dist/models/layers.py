"""Layers that the networks share: linear and convolution with equalised learning rate, up- and down-sampling, norms.

Up- and down-sampling convolutions are one class each, so that an exactly equal faster form can take their place.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sivae_dist.models.base import Network

SLOPE = 0.2
"""Negative slope of every leaky ReLU (StyleGAN, ALAE and the authors' code)."""


class _Scaled(nn.Module):
    """A weight whose target standard deviation is gain / sqrt(fan_in), He's for gain sqrt(2).

    With `equalized` (Karras et al. 2018) the stored weight is N(0, 1) and is multiplied at run time, so that an
    optimizer of Adam's kind moves every layer at the same relative speed; `lr_factor` slows a layer down further.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        gain: float,
        equalized: bool,
        lr_factor: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        std = gain / math.sqrt(math.prod(shape[1:]))
        self.scale = (std if equalized else 1.0) * lr_factor
        self.lr_factor = lr_factor
        self.weight = nn.Parameter(torch.randn(shape) * (std / self.scale))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None

    def scaled_weight(self) -> Tensor:
        return self.weight if self.scale == 1.0 else self.weight * self.scale

    def scaled_bias(self) -> Tensor | None:
        return self.bias if self.bias is None or self.lr_factor == 1.0 else self.bias * self.lr_factor


class Linear(_Scaled):
    """[B, inputs] -> [B, outputs]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        gain: float = math.sqrt(2),
        equalized: bool,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__((outputs, inputs), gain=gain, equalized=equalized, lr_factor=lr_factor)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled_weight(), self.scaled_bias())


class Conv2d(_Scaled):
    """Square kernel, same size out: [B, inputs, H, W] -> [B, outputs, H, W]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        gain: float = math.sqrt(2),
        equalized: bool,
        bias: bool = True,
    ) -> None:
        super().__init__((outputs, inputs, kernel, kernel), gain=gain, equalized=equalized, bias=bias)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled_weight(), self.scaled_bias(), padding=self.padding)


class UpsampleConv2d(Conv2d):
    """Nearest-neighbour upsampling, then a 3x3 convolution: [B, inputs, H, W] -> [B, outputs, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int, *, equalized: bool) -> None:
        super().__init__(inputs, outputs, 3, equalized=equalized, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class DownsampleConv2d(Conv2d):
    """A 3x3 convolution, then a 2x2 mean: [B, inputs, H, W] -> [B, outputs, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int, *, equalized: bool) -> None:
        super().__init__(inputs, outputs, 3, equalized=equalized, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(super().forward(x), 2)


class Blur(nn.Module):
    """The [1, 2, 1] binomial filter in both directions, channel by channel; shape unchanged, zeros beyond the borders.

    As two means over 2x2 in a row, whose kernel it is: no weights, and cheaper than a depthwise convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x, 2, stride=1, padding=1), 2, stride=1)


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over space, each [B, C, 1, 1], in at least fp32 whatever the autocast type."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return mean, variance


def normalize(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Instance normalization with statistics already at hand; shape and type of x."""
    return ((x - mean) * torch.rsqrt(variance + eps)).to(x.dtype)


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def pixel_norm(z: Tensor) -> Tensor:
    """[B, D] scaled to a mean square of 1, so that only its direction is left."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def pass_through(block: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """`block(*inputs)`, and with `recompute` once more during backward, in place of saved activations.

    Nothing random happens inside a block (its noise is an input), so both passes are equal.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


class GrowingNetwork(Network):
    """A network of blocks, one per resolution, of which a stage uses some."""

    recomputed = 3
    """Number of blocks whose activations are recomputed, from the stage's resolution down.

    A block's operations are about the same at every resolution below the widest, its activations halve with each, so
    that three hold 7/8 of all that is saved, and the others would cost as much time and save little.
    """

    def recomputes(self, block: int, resolution: int) -> bool:
        """Whether the activations of the block of `block` px are recomputed, in a pass at `resolution` px."""
        return self.checkpoint_activations and block << self.recomputed > resolution
