"""Batches on the device, in the order of order.py: threads read and decode ahead, the device flips and scales.

Loading and decoding run outside the interpreter's lock (simplejpeg, OpenCV, pread), so threads do, and nothing is
copied between processes. What travels to the device is uint8.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from time import perf_counter
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.dataset import SAME_CLASS, Batch, Replaced, Request, SampleError
from data_pipelines.images.annotations import read_labels
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.pairs import Pairs
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Store
from data_pipelines.order import Order


class LoaderSettings(Protocol):
    """The part of a data set's settings that a loader needs."""

    @property
    def flip(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def prefetch(self) -> int: ...
    @property
    def faults(self) -> Literal["fatal", "quarantine"]: ...


class Wanted(NamedTuple):
    """Samples that stand at the positions of a request, as x or as a further input."""

    position: int
    samples: NDArray[np.int64]
    """[n]; what replaces damaged ones is written into it."""
    flips: NDArray[np.bool_]
    """[n]: which are mirrored."""
    substitutes: Callable[[int], Iterable[int]]
    """What may replace the sample in a place of 0..n-1, best first."""
    extra: str | None = None
    """Name of the further input; None for x."""


class _Pixels(NamedTuple):
    pixels: Tensor
    """uint8 as read; or what to_images made of them."""
    flips: Tensor | None
    """Which are still to be mirrored."""


class _Loaded(NamedTuple):
    x: _Pixels
    extra: Mapping[str, _Pixels]
    labels: Tensor | None
    replaced: tuple[Replaced, ...]


_SUBSTITUTES = 16
"""Number of substitutes tried for a sample; when none of them can be read, something else is wrong."""


class Loader:
    """Turns requests into batches, in order, while the next ones are read."""

    def __init__(
        self, settings: LoaderSettings, store: Store, manifest: Manifest, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.store = store
        self.manifest = manifest
        self.device = device
        self.seed = seed
        self.order = train_order(manifest, seed, settings.flip)
        self.labels = read_labels(store, manifest)
        """int64 [samples], or None."""
        self.wait_seconds = 0.0
        """Time that the consumer has spent waiting here."""
        self._readers: dict[int, Reader] = {}
        self._expected: tuple[int, list[int]] | None = None  # resolution and shards that the store expects
        self._decoded = 0  # by readers that are closed
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="loader")

    title: ClassVar[str] = "CPU"
    decoders: ClassVar[Mapping[str, str]] = {"png": "libspng", "jpeg": "libjpeg-turbo"}
    """What decodes each format, for reports."""
    install: ClassVar[str] = ""
    """The command that installs the package that it needs."""

    @classmethod
    def check(cls) -> None:
        """ValueError, in one line, when the package that it needs cannot be imported."""

    @property
    def decoded(self) -> int:
        """Images decoded from tar shards so far."""
        return self._decoded + sum(reader.decoded for reader in self._readers.values())

    @cached_property
    def pairs(self) -> Pairs:
        """What stands at each position as SAME_CLASS. ValueError without labels."""
        if self.labels is None:
            raise ValueError(f"{self.store.location} has no labels, by which another image of a class is found")
        return Pairs(self.labels[: self.manifest.train], self.seed, self.settings.flip)

    def reader(self, resolution: int, *, scattered: bool = False) -> Reader:
        """The reader of one level of the pyramid, opened once. `scattered`: what is asked for lies anywhere, not within
        a window of shards."""
        if resolution not in self._readers:
            most = len(self.order.sizes) if scattered else None
            self._readers[resolution] = Reader(self.store, self.manifest, resolution, most)
        return self._readers[resolution]

    def _leave(self, resolutions: Iterable[int]) -> None:
        """Closes the files of these levels."""
        for reader in [self._readers.pop(resolution) for resolution in resolutions]:
            reader.close()
            self._decoded += reader.decoded

    def _load(self, request: Request, reader: Reader) -> _Loaded:
        position = request.position
        samples, flips = self.order.at(position, request.count)
        x, replaced = self._ready(Wanted(position, samples, flips, partial(self._substitutes, position)), reader)
        extra = {}
        for name in request.extra:  # of what stands there now
            others, mirrored = self.pairs.at(position, samples)
            instead = partial(self._others, position, samples, others)
            extra[name], more = self._ready(Wanted(position, others, mirrored, instead, name), reader)
            replaced += more
        labels = None if self.labels is None else torch.from_numpy(self.labels[samples])
        if self.device.type == "cuda":
            labels = _pinned(labels)
        return _Loaded(x, extra, labels, replaced)

    def _ready(self, wanted: Wanted, reader: Reader) -> tuple[_Pixels, tuple[Replaced, ...]]:
        """As far as a thread can bring them."""
        pixels, flipped, replaced = self._read(wanted, reader)
        if self.device.type == "cpu":
            pixels, flipped = to_images(pixels, flipped), None
        elif self.device.type == "cuda":
            pixels, flipped = _pinned(pixels), _pinned(flipped)
        return _Pixels(pixels, flipped), replaced

    def _read(self, wanted: Wanted, reader: Reader) -> tuple[Tensor, Tensor | None, tuple[Replaced, ...]]:
        """uint8 [n, C, R, R], which of them [n] are still to be mirrored, and those that were replaced."""
        pixels, faults = reader.read(wanted.samples)
        replaced = tuple(self._replace(wanted, k, pixels, faults[k], reader) for k in sorted(faults))
        return torch.from_numpy(pixels), torch.from_numpy(np.ascontiguousarray(wanted.flips)), replaced

    def _replace(
        self, wanted: Wanted, place: int, pixels: NDArray[np.uint8], fault: SampleError, reader: Reader
    ) -> Replaced:
        """Puts another sample in the place of one; raises `fault` when that is not wanted or not possible."""
        if self.settings.faults == "fatal":
            raise fault
        damaged = int(wanted.samples[place])
        for substitute in wanted.substitutes(place):
            found, wrong = reader.read([substitute])
            if not wrong:
                pixels[place], wanted.samples[place] = found[0], substitute
                return Replaced(wanted.position + place, damaged, str(fault), wanted.extra)
        raise fault

    def _substitutes(self, position: int, place: int) -> Iterator[int]:
        """Of x."""
        return (self.order.substitute(position + place, attempt) for attempt in range(_SUBSTITUTES))

    def _others(
        self, position: int, samples: NDArray[np.int64], others: NDArray[np.int64], place: int
    ) -> Iterator[int]:
        """Of the other image of a pair, as long as the damaged one still stands there."""
        sample, damaged = int(samples[place]), int(others[place])
        return self.pairs.substitutes(position + place, sample, damaged, _SUBSTITUTES)

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """One batch per request.

        SampleError, naming shard and key, for an image that cannot be read and is not to be replaced. ValueError for a
        further input that there is not.
        """
        upcoming = iter(requests)
        ahead: deque[tuple[Request, Future[_Loaded]]] = deque()

        def fill() -> None:
            while len(ahead) < self.settings.prefetch and (request := next(upcoming, None)) is not None:
                self._check(request)
                reader = self.reader(request.stage, scattered=bool(request.extra))
                if self.store.remote:
                    self._expect(request, reader)
                ahead.append((request, self._threads.submit(self._load, request, reader)))

        fill()
        while ahead:
            start = perf_counter()
            request, future = ahead.popleft()
            loaded = future.result()
            self.wait_seconds += perf_counter() - start
            fill()
            wanted = {request.stage, *(later.stage for later, _ in ahead)}
            self._leave([left for left in self._readers if left not in wanted])
            labels = None if loaded.labels is None else loaded.labels.to(self.device, non_blocking=True)
            x, extra = self._images(loaded.x), {name: self._images(some) for name, some in loaded.extra.items()}
            yield Batch(x, labels, request.position, loaded.replaced, extra)

    def _images(self, loaded: _Pixels) -> Tensor:
        """fp32 on the device."""
        pixels = loaded.pixels.to(self.device, non_blocking=True)
        flips = None if loaded.flips is None else loaded.flips.to(self.device, non_blocking=True)
        return pixels if pixels.is_floating_point() else to_images(pixels, flips)

    def _check(self, request: Request) -> None:
        if unknown := [name for name in request.extra if name != SAME_CLASS]:
            raise ValueError(f"{self.store.location} has no {unknown[0]}")
        if request.extra:
            self.pairs  # noqa: B018 (made here, once, and not by every thread)

    def _expect(self, request: Request, reader: Reader) -> None:
        """Tells the store whenever a request is the first of another window of shards, or of another level.

        The other images of pairs lie in any shard: all shards are then expected, those of the windows first, but for
        those that are open, which are not asked for again.
        """
        expected = (request.stage, self.order.shards_from(request.position))
        if expected != self._expected:
            self._expected = expected
            shards = expected[1]
            if request.extra:
                opened = reader.opened()
                shards = [k for k in dict.fromkeys([*shards, *range(len(self.order.sizes))]) if k not in opened]
            level = self.manifest.levels[request.stage]
            kinds = (level.indexes, level.files) if level.indexes else (level.files,)
            self.store.expect([records[shard] for shard in shards for records in kinds])

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._leave(list(self._readers))


def train_order(manifest: Manifest, seed: int, flip: bool) -> Order:
    """The order of a prepared set's training samples."""
    return Order([shard.samples for shard in manifest.shards if shard.split == "train"], seed, flip)


def _pinned(tensor: Tensor | None) -> Any:
    """The tensor in pinned memory, from which a GPU can copy in the background, unless it is on a GPU already."""
    return tensor.pin_memory() if tensor is not None and tensor.device.type == "cpu" else tensor


_LARGE = 1 << 15


def to_images(pixels: Tensor, flips: Tensor | None = None) -> Tensor:
    """uint8 [B, C, H, W] -> fp32 in [-1, 1], those with `flips` [B] mirrored; contiguous, whatever `pixels` is."""
    if pixels.device.type != "cpu" or pixels.numel() < _LARGE * len(pixels):
        return at_once(pixels, flips)
    images = torch.empty(pixels.shape)  # image by image, which stay in the processor's cache: a third of the time
    mirrored = [False] * len(pixels) if flips is None else flips.tolist()
    for image, one, mirror in zip(images, pixels, mirrored, strict=True):
        torch.div(one.flip(2) if mirror else one, 127.5, out=image).sub_(1)
    return images


def at_once(pixels: Tensor, flips: Tensor | None) -> Tensor:
    """The same as `to_images`, in few operations."""
    if flips is not None:
        pixels = torch.where(flips[:, None, None, None], pixels.flip(3), pixels)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)
