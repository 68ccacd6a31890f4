"""What stands between two convolutions: noise, bias, leaky ReLU, and instance normalization with a style."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sivae_dist.models.layers import forms
from sivae_dist.models.layers.native import operations as native

SLOPE = 0.2
"""Negative slope of every leaky ReLU (StyleGAN, ALAE and the authors' code)."""


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def activate_and_normalize(
    x: Tensor,
    *,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """A = leaky_relu(x + strength noise + bias), and (A - mean) / sqrt(variance + eps) * (1 + scale) + offset.

    x: [B, C, H, W]; bias and strength: [C]; noise: [B, 1, H, W] in their type; scale and offset: [B, C], 0 if left out.
    Noise and strength come together, as do scale and offset. Returns the latter in the type of x, with mean and
    variance of A over its pixels, each [B, C], in at least fp32. An exact equivalent of the paper's layers one after
    the other (appendix 9.2.2).
    """
    assert (noise is None) == (strength is None) and (scale is None) == (offset is None)
    exact = _exact(x)
    beside = _Beside(
        *(None if tensor is None else tensor.to(exact) for tensor in (noise, strength, bias, scale, offset))
    )
    if forms.is_plain():
        return _plain(x, beside, eps)
    outputs: tuple[Tensor, Tensor, Tensor] = _ActivateAndNormalize.apply(x, eps, *beside)
    return outputs


class _Beside(NamedTuple):
    """What `activate_and_normalize` is given beside x, in the type of statistics."""

    noise: Tensor | None
    strength: Tensor | None
    bias: Tensor | None
    scale: Tensor | None
    offset: Tensor | None


def _plain(x: Tensor, beside: _Beside, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    given = x.dtype
    noise, strength, bias, scale, offset = beside
    if noise is not None and strength is not None:
        x = x + _of_channels(strength) * noise
    x = activate(x if bias is None else x + _of_channels(bias))
    x = x.to(_exact(x))
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    x = (x - _of_images(mean)) * _of_images(torch.rsqrt(variance + eps))
    if scale is not None:
        x = x * _of_images(scale + 1)
    if offset is not None:
        x = x + _of_images(offset)
    return x.to(given), mean, variance


class _ActivateAndNormalize(torch.autograd.Function):
    """Two passes over x forward and two backward where it is compiled; beside x only [B, C] and [C] are saved.

    With torch's operations the activation is saved in the place of x, since it would be expensive to compute again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        beside = _Beside(*tensors)
        ctx.eps, ctx.native = eps, forms.is_native(x)
        ctx.set_materialize_grads(False)
        if ctx.native:
            kept, outputs = x, native.activate_and_normalize(x, *beside, SLOPE, eps)
        else:
            kept, outputs = _forward(x, beside, eps)
        out, mean, variance = outputs
        # All but the offset, which no gradient depends on.
        ctx.save_for_backward(kept, *beside[:-1], mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, grad_variance: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        kept, noise, strength, bias, scale, mean, variance = ctx.saved_tensors
        if grad is None:  # only the statistics are used
            grad = torch.zeros_like(kept)
        _, _, _, *needs = ctx.needs_input_grad
        trained = any(needs[:2])  # strength and bias
        given = (grad, grad_mean, grad_variance, kept, noise, strength, bias, scale, mean, variance)
        grad_x, *of_others = (
            native.activate_and_normalize_backward(*given, SLOPE, ctx.eps, trained)
            if ctx.native
            else _backward(*given, ctx.eps, trained)
        )
        return grad_x, None, None, *(one if need else None for one, need in zip(of_others, needs, strict=True))


def _forward(x: Tensor, beside: _Beside, eps: float) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The activation, and what `activate_and_normalize` returns."""
    noise, strength, bias, scale, offset = beside
    a = x
    if noise is not None and strength is not None:
        a = torch.addcmul(a, noise.to(x.dtype), _of_channels(strength).to(x.dtype))
    if bias is not None:
        shift = _of_channels(bias).to(x.dtype)
        a = a + shift if a is x else a.add_(shift)
    a = F.leaky_relu(a, SLOPE) if a is x else F.leaky_relu_(a, SLOPE)
    variance, mean = torch.var_mean(a.to(_exact(a)), dim=(2, 3), correction=0)
    factor = torch.rsqrt(variance + eps)
    if scale is not None:
        factor = torch.addcmul(factor, factor, scale)
    addend = -mean * factor if offset is None else torch.addcmul(offset, mean, factor, value=-1)
    out = torch.addcmul(_of_images(addend).to(a.dtype), a, _of_images(factor).to(a.dtype))
    return a, (out, mean, variance)


def _backward(
    grad: Tensor,
    grad_mean: Tensor | None,
    grad_variance: Tensor | None,
    a: Tensor,
    noise: Tensor | None,
    strength: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    trained: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of x, strength, bias, scale and offset."""
    exact, dtype, pixels = _exact(a), a.dtype, a[0, 0].numel()
    rstd = torch.rsqrt(variance + eps)
    of_offset = grad.sum((2, 3), dtype=exact)
    of_scale = torch.addcmul((grad * a).sum((2, 3), dtype=exact), mean, of_offset, value=-1).mul_(rstd)
    # The activation's gradient is a linear function of grad and a.
    on_grad = rstd if scale is None else torch.addcmul(rstd, rstd, scale)
    on_a = on_grad * of_scale * rstd / -pixels
    rest = on_grad * of_offset / -pixels
    if grad_variance is not None:
        on_a.add_(grad_variance, alpha=2 / pixels)
    if grad_mean is not None:
        rest.add_(grad_mean, alpha=1 / pixels)
    rest.addcmul_(on_a, mean, value=-1)
    grad_x = torch.addcmul(_of_images(rest).to(dtype), a, _of_images(on_a).to(dtype))
    grad_x.addcmul_(grad, _of_images(on_grad).to(dtype))
    grad_x = torch.ops.aten.leaky_relu_backward(grad_x, a, SLOPE, True)
    of_strength = of_bias = None
    if trained and bias is not None:
        of_bias = grad_x.sum((0, 2, 3), dtype=exact)
    if trained and noise is not None:
        of_strength = (grad_x * noise.to(dtype)).sum((0, 2, 3), dtype=exact)
    return grad_x, of_strength, of_bias, of_scale, of_offset


def _exact(x: Tensor) -> torch.dtype:
    """The type of statistics and of what belongs to a channel."""
    return torch.promote_types(x.dtype, torch.float32)


def _of_channels(values: Tensor) -> Tensor:
    """[C] beside [B, C, H, W]."""
    return values[:, None, None]


def _of_images(values: Tensor) -> Tensor:
    """[B, C] beside [B, C, H, W]."""
    return values[:, :, None, None]
