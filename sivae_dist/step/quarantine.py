"""Damaged samples that others have replaced: all processes count them alike, and too many of them end the run."""

from typing import Any

import torch
import torch.distributed as dist

from data_pipelines.dataset import Batch, Dataset, Replaced, SampleError
from sivae_dist.process.processes import everyone, host_group


class Quarantine:
    """Each step's replaced samples, over all processes. Costs nothing where a damaged sample ends the run."""

    def __init__(self, data: Dataset) -> None:
        """Made by all processes together."""
        self.train = data.train
        self.max_faults = data.max_faults or 0.0
        self.limit = max(1, int(self.max_faults * data.train))
        """Samples that may be replaced per epoch, further inputs not counted."""
        self.total = 0
        """Samples replaced since the run began, once for every time that they would have been seen."""
        self._epoch = self._in_epoch = 0
        self._reported: set[str] = set()
        self._active = data.max_faults is not None
        self._group = host_group() if self._active else None
        self._count = torch.zeros((), dtype=torch.int64)
        self._vote: dist.Work | None = None
        self._mine: tuple[Replaced, ...] = ()

    def vote(self, batch: Batch) -> None:
        """Starts to count; each step asks before its work and reads the answer after it, without waiting."""
        self._mine = batch.replaced
        self._count.fill_(len(batch.replaced))
        if self._group is not None:
            self._vote = dist.all_reduce(self._count, group=self._group, async_op=True)

    def check(self) -> list[str]:
        """Lines to report, the same on all processes: one for each damaged sample, or shard that cannot be opened, that
        was not reported before. SampleError, on all processes in the same step, when an epoch has had too many."""
        if not self._active:
            return []
        if self._vote is not None:
            self._vote.wait()
        if not int(self._count):
            return []
        replaced = sorted(
            (r for part in everyone(lambda: self._mine, self._group) for r in part), key=lambda r: r.position
        )
        lines = []
        for one in replaced:
            self.total += 1
            if one.extra is None:  # once in an epoch, unlike a further input, every sample stands there itself
                self._count_in_epoch(one)
            if one.reason not in self._reported:
                self._reported.add(one.reason)
                lines.append(f"{one.reason}; another sample takes its place")
        return lines

    def _count_in_epoch(self, one: Replaced) -> None:
        """SampleError when the epoch has had too many."""
        epoch = one.position // self.train
        if epoch != self._epoch:
            self._epoch, self._in_epoch = epoch, 0
        self._in_epoch += 1
        if self._in_epoch > self.limit:
            raise SampleError(
                f"{self._in_epoch:,} of {self.train:,} training samples could not be read in epoch {epoch}, more "
                f"than data.max_faults={self.max_faults:g} allows; the last: {one.reason}"
            )

    def state(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {"total": self.total, "epoch": self._epoch, "in_epoch": self._in_epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave, or nothing."""
        self.total = state.get("total", 0)
        self._epoch, self._in_epoch = state.get("epoch", 0), state.get("in_epoch", 0)
