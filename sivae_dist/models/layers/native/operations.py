"""The kernels as operations of torch, so that they can be traced without values and counted like all others."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from sivae_dist.models.layers.native.library import function

TYPES = (torch.float32, torch.float64, torch.bfloat16)
"""Of maps, which have to lie in memory as channels_last."""

_library = torch.library.Library("sivae", "DEF")
_library.define(
    "activate_and_normalize(Tensor x, Tensor? noise, Tensor? strength, Tensor? bias, Tensor? scale, Tensor? offset, "
    "float slope, float eps) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "activate_and_normalize_backward(Tensor grad, Tensor? grad_mean, Tensor? grad_variance, Tensor x, Tensor? noise, "
    "Tensor? strength, Tensor? bias, Tensor? scale, Tensor mean, Tensor variance, float slope, float eps, "
    "bool trained) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define("blur(Tensor x) -> Tensor")
_library.define("scale_and_cast(Tensor x, float factor, ScalarType dtype) -> Tensor")


activate_and_normalize = torch.ops.sivae.activate_and_normalize
"""Activation, mean and variance over pixels, normalized activation: see normalization.py."""
activate_and_normalize_backward = torch.ops.sivae.activate_and_normalize_backward
"""Gradients of x, strength, bias, scale and offset; of parameters empty ones unless they are `trained`."""
blur = torch.ops.sivae.blur
scale_and_cast = torch.ops.sivae.scale_and_cast
"""factor * x in a type of CASTS, for any dense x; multiplied in fp32, rounded once."""

CASTS = ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32))
"""From which type to which."""


def _call(name: str, dtype: torch.dtype, *arguments: int | float | Tensor | None) -> None:
    function(name, dtype)(*map(_for_c, arguments))  # which also keeps all tensors alive


def _for_c(argument: int | float | Tensor | None) -> "ctypes._SimpleCData[Any]":
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())


def _size(x: Tensor) -> tuple[int, int, int]:
    batch, channels, height, width = x.shape
    return batch, height * width, channels


def _activate_and_normalize(x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    *beside, slope, eps = given
    outputs = _like_outputs(x)
    _call("activate_and_normalize", x.dtype, *_size(x), x, *map(_dense, beside), slope, eps, *outputs)
    return outputs


def _activate_and_normalize_backward(
    grad: Tensor, grad_mean: Tensor | None, grad_variance: Tensor | None, x: Tensor, *given: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *beside, slope, eps, _ = given
    grads = _like_gradients(grad, grad_mean, grad_variance, x, *given)
    above = (grad.contiguous(memory_format=torch.channels_last), _dense(grad_mean), _dense(grad_variance))
    wanted = (one if one.numel() else None for one in grads)
    name = "activate_and_normalize_backward"
    _call(name, x.dtype, *_size(x), *above, x, *map(_dense, beside), slope, eps, *wanted)
    return grads


def _blur(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    batch, channels, height, width = x.shape
    _call("blur", x.dtype, batch, height, width, channels, x, out)
    return out


def _scale_and_cast(x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    out = torch.empty_like(x, dtype=dtype)
    _call(f"scale_to_{str(dtype).removeprefix('torch.')}", x.dtype, x.numel(), x, factor, out)
    return out


def _dense(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.contiguous()


def _like_outputs(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean = torch.empty(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    return torch.empty_like(x), mean, torch.empty_like(mean)


def _like_gradients(
    grad: Tensor,
    grad_mean: Any,
    grad_variance: Any,
    x: Tensor,
    noise: Tensor | None,
    strength: Any,
    bias: Tensor | None,
    scale: Tensor | None,
    mean: Tensor,
    variance: Any,
    slope: Any,
    eps: Any,
    trained: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels = mean.shape[1:]
    shapes = (
        channels if trained and noise is not None else 0,
        channels if trained and bias is not None else 0,
        mean.shape if scale is not None else 0,
        mean.shape if scale is not None else 0,
    )
    of_strength, of_bias, of_scale, of_offset = (mean.new_empty(shape) for shape in shapes)
    return torch.empty_like(x), of_strength, of_bias, of_scale, of_offset


for _name, _compute, _trace in (
    ("activate_and_normalize", _activate_and_normalize, _like_outputs),
    ("activate_and_normalize_backward", _activate_and_normalize_backward, _like_gradients),
    ("blur", _blur, torch.empty_like),
    ("scale_and_cast", _scale_and_cast, lambda x, factor, dtype: torch.empty_like(x, dtype=dtype)),
):
    _library.impl(_name, _compute, "CPU")
    torch.library.register_fake(f"sivae::{_name}", _trace, lib=_library)
