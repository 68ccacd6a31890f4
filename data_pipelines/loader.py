"""Batches on the device, in the order of order.py: threads read and decode ahead, the device flips and scales.

Loading and decoding run outside the interpreter's lock (simplejpeg, OpenCV, pread), so threads do, and nothing is
copied between processes. What travels to the device is uint8.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from data_pipelines.manifest import Manifest
from data_pipelines.order import Order
from data_pipelines.reader import Reader
from data_pipelines.settings import Settings
from data_pipelines.store import Store


class DataSettings(Settings):
    path: str
    """A data set made by `sivae data prepare`: its directory."""
    flip: bool = True
    """Mirror every image with probability 1/2."""
    threads: int = Field(2, ge=1)
    """Reading and decoding threads of each process."""
    prefetch: int = Field(4, ge=1)
    """Batches that are read ahead."""


@dataclass(frozen=True)
class Request:
    """The positions [position, position + count) of the run, at one resolution."""

    position: int
    count: int
    resolution: int


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
        self.wait_seconds = 0.0
        """Time that the consumer has spent waiting here."""
        self._readers: dict[int, Reader] = {}
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="loader")

    @property
    def decoded(self) -> int:
        """Images decoded from tar shards so far."""
        return sum(reader.decoded for reader in self._readers.values())

    def reader(self, resolution: int) -> Reader:
        """The reader of one level of the pyramid, opened once."""
        if resolution not in self._readers:
            self._readers[resolution] = Reader(self.store, self.manifest, resolution)
        return self._readers[resolution]

    def _load(self, request: Request, reader: Reader) -> tuple[Tensor, Tensor]:
        samples, flips = self.order.at(request.position, request.count)
        pixels = torch.from_numpy(reader.pixels(samples))
        flipped = torch.from_numpy(np.ascontiguousarray(flips))
        if self.device.type == "cuda":
            pixels, flipped = pixels.pin_memory(), flipped.pin_memory()
        return pixels, flipped

    def batches(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """Images [count, C, R, R] in [-1, 1], fp32, on the device, flipped: one batch a request.

        SampleError, naming shard and key, for an image that cannot be read.
        """
        upcoming = iter(requests)
        ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()

        def fill() -> None:
            while len(ahead) < self.settings.prefetch and (request := next(upcoming, None)) is not None:
                ahead.append(self._threads.submit(self._load, request, self.reader(request.resolution)))

        fill()
        while ahead:
            start = perf_counter()
            pixels, flips = ahead.popleft().result()
            self.wait_seconds += perf_counter() - start
            fill()
            pixels = pixels.to(self.device, non_blocking=True)
            flips = flips.to(self.device, non_blocking=True)
            yield to_images(pixels, flips)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for reader in self._readers.values():
            reader.close()


def to_images(pixels: Tensor, flips: Tensor | None = None) -> Tensor:
    """uint8 [B, C, H, W] -> fp32 in [-1, 1], those with `flips` [B] mirrored."""
    x = pixels.float() / 127.5 - 1
    return x if flips is None else torch.where(flips[:, None, None, None], x.flip(3), x)
