"""A GPU that is not there: fake CUDA tensors, which have shapes, types and devices but no values.

They run the training loop as it is, and what cannot be had without a driver is stood in for here. A computation that
mixes devices is an error, as on a GPU, and so is everything for which the host would wait for the device. What this
cannot show is in docs/gpus.md.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sivae_dist.checkpoint.saver import CheckpointSaver
from sivae_dist.train import checkpoints

GPU = torch.device("cuda", 0)

_aten = torch.ops.aten
_VALUES = {
    _aten._local_scalar_dense, _aten.item, _aten.equal, _aten.is_nonzero, _aten.nonzero, _aten.nonzero_numpy,
    _aten.masked_select, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive, _aten.bincount,
    _aten.repeat_interleave,
}  # fmt: skip
"""Operations whose result the host needs before it can go on."""


class HostWait(AssertionError):
    """The host would have waited for the device."""


class NoHostWaits(TorchDispatchMode):
    """Raises HostWait where the host would wait for a GPU: a value is read, or memory that is not pinned is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[torch.dtype]()
        """Operations on a GPU, by the type of their first tensor there."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor.dtype for tensor in tensors if tensor.is_cuda]
        self.seen.update(here[:1])
        packet = operation.overloadpacket
        masked = packet in (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if here and (packet in _VALUES or masked):
            raise HostWait(f"{operation} reads values of a tensor on a device")
        if packet is _aten._to_copy and tensors and kwargs.get("device") is not None:
            devices = {tensors[0].device.type, torch.device(kwargs["device"]).type}
            if len(devices) > 1 and not kwargs.get("non_blocking"):
                raise HostWait(
                    f"a tensor {list(tensors[0].shape)} is copied from device {tensors[0].device}, with a wait"
                )
        if packet is _aten.copy_ and len({tensor.device.type for tensor in tensors}) > 1:
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                raise HostWait(f"a tensor {list(tensors[0].shape)} is copied into another device's, with a wait")
        return operation(*args, **kwargs)


def _accumulate(self: Tensor, *_: Any, **__: Any) -> None:
    """Stands in for Tensor.backward, which needs a driver: gives every parameter in the graph a gradient."""
    assert self.requires_grad and self.dim() == 0
    seen, stack = set(), [self.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            parameter = node.variable
            gradient = torch.zeros_like(parameter)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        stack += [following for following, _ in node.next_functions]


def _replace(self: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
    """Stands in for Module.to, which cannot change fake parameters in place."""
    for module in self.modules():
        for name, parameter in module.named_parameters(recurse=False):
            format_ = options if parameter.dim() == 4 else {}
            setattr(module, name, nn.Parameter(parameter.detach().to(*arguments, **format_), parameter.requires_grad))
        assert not list(module.buffers(recurse=False))
    return self


@contextmanager
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoHostWaits]:
    """In here, GPU is a device whose tensors are fake. Gives a recorder, to be entered where nothing may wait."""
    generator = torch.Generator

    def generator_on(device: torch.device) -> torch.Generator:
        assert torch.device(device) == GPU
        return generator("cpu")

    saver: Callable[..., Any] = lambda folder, settings, _: CheckpointSaver(folder, settings, torch.device("cpu"))  # noqa: E731
    properties = SimpleNamespace(name="Simulated GPU", total_memory=1 << 36, major=9, minor=0, uuid="simulated")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: properties.name)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)  # autocast asks it
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # taking fake tensors apart can crash torch
    monkeypatch.setattr(torch, "Generator", generator_on)
    monkeypatch.setattr(nn.Module, "to", _replace)
    monkeypatch.setattr(Tensor, "backward", _accumulate)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(checkpoints, "CheckpointSaver", saver)
    monkeypatch.setattr(CheckpointSaver, "rehearse", lambda *_: None)  # it writes values
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield NoHostWaits()
