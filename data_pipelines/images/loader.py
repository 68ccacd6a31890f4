"""Batches on the device, in the order of order.py: threads read and decode ahead, the device flips and scales.

Loading and decoding run outside the interpreter's lock (simplejpeg, OpenCV, pread), so threads do, and nothing is
copied between processes. What travels to the device is uint8.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from data_pipelines.images.arrays import parse_array
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.reader import Reader, SampleError
from data_pipelines.images.remote import RemoteSettings
from data_pipelines.images.store import Store, unreadable
from data_pipelines.images.transport import is_elsewhere
from data_pipelines.order import Order
from data_pipelines.settings import Settings, expand


class DataSettings(Settings):
    path: str = Field(min_length=1)
    """A data set made by `sivae data prepare`: its directory, a URL (`s3://`, `gs://`, `https://`), or a command that
    prints the file `{name}` (`pipe:ssh HOST cat SET/{name}`). A relative path starts from the working directory; `~`
    and `$VARIABLES` are replaced."""
    flip: bool = True
    """Mirror every image with probability 1/2."""
    loader: Literal["cpu", "dali"] = "cpu"
    """What decodes the levels that are stored as tars: threads on the CPU, or NVIDIA DALI (`pip install
    nvidia-dali-cuda130`), on the GPU where a run has one. Order, flips and damaged samples are the same."""
    threads: int = Field(2, ge=1)
    """Reading and decoding threads of each process."""
    prefetch: int = Field(4, ge=1)
    """Batches that are read ahead."""
    faults: Literal["fatal", "quarantine"] = "fatal"
    """A sample that is damaged or missing ends the run; or another takes its place, which is told and counted."""
    max_faults: float = Field(0.001, ge=0, le=1)
    """Under quarantine the run ends when more than this share of the training samples had to be replaced in an
    epoch; one is always allowed."""
    remote: RemoteSettings = RemoteSettings()

    @field_validator("path")
    @classmethod
    def _expanded(cls, path: str) -> str:
        return path if is_elsewhere(path) else expand(path)


@dataclass(frozen=True)
class Request:
    """The positions [position, position + count) of the run, at one resolution."""

    position: int
    count: int
    resolution: int


@dataclass(frozen=True)
class Replaced:
    """A sample that another took the place of, because it is damaged or missing."""

    position: int
    sample: int
    reason: str
    """One line that names file, key and sample."""


class Batch(NamedTuple):
    """What stands at the positions of a request, on the device."""

    images: Tensor
    """fp32 [B, C, R, R] in [-1, 1], flipped where the order says so."""
    labels: Tensor | None
    """int64 [B]; None when the data set has no labels."""
    replaced: tuple[Replaced, ...] = ()


class _Loaded(NamedTuple):
    pixels: Tensor
    """uint8 as read; or what to_images made of them."""
    flips: Tensor | None
    """Which are still to be mirrored."""
    labels: Tensor | None
    replaced: tuple[Replaced, ...]


_SUBSTITUTES = 16
"""Samples that are tried in the place of one; when none of them can be read, something else is wrong."""


class Loader:
    """Turns requests into batches, in order, while the next ones are read."""

    def __init__(
        self, settings: DataSettings, store: Store, manifest: Manifest, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.store = store
        self.manifest = manifest
        self.device = device
        self.order = Order([shard.samples for shard in manifest.shards if shard.split == "train"], seed, settings.flip)
        self.labels = read_labels(store, manifest)
        """int64 [samples], or None."""
        self.wait_seconds = 0.0
        """Time that the consumer has spent waiting here."""
        self._readers: dict[int, Reader] = {}
        self._expected: tuple[int, list[int]] | None = None  # resolution and shards that the store was told of
        self._decoded = 0  # by readers that are closed
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="loader")

    @property
    def decoded(self) -> int:
        """Images decoded from tar shards so far."""
        return self._decoded + sum(reader.decoded for reader in self._readers.values())

    def reader(self, resolution: int) -> Reader:
        """The reader of one level of the pyramid, opened once."""
        if resolution not in self._readers:
            self._readers[resolution] = Reader(self.store, self.manifest, resolution)
        return self._readers[resolution]

    def _leave(self, resolutions: Iterable[int]) -> None:
        """Lets go of the files of these levels."""
        for reader in [self._readers.pop(resolution) for resolution in resolutions]:
            reader.close()
            self._decoded += reader.decoded

    def pictures(self, resolution: int, samples: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 [n, C, R, R] of some samples, to be looked at: grey in place of those that are damaged, where that is
        not fatal; else SampleError."""
        pixels, faults = self.reader(resolution).read(samples)
        if faults and self.settings.faults == "fatal":
            raise faults[min(faults)]
        pixels[list(faults)] = 128
        return pixels

    def _load(self, request: Request, reader: Reader) -> _Loaded:
        samples, flips = self.order.at(request.position, request.count)
        pixels, flipped, replaced = self._read(request.position, samples, flips, reader)
        labels = None if self.labels is None else torch.from_numpy(self.labels[samples])
        if self.device.type == "cpu":
            return _Loaded(to_images(pixels, flipped), None, labels, replaced)
        if self.device.type == "cuda":
            pixels, flipped, labels = _pinned(pixels), _pinned(flipped), _pinned(labels)
        return _Loaded(pixels, flipped, labels, replaced)

    def _read(
        self, position: int, samples: NDArray[np.int64], flips: NDArray[np.bool_], reader: Reader
    ) -> tuple[Tensor, Tensor | None, tuple[Replaced, ...]]:
        """The samples that stand from a position on: uint8 [n, C, R, R], which of them [n] are still to be mirrored,
        and those that were replaced, whose substitutes are written into `samples`."""
        pixels, faults = reader.read(samples)
        replaced = tuple(self._replace(position, k, samples, pixels, faults[k], reader) for k in sorted(faults))
        return torch.from_numpy(pixels), torch.from_numpy(np.ascontiguousarray(flips)), replaced

    def _replace(
        self,
        first: int,
        place: int,
        samples: NDArray[np.int64],
        pixels: NDArray[np.uint8],
        fault: SampleError,
        reader: Reader,
    ) -> Replaced:
        """Puts another sample in the place of one; raises `fault` when that is not wanted or not possible."""
        if self.settings.faults == "fatal":
            raise fault
        position, sample = first + place, int(samples[place])
        for attempt in range(_SUBSTITUTES):
            substitute = self.order.substitute(position, attempt)
            found, wrong = reader.read([substitute])
            if not wrong:
                pixels[place], samples[place] = found[0], substitute
                return Replaced(position, sample, str(fault))
        raise fault

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """One batch a request.

        SampleError, naming shard and key, for an image that cannot be read and is not to be replaced.
        """
        upcoming = iter(requests)
        ahead: deque[tuple[int, Future[_Loaded]]] = deque()

        def fill() -> None:
            while len(ahead) < self.settings.prefetch and (request := next(upcoming, None)) is not None:
                reader = self.reader(request.resolution)
                if self.store.remote:
                    self._expect(request)
                future = self._threads.submit(self._load, request, reader)
                ahead.append((request.resolution, future))

        fill()
        while ahead:
            start = perf_counter()
            resolution, future = ahead.popleft()
            loaded = future.result()
            self.wait_seconds += perf_counter() - start
            fill()
            wanted = {resolution, *(resolution for resolution, _ in ahead)}
            self._leave([left for left in self._readers if left not in wanted])
            labels = None if loaded.labels is None else loaded.labels.to(self.device, non_blocking=True)
            pixels = loaded.pixels.to(self.device, non_blocking=True)
            flips = None if loaded.flips is None else loaded.flips.to(self.device, non_blocking=True)
            images = pixels if pixels.is_floating_point() else to_images(pixels, flips)
            yield Batch(images, labels, loaded.replaced)

    def _expect(self, request: Request) -> None:
        """Tells the store whenever a request is the first of another window of shards, or of another level."""
        expected = (request.resolution, self.order.shards_from(request.position))
        if expected != self._expected:
            self._expected = expected
            level = self.manifest.levels[request.resolution]
            kinds = (level.indexes, level.files) if level.indexes else (level.files,)
            self.store.expect([records[shard] for shard in expected[1] for records in kinds])

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._leave(list(self._readers))


def make_loader(settings: DataSettings, store: Store, manifest: Manifest, seed: int, device: torch.device) -> Loader:
    """The loader that `settings` name. Raises ValueError as `check_loader`."""
    if settings.loader == "cpu":
        return Loader(settings, store, manifest, seed, device)
    from data_pipelines.images.dali_loader import DaliLoader

    return DaliLoader(settings, store, manifest, seed, device)


def check_loader(settings: DataSettings) -> None:
    """ValueError, in one line, when the package that the loader needs cannot be imported."""
    if settings.loader == "dali":
        from data_pipelines.images.dali_loader import import_dali

        import_dali()


def _pinned(tensor: Tensor | None) -> Any:
    """In memory from which a GPU can copy while others work, unless it is on one already."""
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
    """What `to_images` does, in few operations."""
    if flips is not None:
        pixels = torch.where(flips[:, None, None, None], pixels.flip(3), pixels)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def read_labels(store: Store, manifest: Manifest) -> NDArray[np.int64] | None:
    """The label of every sample, int64 [samples] in [0, classes); None when there are none.

    ValueError when the file is not what the manifest says, CircumstanceError when the machine cannot read it.
    """
    if manifest.labels is None:
        return None
    path = store.file(manifest.labels)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.labels.sha256:
            raise ValueError("its checksum differs")
        labels: NDArray[np.int64] = parse_array(content, np.int64, (manifest.samples,))
        if labels.min() < 0 or labels.max() >= len(manifest.classes):
            raise ValueError(f"it holds labels outside of 0..{len(manifest.classes) - 1}")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and (circumstance := unreadable(store, manifest.labels, error)):
            raise circumstance from None
        raise ValueError(f"{store.name(manifest.labels)} is damaged ({error}): prepare the data set again") from None
    return labels
