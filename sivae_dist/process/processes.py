"""The processes of a run: rank, number, and actions that all of them take together."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from sivae_dist.process.devices import gpu_of, refuse_shared

T = TypeVar("T")


class PeerError(RuntimeError):
    """Another process has failed, and reports why itself."""


_CUT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""Words of gloo, NCCL and the store about a process that is gone."""


def is_of_lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another process, or its node, is gone."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CUT)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


_timeout: timedelta | None = None
"""The timeout given to `join`; a new group does not inherit it from the first one."""


def join(device: torch.device, timeout: timedelta) -> None:
    """Joins the process group that a launcher's environment (RANK, WORLD_SIZE, ...) describes, if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        global _timeout
        _timeout = timeout
        if device.type == "cpu":
            dist.init_process_group(_backend(device), timeout=timeout)
        else:
            _join_gpus(device, timeout)


def _join_gpus(device: torch.device, timeout: timedelta) -> None:
    """NCCL is given the device, so that it connects at once and never guesses one by rank."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, but not in __all__

    store, index, count = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]
    store.set_timeout(timeout)
    refuse_shared(everyones(store, index, count, gpu_of(device)))  # NCCL would fail less clearly
    store = PrefixStore("default_pg", store)
    dist.init_process_group(
        _backend(device), store=store, rank=index, world_size=count, timeout=timeout, device_id=device
    )


def everyones(store: Any, index: int, count: int, value: str) -> list[str]:
    """The value of each of `count` processes, by rank, before there is a group; this is process `index`."""
    store.set(f"sivae/{index}", value)
    return [store.get(f"sivae/{other}").decode() for other in range(count)]


def join_alone(device: torch.device) -> None:
    """A process alone becomes a group, for libraries that need one."""
    from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not in __all__

    if not dist.is_initialized():
        dist.init_process_group(_backend(device), store=HashStore(), rank=0, world_size=1)


def _backend(device: torch.device) -> str:
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


_destroy: Callable[[], None] = dist.destroy_process_group


def leave_through(destroy: Callable[[], None]) -> None:
    """For a library that keeps groups of its own: its way to end the group, instead of torch's."""
    global _destroy
    _destroy = destroy


def leave() -> None:
    if dist.is_initialized():
        _destroy()


def host_group() -> dist.ProcessGroup | None:
    """A new group of all processes for what happens on the host beside training; None for a process alone."""
    return new_group("gloo") if world_size() > 1 else None


def new_group(backend: str | None = None) -> dist.ProcessGroup:
    """A group of all processes, with the timeout of the first one."""
    return cast(dist.ProcessGroup, dist.new_group(backend=backend, timeout=_timeout))


def everyone(action: Callable[[], T], group: Any = None) -> list[T]:
    """Runs `action` on every process and returns all results, by rank. `group`: of all processes; None: the usual one.

    An error on any process is raised on all of them, so that no process waits for one that has given up. The results
    travel pickled among our own processes.
    """
    value: T | None = None
    error: Exception | None = None
    try:
        value = action()
    except Exception as caught:
        error = caught
    if world_size() == 1:
        if error is not None:
            raise error
        return [cast(T, value)]
    outcomes: list[Any] = [None] * world_size()
    dist.all_gather_object(outcomes, (value, f"{type(error).__name__}: {error}" if error else None), group)
    if error is not None:
        raise error
    for other, (_, message) in enumerate(outcomes):
        if message is not None:
            raise PeerError(f"process {other} failed: {message}")
    return [result for result, _ in outcomes]


def on_first(action: Callable[[], T], group: Any = None) -> T:
    """Runs `action` on the first process alone and gives its result (or error) to all."""
    return everyone(lambda: action() if rank() == 0 else None, group)[0]  # type: ignore[return-value]


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in its place."""
    dist.all_reduce(values)
    return values


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, in a new tensor."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()
