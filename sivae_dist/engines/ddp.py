"""Data parallel training with torch's DistributedDataParallel; one process alone is its degenerate case."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sivae_dist.engines.base import Engine, InputT, NetworkT, TurnT, Update
from sivae_dist.engines.compiling import compile_objective, reported
from sivae_dist.models.layers.batch_norm import apart
from sivae_dist.process.processes import world_size
from sivae_dist.step.optimizer import guarded_step, state_is_finite


class DdpEngine(Engine[NetworkT, InputT, TurnT]):
    """The objective wrapped for the process group; every process holds a copy of everything."""

    objective: nn.Module | None = None
    _fresh = False

    def prepare(self, objective: nn.Module, parts_in_use: list[nn.Module]) -> None:
        self.parameters = [p for part in parts_in_use for p in part.parameters()]
        if self.settings.compile:
            compile_objective(objective)
        distributed = world_size() > 1
        if distributed:
            # The successor of broadcast_buffers came with torch 2.13, and would send them once at the start.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            with self.turn():
                # Buffers are the same everywhere as they are.
                objective = DistributedDataParallel(objective, gradient_as_bucket_view=True, broadcast_buffers=False)
        self.objective = objective
        self._fresh = distributed

    def update(self, inputs: Sequence[InputT], lr: float, allowed: Tensor) -> Update[TurnT]:
        with self.turn():
            if self._fresh:
                # DDP lays its gradient buckets out anew after the first backward of a process, and the layout decides
                # the order of summation. One discarded backward makes it a function of the segment, not of the start.
                self._backward(inputs[:1], torch.ones_like(allowed))
                self._fresh = False
            sound = state_is_finite(self.optimizer, self.parameters)
            turns = self._backward(inputs, sound)
            norm, taken = guarded_step(self.optimizer, self.parameters, lr, self.clip, allowed)
        self.optimizer.zero_grad(set_to_none=True)
        self.commit(turns, taken)
        return Update(turns, norm, sound, taken)

    def rehearse(self, inputs: Sequence[InputT]) -> list[TurnT]:
        """Without communication, so that a process whose memory does not suffice leaves no other waiting."""
        with self.turn(), apart():
            sound = torch.ones((), dtype=torch.bool, device=self.parameters[0].device)
            return self._backward(inputs, sound, alone=True)

    def _backward(self, inputs: Sequence[InputT], sound: Tensor, *, alone: bool = False) -> list[TurnT]:
        """The gradient (`alone`: this process's), and the turns.

        What is not finite here becomes a gradient that is not finite everywhere.
        """
        assert self.objective is not None
        self.optimizer.zero_grad(set_to_none=True)
        turns = []
        for index, arguments in enumerate(inputs):
            last = index == len(inputs) - 1
            local = isinstance(self.objective, DistributedDataParallel) and (alone or not last)
            with self.objective.no_sync() if local else nullcontext():  # type: ignore[operator]
                with reported() if self.settings.compile else nullcontext():
                    turn: TurnT = self.objective(*arguments)
                (turn.loss / torch.where(sound & torch.isfinite(turn.loss), len(inputs), torch.nan)).backward()
            turns.append(turn._replace(loss=turn.loss.detach()))
        return turns
