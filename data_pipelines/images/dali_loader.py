"""The loader with NVIDIA DALI in the place of the decoder: order, reading, checks and substitutes are loader.py's."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from data_pipelines.dataset import Replaced, SampleError
from data_pipelines.images.decode import decode, encode
from data_pipelines.images.headers import is_plain
from data_pipelines.images.loader import Loader, LoaderSettings, Wanted
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Store

_INSTALL = "pip install nvidia-dali-cuda130"


class DaliError(RuntimeError):
    """DALI could not decode a batch; it does not say because of which image, if of any."""


def import_dali() -> Any:
    """The package. ValueError in one line when it cannot be imported."""
    try:
        return import_module("nvidia.dali")
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"data.loader=dali needs NVIDIA DALI ({reason}): {_INSTALL}") from None


class DaliLoader(Loader):
    """Levels that are arrays are read as in Loader. Of tars, the threads read the stored bytes."""

    title: ClassVar[str] = "DALI"
    decoders: ClassVar[Mapping[str, str]] = {"png": "DALI", "jpeg": "DALI"}
    install: ClassVar[str] = _INSTALL

    def __init__(
        self, settings: LoaderSettings, store: Store, manifest: Manifest, seed: int, device: torch.device
    ) -> None:
        """Raises ValueError when DALI is missing."""
        super().__init__(settings, store, manifest, seed, device)
        self.decoder = DaliDecoder(manifest.channels, settings.threads, device)

    @classmethod
    def check(cls) -> None:
        import_dali()

    @property
    def decoded(self) -> int:
        return super().decoded + self.decoder.decoded

    def _read(self, wanted: Wanted, reader: Reader) -> tuple[Tensor, Tensor | None, tuple[Replaced, ...]]:
        if reader.kind == "array":
            return super()._read(wanted, reader)
        try:
            return self._decode(wanted.samples, wanted.flips, reader), None, ()
        except (SampleError, DaliError):
            # The CPU's decoder finds all that are damaged, and what takes their places.
            *_, replaced = super()._read(wanted, reader)
            if not replaced:
                raise
        return self._decode(wanted.samples, wanted.flips, reader), None, replaced

    def _decode(self, samples: NDArray[np.int64], flips: NDArray[np.bool_], reader: Reader) -> Tensor:
        """uint8 [n, C, R, R] on the device, mirrored. SampleError or DaliError when not all can be decoded."""
        channels, side = self.manifest.channels, reader.resolution
        stored = [b""] * len(samples)

        def keep(place: int, data: bytes) -> None:
            if not is_plain(data, side, channels):  # DALI's parser may end the process over an odd one
                pixels = np.empty((side, side, channels), np.uint8)
                decode(data, pixels)
                data = encode(pixels, "png", 0)
            stored[place] = data

        for fault in reader.each_stored(samples, keep).values():
            raise fault
        return self.decoder.decode(stored, flips, side)

    def close(self) -> None:
        super().close()
        self.decoder.close()


class DaliDecoder:
    """Batches of stored images to pixels, one batch at a time. Any number of threads may use a decoder at once.

    Raises ValueError when DALI is missing.
    """

    def __init__(self, channels: int, threads: int, device: torch.device) -> None:
        self.decoded = 0
        """Images decoded so far."""
        self._dali = import_dali()
        self._channels = channels
        self._threads = threads
        self._device = device
        self._pipeline: Any = None
        self._made_for = (0, 0)  # resolution, and images of a batch at most
        self._lock = threading.Lock()
        self._closed = False

    def decode(self, stored: Sequence[bytes], flips: NDArray[np.bool_], resolution: int) -> Tensor:
        """uint8 [n, C, R, R] on the device, from the bytes of n plain images (headers.is_plain) of that resolution;
        those with `flips` [n] are mirrored.

        A GPU's tensor belongs to the stream that is current there. Raises DaliError when any cannot be decoded.
        """
        # The current device is a thread's own, and DALI waits on that one's streams.
        here = torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()
        with self._lock, here:
            if self._closed:
                raise ValueError("the decoder is closed")
            made_for, room = self._made_for
            if self._pipeline is None or resolution != made_for or len(stored) > room:
                self._pipeline = None  # two at a time would take twice the memory
                self._pipeline = self._build(len(stored))
                self._made_for = (resolution, len(stored))
            try:
                pixels = self._run(stored, flips)
            except RuntimeError as error:
                self._pipeline = None  # a pipeline is of no use any more after an error
                raise DaliError(f"DALI could not decode a batch of {len(stored)} images ({_reason(error)})") from None
            self.decoded += len(stored)
        assert pixels.shape == (len(stored), resolution, resolution, self._channels)
        return pixels.permute(0, 3, 1, 2)

    def _build(self, room: int) -> Any:
        """A pipeline from the bytes and flips of at most `room` images to [n, H, W, C]."""
        fn, types = self._dali.fn, self._dali.types
        on_gpu = self._device.type == "cuda"
        pipeline = self._dali.Pipeline(
            batch_size=room,
            num_threads=self._threads,
            device_id=torch.cuda.current_stream(self._device).device_index if on_gpu else None,
            prefetch_queue_depth=1,  # the caller waits for its batch; the loader reads ahead
        )
        with pipeline:
            stored = fn.external_source(name="stored", dtype=types.UINT8, ndim=1)
            flips = fn.external_source(name="flips", dtype=types.INT32, ndim=0)
            images = fn.decoders.image(
                stored,
                device="mixed" if on_gpu else "cpu",
                output_type=types.GRAY if self._channels == 1 else types.RGB,
            )
            pipeline.set_outputs(fn.flip(images, horizontal=flips))
        pipeline.build()
        return pipeline

    def _run(self, stored: Sequence[bytes], flips: NDArray[np.bool_]) -> Tensor:
        self._pipeline.feed_input("stored", [np.frombuffer(data, np.uint8) for data in stored])
        self._pipeline.feed_input("flips", flips.astype(np.int32))
        self._pipeline.schedule_run()
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        (images,) = self._pipeline.outputs(cuda_stream=stream)
        pixels: Tensor = from_dlpack(images.as_tensor())
        return pixels

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._pipeline = None


def _reason(error: RuntimeError) -> str:
    """DALI's own words, without the traceback of the pipeline's definition around them."""
    text = str(error).rpartition("encountered:")[2].partition("Current pipeline object")[0]
    return " ".join(text.split()).rstrip(" :")
