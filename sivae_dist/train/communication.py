"""What the processes of a run send each other in a step: said for any number of them, and noted as it happens."""

import sys
from collections import Counter
from types import FrameType
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.process import processes
from sivae_dist.train.memory import meta_networks, sums_of_statistics
from sivae_dist.train.tracing import Tracker


class Communication(NamedTuple):
    """Bytes of one step of a run on `processes` processes."""

    reduced: int
    """Of gradients, which are summed over all processes: with DDP those of the parameters in use, once."""
    gathered: int
    """Of weights, which are put together from the slices of all processes: with ZeRO 1 and 2 those in use, once; with
    ZeRO 3 at least this much."""
    processes: int
    statistics: int = 0
    """Of batch normalization's statistics and their gradients, which are summed over all processes."""
    sums: int = 0
    """Sums that these are sent in, layer by layer, each of which is waited for."""

    @property
    def sent(self) -> int:
        """Bytes that each process sends, and receives as many, by collectives that send the least (rings)."""
        others = self.processes - 1
        return (2 * (self.reduced + self.statistics) + self.gathered) * others // self.processes


def communication(
    settings: RunSettings,
    resolution: int,
    count: int,
    *,
    blending: bool = False,
    warming_up: bool = False,
    parts: int = 1,
) -> Communication:
    """What a step at `resolution` px, in its transition or not, communicates among `count` processes.

    `warming_up` decides about the statistics of batch normalization alone. `parts`: micro-batches of a process. Votes,
    padding and logged values, some bytes each, are left out, and so is what a segment begins with. Takes milliseconds;
    only where batches are normalised, a step is traced.
    """
    if count == 1:
        return Communication(0, 0, 1)
    updated = [
        sum(p.nbytes for part in network.parts_in_use(resolution, blending) for p in part.parameters())
        for network in meta_networks(settings)
    ]
    sums = sums_of_statistics(settings, resolution, blending=blending, warming_up=warming_up)
    return Communication(*settings.engine.communicated(updated, parts), count, sum(sums), len(sums))


class Collective(NamedTuple):
    """One that a process has taken part in."""

    name: str
    """all_reduce, broadcast, all_gather, ..."""
    bytes: int
    """Of the whole: what is summed, sent, or put together from all processes."""
    origin: str
    """The module of this package that asked for it: the engine's for gradients."""
    flops: int
    """Floating-point operations that had been done before."""


class Collectives(TorchDispatchMode):
    """Notes every collective that this thread begins while it is entered, also those that DDP begins from C++.

    Given a tracker that was entered before, it notes how far the step had come as well.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        super().__init__()
        self.tracker = tracker
        self.noted: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = _NAMES.get(func._overloadpacket.__name__, func._overloadpacket.__name__)
            flops = 0 if self.tracker is None else self.tracker.flops
            self.noted.append(Collective(name, _bytes_of_whole(args), _origin(), flops))
        return func(*args, **(kwargs or {}))

    def by_origin(self) -> Counter[tuple[str, str]]:
        """Bytes by origin and name."""
        total: Counter[tuple[str, str]] = Counter()
        for one in self.noted:
            total[one.origin, one.name] += one.bytes
        return total


_NAMES = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "broadcast_": "broadcast",
    "reduce_": "reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
}
"""By the operation of torch that begins it; others keep torch's name."""


def _bytes_of_whole(args: tuple[Any, ...]) -> int:
    """Where an operation is given both slices and the whole, the whole is the larger."""
    return max(sum(leaf.nbytes for leaf in tree_leaves(one) if isinstance(leaf, Tensor)) for one in args)


def _origin() -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        if module.startswith("sivae_dist.") and module != processes.__name__:  # which is asked by others
            return module
        frame = frame.f_back
    return ""
