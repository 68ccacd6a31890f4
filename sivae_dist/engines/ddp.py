"""Data parallel training with torch's DistributedDataParallel; one process alone is its degenerate case."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from sivae_dist.optimizer import OptimizerSettings, guarded_step, state_is_finite
from sivae_dist.settings import Settings


class EngineSettings(Settings):
    name: Literal["ddp"] = "ddp"
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """`bf16`: autocast inside the networks, weights and losses in fp32. `fp64`: everything, for verification."""
    compile: bool = False
    """torch.compile of both objectives, once for every resolution and again for its transition."""
    channels_last: bool = True
    """Memory format of weights and images; faster for convolutions on a GPU with bf16 and on a CPU."""
    max_batch_per_rank: int | None = Field(None, ge=1)
    """Images that one process takes at once; larger shares are accumulated in equal parts. None: no limit."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and images."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def amp(self) -> torch.dtype | None:
        """The autocast type inside the networks."""
        return torch.bfloat16 if self.precision == "bf16" else None

    def parts(self, share: int) -> int:
        """The least number of equal micro-batches for one process's share of a batch."""
        limit = self.max_batch_per_rank or share
        return next(k for k in range(1, share + 1) if share % k == 0 and share // k <= limit)


class Update(NamedTuple):
    """What one step of a player gave."""

    outputs: list[tuple[Any, ...]]
    """Of the objective beyond the loss, for each micro-batch."""
    norm: Tensor
    """Of the gradient, over all processes; 0-dimensional like the next two."""
    sound: Tensor
    """Whether this process's optimizer state was finite."""
    taken: Tensor
    """Whether anything has moved; the same on all processes."""


class DdpEngine:
    """One player: its network, its optimizer, and the objective of the current segment wrapped for the process group.

    The other player's engine holds the partner. `update` is the whole interface to the training loop.
    """

    def __init__(
        self, settings: EngineSettings, optimizer: OptimizerSettings, network: nn.Module, partner: nn.Module
    ) -> None:
        self.settings = settings
        self.network = network
        self.partner = partner
        self.clip = optimizer.clip
        self.optimizer: Adam = optimizer.build(network)
        self.parameters: list[nn.Parameter] = []
        self.objective: nn.Module | None = None
        self._distributed = dist.is_initialized() and dist.get_world_size() > 1
        self._fresh = False

    def prepare(self, objective: nn.Module, parts_in_use: list[nn.Module]) -> None:
        """Takes over the objective of a new segment. Only the parameters of `parts_in_use` are trained by it."""
        self.parameters = [p for part in parts_in_use for p in part.parameters()]
        if self.settings.compile:
            torch._dynamo.reset()  # the last segment's code is of no more use, and its count would reach a limit
            objective.compile(dynamic=False)
        if self._distributed:
            with self.turn():
                objective = DistributedDataParallel(objective, gradient_as_bucket_view=True)
        self.objective = objective
        self._fresh = self._distributed

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The player's parameters in use require gradients, and nobody else's do."""
        self.partner.requires_grad_(False)
        self.network.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        yield

    def update(self, inputs: Sequence[tuple[Any, ...]], lr: float, allowed: Tensor) -> Update:
        """One step of the player over micro-batches.

        Nothing moves when the loss, the gradient or the optimizer's state of any process is not finite, or `allowed`
        (bool, 0-dimensional, on the device) is false.

        The gradient is the mean over micro-batches and processes, all of equal size.
        """
        with self.turn():
            if self._fresh:
                # DDP lays its gradient buckets out anew after the first backward of a process, and the layout decides
                # the order of summation. One discarded backward makes it a function of the segment, not of the start.
                self._backward(inputs[:1], torch.ones_like(allowed))
                self._fresh = False
            sound = state_is_finite(self.optimizer, self.parameters)
            outputs = self._backward(inputs, sound)
            norm, taken = guarded_step(self.optimizer, self.parameters, lr, self.clip, allowed)
        self.optimizer.zero_grad(set_to_none=True)
        return Update(outputs, norm, sound, taken)

    def _backward(self, inputs: Sequence[tuple[Any, ...]], sound: Tensor) -> list[tuple[Any, ...]]:
        """The gradient, and the outputs. What is not finite here becomes a gradient that is not finite everywhere."""
        assert self.objective is not None
        self.optimizer.zero_grad(set_to_none=True)
        outputs = []
        for index, arguments in enumerate(inputs):
            last = index == len(inputs) - 1
            local = isinstance(self.objective, DistributedDataParallel) and not last
            with self.objective.no_sync() if local else nullcontext():  # type: ignore[operator]
                loss, *rest = self.objective(*arguments)
                (loss / torch.where(sound & torch.isfinite(loss), len(inputs), torch.nan)).backward()
            outputs.append(tuple(rest))
        return outputs

    def reset(self) -> None:
        """Forgets the optimizer's state."""
        self.optimizer.state.clear()
