"""Up- and down-sampling convolutions, in the form that is cheapest, and the blur beside them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sivae_dist.models.layers import forms
from sivae_dist.models.layers.native import operations as native
from sivae_dist.models.layers.scaled import Conv2d, compute_type, convolve, convolve_transposed, format_of

SMALLEST_STRIDED = {torch.float32: 8, torch.float64: 8, torch.bfloat16: 16}
"""Pixels of the smaller side from which a resampling convolution is one of stride 2, by the type that it computes in.

A fixed table (docs/performance.md has the measurements), since another form is another rounding."""


class _ResamplingConv2d(Conv2d):
    """A 3x3 convolution between a map and one of twice as many pixels a side."""

    def __init__(self, inputs: int, outputs: int, *, equalized: bool) -> None:
        super().__init__(inputs, outputs, 3, equalized=equalized, bias=False)

    def is_strided(self, x: Tensor, smaller: int) -> bool:
        """Whether it is computed as one of stride 2, the smaller side having so many pixels."""
        return not forms.is_plain() and smaller >= SMALLEST_STRIDED[compute_type(x)]


class UpsampleConv2d(_ResamplingConv2d):
    """Nearest-neighbour upsampling, then a 3x3 convolution: [B, inputs, H, W] -> [B, outputs, 2H, 2W].

    A pixel reaches 4x4 of the output, each over the taps that meet its 2x2 copies: a transposed convolution with 16
    products in the place of 36.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_strided(x, x.shape[-1]):
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))
        return convolve_transposed(x, self.shared(x, "transposed", self._transposed))

    def _transposed(self) -> tuple[Tensor, float]:
        flipped = self.weight.flip(2, 3)
        # In the weight's own format, or each convolution would copy it.
        swapped = flipped.transpose(0, 1).contiguous(memory_format=format_of(flipped))
        return _window_means(swapped), 4 * self.scale


class DownsampleConv2d(_ResamplingConv2d):
    """A 3x3 convolution, then a 2x2 mean: [B, inputs, H, W] -> [B, outputs, H/2, W/2].

    The mean of four windows is one of 4x4: a convolution of stride 2 with 16 products in the place of 36.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_strided(x, x.shape[-1] // 2):
            return F.avg_pool2d(super().forward(x), 2)
        return convolve(x, self.shared(x, "strided", self._strided), stride=2, padding=1)

    def _strided(self) -> tuple[Tensor, float]:
        return _window_means(self.weight), self.scale


def _window_means(kernels: Tensor) -> Tensor:
    """Means over the 2x2 windows of 3x3 kernels in a border of zeros: [., ., 3, 3] -> [., ., 4, 4]."""
    means: Tensor = _WindowMeans.apply(kernels)
    return means


class _WindowMeans(torch.autograd.Function):
    """Saves nothing, so that weights may be shared with passes that are repeated in backward."""

    @staticmethod
    def forward(ctx: Any, kernels: Tensor) -> Tensor:
        return F.avg_pool2d(kernels, 2, stride=1, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return F.avg_pool2d(grad, 2, stride=1)


class Blur(nn.Module):
    """The [1, 2, 1] binomial filter in both directions, per channel; zeros beyond the borders, shape unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        if forms.is_plain():  # two means over 2x2 in a row
            return F.avg_pool2d(F.avg_pool2d(x, 2, stride=1, padding=1), 2, stride=1)
        blurred: Tensor = _Blur.apply(x)
        return blurred


class _Blur(torch.autograd.Function):
    """It is its own adjoint, and saves nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _blur(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _blur(grad)


def _blur(x: Tensor) -> Tensor:
    if forms.is_native(x):
        return native.blur(x)
    if forms.is_compiled():  # one kernel
        x = F.pad(x, (1, 1, 1, 1))
        x = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
        return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 16
    channels = x.shape[1]
    kernels = x.new_full((channels, 1, 3, 3), 1 / 16)  # made on the device: a copy from the host would wait
    kernels[:, :, 1] *= 2
    kernels[:, :, :, 1] *= 2
    return F.conv2d(x, kernels, padding=1, groups=channels)
