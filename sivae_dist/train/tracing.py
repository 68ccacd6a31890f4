"""Tracing of a step: its operations run on tensors that have shapes but no values, and are counted.

Needs no GPU and hardly any memory: a step of the largest model is traced in seconds on a laptop.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Decoder, Encoder, Mixing, Stage
from sivae_dist.models.layers.forms import Form
from sivae_dist.models.stage import blend_real
from sivae_dist.objectives import Draws
from sivae_dist.train.sizes import Peak, polynomial
from sivae_dist.train.work import Work, work_of


class FakeMode(FakeTensorMode):
    """A fake mode that copied networks stay in, as tensors of two modes cannot be mixed."""

    def __deepcopy__(self, _memo: object) -> Self:
        return self


_ALLOCATIONS = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")
}
"""Operations that allocate, and neither read nor write."""


class Tracker(TorchDispatchMode):
    """Counts the operations that run while it is entered, and the memory that they allocate.

    Views, bare allocations and queries of a tensor's properties are not counted as operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        """Floating-point operations of matrix products and convolutions, 2 for a product and its sum."""
        self.operations = 0
        """Each launches at least one kernel on a GPU."""
        self.traffic = 0
        """Bytes read and written if nothing is found in a cache: an operation reads all tensors that it is given, and
        writes those that it returns or changes."""
        self.bytes = self.peak = 0
        """Bytes of the storages that operations have made: now, and at most."""
        self.work: Counter[Work] = Counter()
        """How often there was work of each kind and size."""
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        flops = 0
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            flops = count(*args, **kwargs, out_val=out)
            self.flops += self._size(flops)
        given = list(tensors((args, kwargs)))
        known = {tensor.untyped_storage()._cdata for tensor in given}
        made = [tensor for tensor in tensors(out) if tensor.untyped_storage()._cdata not in known]
        for tensor in made:
            self.add(tensor.untyped_storage())
        changed = list(_changed(func, args, kwargs))
        if (made or changed) and func._overloadpacket not in _ALLOCATIONS:
            self.operations += 1
            self.traffic += sum(self._size(tensor.nbytes) for tensor in (*given, *made, *changed))
            self.work.update(work_of(func, args, flops, given, made, changed, self._size))
        return out

    def _size(self, count: int) -> int:
        """What is kept of a count."""
        return count

    def add(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage until it is freed, once."""
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = self._size(storage.nbytes())
            self.bytes += self._alive[key]
            self._note()
            weakref.finalize(storage, self._remove, key).atexit = False

    def _note(self) -> None:
        self.peak = max(self.peak, self.bytes)

    def _remove(self, key: int) -> None:
        self.bytes -= self._alive.pop(key)


class BatchTracker(Tracker):
    """Counts, in a trace of `TRACED_BATCH` images, what holds for any number of them: all counts are polynomials
    (sizes.py), and the peak is that of `peaks`."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks = Peak()

    def _size(self, count: int) -> int:
        return polynomial(count)

    def _note(self) -> None:
        self.peaks.note(self.bytes)


def tensors(tree: object) -> Iterable[Tensor]:
    """Those in a nested structure."""
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """The arguments that an operation writes to."""
    if func._schema.is_mutable:
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield from tensors(args[place] if place < len(args) else kwargs.get(argument.name))


class TracedSettings:
    """Settings and a form of the layers, equal to others when a trace would find the same."""

    def __init__(self, settings: RunSettings, form: Form) -> None:
        self.settings = settings
        self.form = form
        engine = settings.engine.model_dump(include={"precision", "channels_last", "checkpoint_activations"})
        self._key = repr((settings.model, settings.objective, settings.optimizer, sorted(engine.items()), form))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TracedSettings) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def fake_networks(settings: RunSettings) -> tuple[Encoder, Decoder]:
    """Both networks, in the fake mode that is entered, where `Module.to` cannot exchange parameters."""
    engine = settings.engine
    networks = settings.model.networks()
    for network in networks:
        network.checkpoint_activations = engine.checkpoint_activations
        network.map_format = engine.map_format
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                exact: Tensor = torch.empty_like(parameter, dtype=engine.dtype)
                if exact.dim() == 4:
                    exact = exact.contiguous(memory_format=engine.weight_format)
                setattr(module, name, nn.Parameter(exact))
    return networks


def micro_batch(
    settings: RunSettings, decoder: Decoder, resolution: int, blending: bool, batch: int
) -> tuple[Tensor, Cond, Draws]:
    """The inputs of an encoder's objective (objectives/base.py), in memory as in training; without values in a fake
    mode that is entered."""
    model, dtype = settings.model, settings.engine.dtype
    blend = torch.zeros(()) if blending else None
    label = torch.zeros(batch, dtype=torch.int64) if model.classes else None
    given = {name: torch.empty(batch, *model.shape(resolution), dtype=dtype) for name in ("x", *model.inputs)}
    blended = {
        name: blend_real(one.contiguous(memory_format=settings.engine.image_format(one)), blend)
        for name, one in given.items()
    }
    x = blended.pop("x")
    size = decoder.noise_size(resolution)
    mixing = None
    if settings.objective.mixing_share:
        mixing = Mixing(torch.empty(batch, model.latent, dtype=dtype), torch.zeros(batch, dtype=torch.int64))
    codes = torch.empty(batch, 4, model.latent, dtype=dtype)
    draws = Draws(
        z=codes[:, 0],
        eps=codes[:, 1:],
        noise=torch.empty(batch, 4, size, dtype=dtype) if size else None,
        mixing=mixing,
    )
    return x, Cond(Stage(resolution, blend), label, extra=blended), draws
