"""Linear and convolution with equalised learning rate, whose weights are scaled and cast once for several passes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sivae_dist.models.layers import forms
from sivae_dist.models.layers.native import operations as native

SharedWeights = dict[tuple[nn.Module, str, torch.dtype], Tensor]
"""Scaled weights by layer, use and type."""

_shared: SharedWeights | None = None
"""Those of the passes that share them; None outside."""


def shared_here() -> SharedWeights | None:
    """What passes share at this place."""
    return _shared


@contextmanager
def sharing(weights: SharedWeights | None) -> Iterator[None]:
    """In here a layer's weight is scaled and cast in its first pass, kept in `weights`, and used in all others; its
    gradients are summed before they are scaled back. Parameters must not change meanwhile. None: nothing is shared."""
    global _shared
    before, _shared = _shared, weights
    try:
        yield
    finally:
        _shared = before


def compute_type(x: Tensor) -> torch.dtype:
    """The type that a layer computes in: autocast's where it is on, else that of x."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


class _ScaleAndCast(torch.autograd.Function):
    """factor * weight in `dtype`, in one pass over memory. Saves nothing."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
        ctx.factor, ctx.dtype = factor, weight.dtype
        return _times(weight, factor, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _times(grad, ctx.factor, ctx.dtype), None, None


def _times(x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    if (x.dtype, dtype) in native.CASTS and forms.is_native(x):
        return native.scale_and_cast(x, factor, dtype)  # torch would multiply, then cast
    return torch.mul(x, factor, out=torch.empty_like(x, dtype=dtype))


def scale_and_cast(weight: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    if forms.is_plain() or forms.is_compiled():
        return (weight * factor).to(dtype)
    if factor == 1.0 and weight.dtype == dtype:
        return weight
    scaled: Tensor = _ScaleAndCast.apply(weight, factor, dtype)
    return scaled


class Scaled(nn.Module):
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

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, scaled, in the type that a pass with x computes in."""
        return self.shared(x, "weight", self._scaled_weight), self.shared_bias(x)

    def shared_bias(self, x: Tensor) -> Tensor | None:
        bias = self.bias
        return None if bias is None else self.shared(x, "bias", lambda: (bias, self.lr_factor))

    def _scaled_weight(self) -> tuple[Tensor, float]:
        return self.weight, self.scale

    def shared(self, x: Tensor, name: str, make: Callable[[], tuple[Tensor, float]]) -> Tensor:
        """The product of what `make` returns, in the type that a pass with x computes in; once for all that share."""
        dtype = compute_type(x)
        if _shared is None or forms.is_plain():  # which is compiled, and the compiler finds what is computed twice
            return scale_and_cast(*make(), dtype)
        key = (self, name, dtype)
        if key not in _shared:
            with torch.enable_grad():  # a pass without gradients may be the first, and others follow
                _shared[key] = scale_and_cast(*make(), dtype)
        return _shared[key]


class Linear(Scaled):
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
        return F.linear(x, *self.parameters_for(x))


class _Convolution(torch.autograd.Function):
    """torch's convolution, which would save its input even when no gradient of the weight is asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.shapes, ctx.settings = (x.shape, weight.shape), (stride, padding)
        ctx.needs_bias = needs_bias
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        mask = [weight is not None, x is not None, ctx.needs_bias]
        x = _shape_only(ctx.shapes[0], grad) if x is None else x
        weight = _shape_only(ctx.shapes[1], grad) if weight is None else weight
        (stride, padding), channels = ctx.settings, [ctx.shapes[1][0]]
        grads = torch.ops.aten.convolution_backward(
            grad, x, weight, channels, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
        )
        return *grads, None, None


def _shape_only(shape: torch.Size, grad: Tensor) -> Tensor:
    """For a tensor that an operation asks for the shape alone: in the format of `grad`, or it would be copied."""
    if forms.is_compiled():  # which plans memory for whatever is made
        return grad.new_empty(1).expand(shape)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=format_of(grad))


def format_of(x: Tensor) -> torch.memory_format:
    """Of maps [B, C, H, W] or kernels [outputs, inputs, K, K]."""
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


class _TransposedConvolution(torch.autograd.Function):
    """The adjoint of a convolution of even stride and size, kernel [inputs, outputs, 2 s, 2 s]; saves as it does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.shape = weight.shape
        return F.conv_transpose2d(x, weight, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = None if weight is None else F.conv2d(grad, weight, stride=2, padding=1)
        if x is None:
            return grad_x, None
        # The weight's gradient of the convolution from what it makes, grad, to x.
        grads = torch.ops.aten.convolution_backward(
            x, grad, _shape_only(ctx.shape, grad), None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
        )
        return grad_x, grads[1]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """torch's conv2d with square kernels, saving only what its backward needs."""
    if forms.is_plain():
        return F.conv2d(x, weight, bias, stride, padding)
    y: Tensor = _Convolution.apply(x.to(weight.dtype), weight, bias, stride, padding)
    return y


def convolve_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """torch's conv_transpose2d of stride 2 with 4x4 kernels [inputs, outputs, 4, 4], saving as little."""
    if forms.is_plain():
        return F.conv_transpose2d(x, weight, stride=2, padding=1)
    y: Tensor = _TransposedConvolution.apply(x.to(weight.dtype), weight)
    return y


class Conv2d(Scaled):
    """Square kernel: [B, inputs, H, W] -> [B, outputs, H, W], with `stride` [B, outputs, H / stride, W / stride]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        gain: float = math.sqrt(2),
        equalized: bool,
        bias: bool = True,
    ) -> None:
        super().__init__((outputs, inputs, kernel, kernel), gain=gain, equalized=equalized, bias=bias)
        self.stride = stride
        self.padding = (kernel - stride + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, *self.parameters_for(x), stride=self.stride, padding=self.padding)
