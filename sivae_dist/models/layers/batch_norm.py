"""Batch normalization over the images of all processes, whose running statistics no pass moves.

While an objective is called, a pass is normalised by the statistics of its own batch (`normalizing`), which are kept
beside it; the engine moves the running statistics by them once its step is taken (`move_running_statistics`). Anywhere
else, passes are normalised by the running statistics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MOMENTUM = 0.1
"""Share of the way to a pass's statistics that the running ones move (torch's default)."""
EPS = 1e-5

Statistics = dict[str, Tensor]
"""[passes, 2, C] by the name of a layer: mean and unbiased variance of each pass that counts, in order."""


class Over(NamedTuple):
    """The processes whose batches, all of one size, are normalised together."""

    sum: Callable[[Tensor], Tensor]
    """Sums a tensor over them, in place, and returns it."""
    processes: int


class _Moments(Protocol):
    over: Over | None

    def moments(self, layer: "BatchNorm2d", x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of x [B, C, H, W] over the batches of all processes, each [C]."""


class BatchStatistics:
    """The statistics of all passes of one call of an objective."""

    def __init__(self, over: Over | None = None) -> None:
        """`over`: None for a process alone."""
        self.over = None if _apart else over
        self.passes: dict[BatchNorm2d, list[Tensor]] = {}

    @torch.no_grad()
    def moments(self, layer: "BatchNorm2d", x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x.to(_exact(x)), (0, 2, 3), correction=0)
        count = x.numel() // x.shape[1]
        if self.over is not None:
            own, mean = mean, self.over.sum(mean.clone()) / self.over.processes
            variance = self.over.sum(variance + (own - mean).square()) / self.over.processes
            count *= self.over.processes
        self.passes.setdefault(layer, []).append(torch.stack((mean, variance * (count / (count - 1)))))
        return mean, variance

    def that_count(self, player: nn.Module, partner: nn.Module) -> Statistics:
        """Of the layers that track real images, the player's first pass; of all others, every pass."""
        found: Statistics = {}
        for prefix, network in (("player", player), ("partner", partner)):
            for name, layer in layers_of(network, prefix):
                passes = self.passes.get(layer, [])
                if not layer.tracks_all:
                    passes = passes[:1] if network is player else []
                if passes:
                    found[name] = torch.stack(passes)
        return found


class Recorded:
    """For a block that is passed through once more in backward, with the moments of its first pass."""

    def __init__(self, statistics: _Moments) -> None:
        self.over = statistics.over
        self._statistics = statistics
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._again: Iterator[tuple[Tensor, Tensor]] | None = None

    def begin(self) -> "Recorded":
        self._again = iter(self._kept) if self._kept else None
        return self

    def moments(self, layer: "BatchNorm2d", x: Tensor) -> tuple[Tensor, Tensor]:
        if self._again is not None:
            return next(self._again)
        self._kept.append(self._statistics.moments(layer, x))
        return self._kept[-1]


_here: _Moments | None = None
_apart = False


def recorded_here() -> Recorded | None:
    """For a block that is passed through at this place, and again later; None where running statistics are used."""
    return None if _here is None else Recorded(_here)


@contextmanager
def normalizing(statistics: _Moments | None) -> Iterator[None]:
    """Passes in here are normalised by their own statistics, which are added to `statistics`; None: by the running
    ones."""
    global _here
    before, _here = _here, statistics
    try:
        yield
    finally:
        _here = before


@contextmanager
def apart() -> Iterator[None]:
    """Calls of objectives in here communicate nothing: their statistics are of this process's images."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


class BatchNorm2d(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias of maps x [B, C, H, W], with statistics over B, H and W."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, tracks_all: bool = False) -> None:
        """`tracks_all`: every pass moves the running statistics, not only those of real images."""
        super().__init__()
        self.tracks_all = tracks_all
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if _here is None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, EPS)
        normalized: Tensor = _Normalize.apply(x, self.weight, self.bias, *_here.moments(self, x), _here.over)
        return normalized


class _Normalize(torch.autograd.Function):
    """Saves x and [C]. The gradient of x contains that of the statistics, on which the images of all processes depend:
    its sums are over them too, so that the mean of the processes' gradients is that of the whole batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, over: Over | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.over = over
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, EPS)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        rstd = torch.rsqrt(variance + EPS)
        centred = x - _of_channels(mean)  # in at least fp32, as mean is
        of_bias = grad.sum((0, 2, 3), dtype=mean.dtype)
        of_weight = (grad * centred).sum((0, 2, 3)) * rstd
        grad_x = None
        if needs_x:
            sums, count = torch.stack((of_bias, of_weight)), x.numel() // x.shape[1]
            if ctx.over is not None:
                sums, count = ctx.over.sum(sums), count * ctx.over.processes
            factor, means = weight * rstd, sums / count
            grad_x = centred.mul_(_of_channels(-factor * rstd * means[1]))
            grad_x.addcmul_(grad, _of_channels(factor)).sub_(_of_channels(factor * means[0]))
            grad_x = grad_x.to(x.dtype)
        return grad_x, of_weight if needs_weight else None, of_bias if needs_bias else None, None, None, None


def layers_of(network: nn.Module, prefix: str) -> Iterator[tuple[str, BatchNorm2d]]:
    for name, module in network.named_modules(prefix=prefix):
        if isinstance(module, BatchNorm2d):
            yield name, module


@torch.no_grad()
def move_running_statistics(player: nn.Module, partner: nn.Module, found: Statistics, taken: Tensor) -> None:
    """Moves the running statistics by those of a call (BatchStatistics.that_count), one pass after the other; by
    nothing unless `taken` (bool, 0-dimensional), without waiting for it."""
    layers = dict(layers_of(player, "player")) | dict(layers_of(partner, "partner"))
    for name, passes in found.items():
        layer = layers[name]
        before = torch.stack((layer.running_mean, layer.running_var))
        after = before
        for one in passes.to(before.dtype):
            after = torch.lerp(after, one, MOMENTUM)
        mean, variance = torch.where(taken, after, before)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


def _exact(x: Tensor) -> torch.dtype:
    """The type of statistics."""
    return torch.promote_types(x.dtype, torch.float32)


def _of_channels(values: Tensor) -> Tensor:
    """[C] beside [B, C, H, W]."""
    return values[:, None, None]
