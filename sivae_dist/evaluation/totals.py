"""Sums that metrics make of one need, over batches and processes."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sivae_dist.evaluation.metrics import Batch, Metric, Total
from sivae_dist.process.processes import world_size


class Totals:
    """Sums of some metrics, in their order, and the number of images; all in one fp64 tensor."""

    def __init__(self, metrics: Sequence[Metric], device: torch.device) -> None:
        self._metrics = metrics
        self._sums = torch.zeros(1 + sum(metric.sums for metric in metrics), dtype=torch.float64, device=device)

    def add(self, batch: Batch) -> None:
        """A batch of this process."""
        parts = [_checked(metric, metric.add(batch)) for metric in self._metrics]
        self._sums += torch.cat((self._sums.new_tensor([len(batch)]), *parts))

    def reduced(self) -> list[Total]:
        """Totals over all processes, by metric. All of them call it together, once."""
        if world_size() > 1:
            dist.all_reduce(self._sums)
        count, *parts = self._sums.cpu().split([1, *(metric.sums for metric in self._metrics)])
        return [Total(int(count), part) for part in parts]


def _checked(metric: Metric, part: Tensor) -> Tensor:
    """ValueError when a metric breaks its contract, about which torch would say nothing helpful."""
    if part.shape != (metric.sums,) or part.dtype != torch.float64:
        found = f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
        raise ValueError(f"{type(metric).__name__}.add returned {found} instead of float64 [{metric.sums}]")
    return part
