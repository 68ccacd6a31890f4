"""The work of single operations, by what limits it: products and convolutions by their shapes, all others by bytes."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sivae_dist.train.sizes import at

Kind = Literal[
    "convolution", "convolution, input", "convolution, weight",
    "strided", "strided, input", "strided, weight",
    "product",
    "elementwise", "update", "reduction", "copy", "conversion", "resampling", "native",
]  # fmt: skip
"""`convolution`: of stride 1, with its gradients of input and weight; `strided`: of stride 2, where a transposed
convolution counts as the input's gradient that it is; `product`: matrix products and 1x1 convolutions. Then those that
move bytes: `update`: in place, the optimizer's included; `conversion`: from one type to another; `resampling`: pooling,
interpolation, depthwise convolutions; `native`: kernels of our own."""

_aten = torch.ops.aten


def _named(*names: str) -> frozenset[Any]:
    return frozenset(getattr(_aten, name) for name in names)


_PRODUCTS = _named("mm", "addmm", "bmm", "baddbmm")
_REDUCTIONS = _named(
    "sum", "mean", "var_mean", "var", "norm", "linalg_vector_norm", "max", "amax", "all", "any", "_foreach_norm",
    "_foreach_max",
)  # fmt: skip
_COPIES = _named(
    "clone", "_to_copy", "copy_", "cat", "stack", "fill_", "zero_", "zeros", "zeros_like", "full", "ones", "ones_like",
    "new_zeros", "new_full", "flip", "index", "index_select", "_foreach_copy_",
)  # fmt: skip
_RESAMPLING = _named(
    "avg_pool2d", "avg_pool2d_backward", "upsample_nearest2d", "upsample_nearest2d_backward", "upsample_bilinear2d",
    "upsample_bilinear2d_backward",
)  # fmt: skip


class Work(NamedTuple):
    """One operation, or one of the two gradients of a convolution. Numbers may be polynomials (sizes.py)."""

    kind: Kind
    dtype: torch.dtype
    """Of what it reads or writes most of."""
    backward: bool
    """Whether it belongs to a backward pass."""
    inputs: int
    """Channels of a convolution, or terms of a product's sums; else 0."""
    outputs: int
    """Channels of a convolution, or columns of a product; else 0."""
    positions: int
    """Positions of the output over the whole batch (of stride 2: of the smaller side), or rows of a product; else 0."""
    flops: int
    bytes: int
    """Read and written, as if nothing stayed in a cache."""

    def at(self, batch: int) -> "Work":
        """Its numbers, if they are polynomials, for `batch` images."""
        inputs, outputs, positions, flops, moved = (at(number, batch) for number in self[3:])
        return Work(self.kind, self.dtype, self.backward, inputs, outputs, positions, flops, moved)


def work_of(
    func: Any,
    args: tuple[Any, ...],
    flops: int,
    given: list[Tensor],
    made: list[Tensor],
    changed: list[Tensor],
    size: Callable[[int], int],
) -> Iterator[Work]:
    """The work of an operation with these arguments. `given`, `made`, `changed`: its tensors (tracing.py); `size`: what
    becomes of each count."""
    packet, backward = func._overloadpacket, torch._C._current_graph_task_id() != -1

    def work(kind: Kind, dtype: torch.dtype, shape: tuple[int, int, int], flops: int, tensors: list[Tensor]) -> Work:
        inputs, outputs, positions = map(size, shape)
        moved = sum(size(tensor.nbytes) for tensor in tensors)
        return Work(kind, dtype, backward, inputs, outputs, positions, size(flops), moved)

    everything = [*given, *made, *changed]
    if packet is _aten.convolution and args[8] == 1:
        x, weight, stride, transposed = args[0], args[1], args[3][0], args[6]
        passed = "input" if transposed else ""
        kind, shape = _convolution(weight, stride, passed, x if transposed else made[0])
        yield work(kind, weight.dtype, shape, flops, everything)
    elif packet is _aten.convolution_backward and args[9] == 1:
        grad, x, weight, stride, transposed, mask = *args[:3], args[4][0], args[7], args[10]
        parts = [name for name, wanted in zip(("input", "weight"), mask, strict=False) if wanted]
        for name in parts:
            passed = "" if transposed and name == "input" else name
            kind, shape = _convolution(weight, stride, passed, x if transposed else grad)
            yield work(kind, weight.dtype, shape, flops // len(parts), [grad, x, weight])
    elif packet in _PRODUCTS:
        left, right = (args[1], args[2]) if packet in (_aten.addmm, _aten.baddbmm) else args[:2]
        *rows, inputs = left.shape
        yield work("product", left.dtype, (inputs, right.shape[-1], prod(rows)), flops, everything)
    else:
        largest = max(everything, key=_bytes)
        yield work(_stream(func, given, made, changed), largest.dtype, (0, 0, 0), flops, everything)


def _convolution(weight: Tensor, stride: int, passed: str, smaller: Tensor) -> tuple[Kind, tuple[int, int, int]]:
    shape = (weight.shape[1], weight.shape[0], smaller.shape[0] * prod(smaller.shape[2:]))
    if prod(weight.shape[2:]) == 1:
        return "product", shape
    base = "strided" if stride > 1 else "convolution"
    kind: Any = f"{base}, {passed}" if passed else base
    return kind, shape


def _stream(func: Any, given: list[Tensor], made: list[Tensor], changed: list[Tensor]) -> Kind:
    packet = func._overloadpacket
    if func.namespace == "sivae":
        return "native"
    if packet in _RESAMPLING or packet in (_aten.convolution, _aten.convolution_backward):
        return "resampling"
    into = [*made, *changed]
    if given and into and max(given, key=_bytes).dtype != max(into, key=_bytes).dtype and packet not in _REDUCTIONS:
        return "conversion"
    if packet in _REDUCTIONS:
        return "reduction"
    if packet in _COPIES:
        return "copy"
    return "update" if changed else "elementwise"


def _bytes(tensor: Tensor) -> int:
    return tensor.nbytes
