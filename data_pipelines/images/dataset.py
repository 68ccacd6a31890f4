"""A prepared set of images as a kind of data set: its files, its manifest and a loader behind the contract."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from data_pipelines.choices import name_in
from data_pipelines.dataset import SAME_CLASS, Batch, Dataset, DatasetSettings, Needs, Numbers, Request, Samples, Spec
from data_pipelines.images.annotations import read_contents, read_labels
from data_pipelines.images.loader import Loader, to_images, train_order
from data_pipelines.images.loaders import LOADERS, USUAL_LOADER
from data_pipelines.images.mirroring import mirroring_note
from data_pipelines.images.opening import open_store
from data_pipelines.images.reader import Reader
from data_pipelines.images.remote import RemoteSettings
from data_pipelines.images.transport import is_elsewhere
from data_pipelines.order import Order
from data_pipelines.settings import MAY_CHANGE, expand

_AHEAD = 2
"""Groups of samples that each thread reads ahead."""

_GREY = 128


class ImageSettings(DatasetSettings):
    """A data set made by `sivae data prepare`."""

    name: Literal["images"] = Field("images", exclude=True)  # the kind of a group without a name, so it is not recorded
    path: Annotated[str, MAY_CHANGE] = Field(min_length=1)
    """A data set made by `sivae data prepare`: its directory, a URL (`s3://`, `gs://`, `https://`), or a command that
    prints the file `{name}` (`pipe:ssh HOST cat SET/{name}`). A relative path starts from the working directory; `~`
    and `$VARIABLES` are replaced."""
    flip: bool = True
    """Mirror every image with probability 1/2."""
    loader: Annotated[str, name_in(LOADERS), MAY_CHANGE] = USUAL_LOADER
    """Decoder of the levels that are stored as tars. `cpu`: threads on the CPU. `dali`: NVIDIA DALI (`pip install
    nvidia-dali-cuda130`), on the GPU if the run uses one. Order, flips and damaged samples are the same with both."""
    threads: Annotated[int, MAY_CHANGE] = Field(2, ge=1)
    """Reading and decoding threads of each process."""
    prefetch: Annotated[int, MAY_CHANGE] = Field(4, ge=1)
    """Batches that are read ahead."""
    faults: Annotated[Literal["fatal", "quarantine"], MAY_CHANGE] = "fatal"
    """`fatal`: a damaged or missing sample ends the run. `quarantine`: another takes its place, which is reported and
    counted."""
    max_faults: Annotated[float, MAY_CHANGE] = Field(0.001, ge=0, le=1)
    """Largest share of the training samples that `quarantine` may replace per epoch; beyond it the run ends. One is
    always allowed."""
    remote: Annotated[RemoteSettings, MAY_CHANGE] = RemoteSettings()

    @field_validator("path")
    @classmethod
    def _expanded(cls, path: str) -> str:
        return path if is_elsewhere(path) else expand(path)

    @property
    def where(self) -> str:
        return self.path

    @property
    def folder(self) -> Path | None:
        return None if is_elsewhere(self.path) else Path(self.path)

    def located(self, absolute: Callable[[str], str]) -> Self:
        path = self.path if is_elsewhere(self.path) else absolute(self.path)
        cache = None if self.remote.cache is None else absolute(self.remote.cache)
        return self.model_copy(update={"path": path, "remote": self.remote.model_copy(update={"cache": cache})})

    def open(self, seed: int, device: torch.device) -> "ImageSet":
        """Raises as open_store and Store.manifest."""
        return ImageSet(self, seed, device)


class ImageSet(Dataset):
    """A prepared set. Its stages are the resolutions of its levels, its x are images [B, C, R, R] in [-1, 1]."""

    def __init__(self, settings: ImageSettings, seed: int, device: torch.device) -> None:
        self.settings = settings
        self._seed = seed
        self.device = device
        self.store = open_store(settings.path, settings.remote)
        try:
            self.manifest = manifest = self.store.manifest()
        except BaseException:
            self.store.close()
            raise
        self.where = settings.where
        self.spec = Spec(
            {r: (manifest.channels, r, r) for r in sorted(manifest.levels)},
            classes=manifest.classes,
            extra=(SAME_CLASS,) if manifest.classes else (),
        )
        self.train, self.test, self.digest = manifest.train, manifest.test, manifest.digest
        self.max_faults = settings.max_faults if settings.faults == "quarantine" else None

    @cached_property
    def order(self) -> Order:
        return train_order(self.manifest, self._seed, self.settings.flip)

    @cached_property
    def loader(self) -> Loader:
        """The loader of the training samples, opened on first use."""
        return LOADERS[self.settings.loader](self.settings, self.store, self.manifest, self._seed, self.device)

    @cached_property
    def _labels(self) -> NDArray[np.int64] | None:
        return self.loader.labels if "loader" in self.__dict__ else read_labels(self.store, self.manifest)

    def class_counts(self) -> NDArray[np.int64]:
        """ValueError when the labels are damaged; CircumstanceError as well."""
        classes = len(self.spec.classes)
        labels = np.zeros(0, np.int64) if self._labels is None else self._labels[: self.train]
        return np.bincount(labels, minlength=classes)

    @cached_property
    def _contents(self) -> list[str | None] | None:
        return read_contents(self.store, self.manifest, self._labels)

    def contents(self) -> list[str | None] | None:
        """From the names of samples: read_contents. ValueError when names or labels are damaged; CircumstanceError."""
        return self._contents

    def start(self) -> None:
        """Opens the loader. ValueError when it lacks a package or the labels are damaged; CircumstanceError as well."""
        self.loader  # noqa: B018

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """Raises SampleError and CircumstanceError."""
        for batch in self.loader.batches(requests):
            self.wait_seconds = self.loader.wait_seconds
            yield batch

    def samples(self, stage: int, numbers: Numbers) -> Samples:
        """Raises SampleError if a damaged image is fatal, and ValueError when there is no such level."""
        with closing(self._reader(stage)) as reader:
            return self._samples(reader, numbers)

    def read(self, stage: int, groups: Iterable[Numbers]) -> Iterator[Samples]:
        """Reads some groups ahead, in threads."""
        waiting: deque[Future[Samples]] = deque()
        with closing(self._reader(stage)) as reader, ThreadPoolExecutor(self.settings.threads, "samples") as pool:
            for numbers in groups:
                waiting.append(pool.submit(self._samples, reader, numbers))
                if len(waiting) > _AHEAD * self.settings.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _reader(self, stage: int) -> Reader:
        return Reader(self.store, self.manifest, stage)

    def _samples(self, reader: Reader, numbers: Numbers) -> Samples:
        pixels, faults = reader.read(numbers)
        if faults and self.settings.faults == "fatal":
            raise faults[min(faults)]
        pixels[list(faults)] = _GREY
        labels = None if self._labels is None else torch.from_numpy(self._labels[numbers]).to(self.device)
        damaged = {place: str(fault) for place, fault in sorted(faults.items())}
        return Samples(to_images(torch.from_numpy(pixels).to(self.device)), labels, damaged)

    def check(self, needs: Needs) -> None:
        LOADERS[self.settings.loader].check()
        channels = {shape[0] for shape in needs.shapes.values() if len(shape) == 3}
        if channels and channels != {self.manifest.channels}:
            raise ValueError(f"{self.where} has {self.manifest.channels} channels, but the model has {channels.pop()}")
        if missing := [stage for stage in needs.shapes if stage not in self.spec.shapes]:
            raise ValueError(
                f"{self.where} has no images of {missing[0]} px; prepare it with --resolution {max(needs.shapes)} or "
                f"set model.resolution={self.manifest.resolution}"
            )
        super().check(needs)

    def warnings(self, needs: Needs) -> list[str]:
        found = super().warnings(needs)
        if SAME_CLASS in needs.extra and self.store.remote:
            cache = self.settings.remote.cache_gb
            largest = max(self.manifest.levels[stage].total_bytes for stage in needs.shapes) / 1e9
            if largest > cache:
                found.append(
                    f"every batch needs images from all shards of {self.where}, up to {largest:.3g} GB, which a cache "
                    f"of {cache:g} GB does not hold: set data.remote.cache_gb to more, or copy the set to a disk"
                )
        return found

    def speed(self) -> dict[str, float]:
        """Images that this process has decoded from tar shards."""
        return {"data/decoded": self.loader.decoded}

    def notes(self) -> list[str]:
        return [mirroring_note(self.manifest, self.settings.flip, self.contents())]

    def stored_bytes(self, stages: Iterable[int]) -> int:
        return sum(self.manifest.levels[stage].total_bytes for stage in stages)

    def close(self) -> None:
        self.store.close()  # before the loader, whose threads may be waiting for a file
        if "loader" in self.__dict__:
            self.loader.close()
