"""Measures the constants of this machine: convolutions, matrix products, operations that move bytes, and their issue.

No training step is part of it, so that a step's time can be predicted and the prediction checked. As in a step, what an
operation is given has left the caches, and what it makes is kept for a while, in memory that is new to it.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from launch.forecast.machine import Machine, Rate, Stream
from launch.forecast.roofline import seconds_of
from sivae_dist.models.layers.native import library
from sivae_dist.models.layers.native import operations as native
from sivae_dist.models.layers.normalization import SLOPE, activate_and_normalize
from sivae_dist.models.layers.scaled import Conv2d, Linear
from sivae_dist.process import numerics
from sivae_dist.process.numerics import Precision
from sivae_dist.train.tracing import Tracker
from sivae_dist.train.work import Kind

_BATCH = 4
_SIDES = {16: (4, 16, 64, 128), 64: (4, 8, 16, 32, 64, 128), 256: (4, 8, 16, 32), 512: (4, 8, 16)}
"""By channels, the pixels a side of the maps that are convolved; those of the smaller map for stride 2."""
_PRODUCTS = {8: (64, 65536), 64: (4, 64, 4096), 512: (1, 4, 16, 64, 512)}
"""By inputs and outputs, the rows of matrix products."""
_BYTES = (1 << 12, 1 << 16, 1 << 19, 1 << 22, 1 << 24, 1 << 26)
"""Sizes of the tensor that an operation reads."""
_ROUND = 1 << 27
"""Bytes that are given to the operations of one round, so that nothing is found in a cache; more than most have."""
_MOST = 64
"""Operations of one round, at most."""
_CHAIN = 20
"""Layers of the network of next to no work by which the issue of operations is measured."""

Report = Callable[[str], None]
Operation = Callable[[], object]


class Stopwatch:
    """Seconds of a device: of a CPU with one thread those of the process, whatever else the machine does; else those
    that pass."""

    def __init__(self, device: torch.device, budget: float = 0.1) -> None:
        self.device = device
        self.budget = budget
        """Seconds for which rounds are repeated, after one that does not count and two that do."""
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = time.process_time if alone else time.perf_counter

    def least(self, operations: Sequence[Operation]) -> float:
        """Seconds of one operation of a round, in the fastest of several rounds."""
        self._round(operations)
        times: list[float] = []
        while len(times) < 2 or sum(times) < self.budget:
            times.append(self._round(operations))
        return min(times) / len(operations)

    def _round(self, operations: Sequence[Operation]) -> float:
        kept = []
        self._wait()
        start = self._clock()
        for operation in operations:
            kept.append(operation())
        self._wait()
        return self._clock() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def dtype_of(precision: Precision) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp64": torch.float64}.get(precision, torch.float32)


def rates(precision: Precision, watch: Stopwatch, say: Report) -> Iterator[Rate]:
    """Of convolutions in the format channels_last with their gradients, and of matrix products."""
    numerics.configure(precision, False, watch.device)
    dtype, device = dtype_of(precision), watch.device

    def rate(kind: Kind, channels: int, positions: int, flops: int, operations: list[Operation]) -> Rate:
        speed = flops / watch.least(operations)
        return Rate(kind=kind, precision=precision, channels=channels, positions=positions, flops_per_second=speed)

    for channels, sides in _SIDES.items():
        for side in sides:
            for stride, kernel in ((1, 3), (2, 4)):
                shapes = [(_BATCH, channels, side * stride), (_BATCH, channels, side), (channels, channels, kernel)]
                copies = _copies([(n, c, at, at) for n, c, at in shapes], dtype, device, most=4)
                flops = 2 * _BATCH * side**2 * (channels * kernel) ** 2
                for kind, passes in _passes(stride, copies).items():
                    yield rate(kind, channels, _BATCH * side**2, flops, passes)
        say(f"{precision}: convolutions of {channels} channels")
    for size, many in _PRODUCTS.items():
        for rows in many:
            products: list[Operation] = [
                partial(torch.mm, a, b) for a, b in _copies([(rows, size), (size, size)], dtype, device)
            ]
            yield rate("product", size, rows, 2 * rows * size**2, products)
    say(f"{precision}: matrix products")


def _copies(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device, most: int = _MOST
) -> list[list[Tensor]]:
    """As many groups of tensors of these shapes as a round needs, maps as channels_last."""

    def group() -> list[Tensor]:
        return [_random(shape, dtype, device) for shape in shapes]

    first = group()
    count = min(most, max(1, _ROUND // sum(tensor.nbytes for tensor in first)))
    return [first, *(group() for _ in range(count - 1))]


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    values = torch.randn(shape, dtype=dtype, device=device)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def _passes(stride: int, copies: list[list[Tensor]]) -> dict[Kind, list[Operation]]:
    """A convolution of input, gradient of the output and weight, and its two gradients."""
    forward: list[Operation] = [partial(F.conv2d, x, weight, stride=stride, padding=1) for x, _, weight in copies]

    def backward(*mask: bool) -> list[Operation]:
        fixed: tuple[Any, ...] = (None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [*mask, False])
        compute = torch.ops.aten.convolution_backward
        return [partial(compute, grad, x, weight, *fixed) for x, grad, weight in copies]

    of_input, of_weight = backward(True, False), backward(False, True)
    if stride == 1:
        return {"convolution": forward, "convolution, input": of_input, "convolution, weight": of_weight}
    return {"strided": forward, "strided, input": of_input, "strided, weight": of_weight}


def streams(precision: Precision, watch: Stopwatch, say: Report) -> Iterator[Stream]:
    """Of operations that move bytes, each of several sizes."""
    dtype = dtype_of(precision)
    for size in _BYTES:
        for kind, operations in _streams(size // dtype.itemsize, dtype, watch.device).items():
            with Tracker() as tracker:
                operations[0]()
            seconds, count = watch.least(operations), tracker.operations
            yield Stream(kind=kind, precision=precision, bytes=tracker.traffic // count, seconds=seconds / count)
    say(f"{precision}: element-wise operations and copies")


def _streams(count: int, dtype: torch.dtype, device: torch.device) -> dict[Kind, list[Operation]]:
    """Operations on `count` values each."""
    pairs = _copies([(count,), (count,)], dtype, device)
    # Training has weights in fp32 and casts them to bf16, and their gradients back.
    other = torch.float32 if dtype == torch.bfloat16 else torch.bfloat16
    channels = min(512, max(1, math.isqrt(count // 9)))
    kernels = _copies([(max(1, count // 9 // channels), channels, 3, 3)], dtype, device)
    found: dict[Kind, list[Operation]] = {
        "elementwise": [partial(torch.add, a, b) for a, b in pairs],
        "update": [partial(a.add_, b, alpha=1e-9) for a, b in pairs],
        "reduction": [partial(_reduce, a) for a, _ in pairs],
        "copy": [partial(torch.clone, a) for a, _ in pairs],
        "conversion": [partial(_convert, a, other) for a, _ in pairs],
        "resampling": [partial(F.avg_pool2d, one, 2, stride=1, padding=1) for (one,) in kernels],
    }
    if device.type == "cpu" and library.usable():
        found["native"] = _native(count, dtype)
    return found


def _reduce(a: Tensor) -> object:
    return torch.linalg.vector_norm(a), a.max()


def _convert(a: Tensor, dtype: torch.dtype) -> object:
    return torch.mul(a, 2.0, out=torch.empty_like(a, dtype=dtype))


def _native(count: int, dtype: torch.dtype) -> list[Operation]:
    """Our kernel of normalization, forward and backward."""
    channels = 64
    side = max(1, math.isqrt(count // channels // _BATCH))
    exact = torch.promote_types(dtype, torch.float32)
    noise, strength, bias = torch.randn(_BATCH, 1, side, side, dtype=exact), *torch.randn(2, channels, dtype=exact)
    scale, offset = torch.randn(2, _BATCH, channels, dtype=exact)
    beside = (noise, strength, bias, scale)

    def both(x: Tensor, grad: Tensor) -> object:
        out, mean, variance = native.activate_and_normalize(x, *beside, offset, SLOPE, 1e-5)
        more = (*beside, mean, variance, SLOPE, 1e-5, True)
        return out, native.activate_and_normalize_backward(grad, None, None, x, *more)

    shape = (_BATCH, channels, side, side)
    return [partial(both, x, grad) for x, grad in _copies([shape, shape], dtype, torch.device("cpu"))]


def operation_seconds(machine: Machine, watch: Stopwatch) -> float:
    """Seconds in which the host issues an operation of our layers, forward and backward, Python's part included.

    Of a CPU it is what remains beside the operations themselves, as `machine` has them.
    """
    channels = 4
    styles = nn.ModuleList(Linear(channels, 2 * channels, equalized=True) for _ in range(_CHAIN)).to(watch.device)
    convolutions = nn.ModuleList(Conv2d(channels, channels, 3, equalized=True) for _ in range(_CHAIN)).to(watch.device)
    x = _random((_BATCH, channels, 2, 2), torch.float32, watch.device)
    style = torch.randn(_BATCH, channels, device=watch.device)

    def run() -> None:
        out, means = x, []
        for linear, convolution in zip(styles, convolutions, strict=True):
            scale, offset = linear(style).chunk(2, dim=1)
            out, mean, _ = activate_and_normalize(convolution(out), scale=scale, offset=offset, eps=1e-5)
            means.append(mean)
        (out.sum() + torch.cat(means).sum()).backward()

    run()
    with Tracker() as tracker:
        run()
    seconds = watch.least([run] * 3)
    if machine.waits:
        seconds -= sum(times * seconds_of(work, machine, "fp32") for work, times in tracker.work.items())
    return max(0.0, seconds) / sum(tracker.work.values())
