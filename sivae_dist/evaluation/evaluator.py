"""Measures a model on all processes at once. Whoever trains, and `sivae evaluate`, come here."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from data_pipelines.images.loader import DataSettings, to_images
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Store
from sivae_dist.evaluation import reconstruction, reference
from sivae_dist.evaluation.extractors import Extractor, ExtractorError, make_extractor
from sivae_dist.evaluation.reference import Reference
from sivae_dist.evaluation.rows import Row
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.evaluation.statistics import Collected, frechet_distance, kernel_distance, share
from sivae_dist.process.devices import device_model
from sivae_dist.process.numerics import Precision, ieee
from sivae_dist.process.processes import everyone, on_first, rank, world_size
from sivae_dist.use.pretrained import Pretrained

A = TypeVar("A")
B = TypeVar("B")

_AHEAD = 2
"""Batches that each thread reads ahead."""


class Evaluator:
    """Made and called by all processes together."""

    def __init__(
        self,
        settings: EvaluationSettings,
        data: DataSettings,
        store: Store,
        manifest: Manifest,
        device: torch.device,
        say: Callable[[str], None] = lambda line: None,
        tick: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        """`say` gets warnings. `tick` is called after every batch, on all processes equally often, with what was done
        to how many images out of how many; it may raise on all of them."""
        self.settings = settings
        self._data = data
        self._store = store
        self._manifest = manifest
        self._device = device
        self._say = say
        self._tick = tick
        self._extractor: Extractor | None = None
        self._known: tuple[int, Reference | None] | None = None  # the level's that was asked for last

    def prepare(self) -> str | None:
        """Gets the extractor, if one is needed; returns what is missing, in one line, the same on all processes.

        ValueError when there are no real images to compare with.
        """
        if not self.settings.of_samples or self._extractor is not None:
            return None
        self._numbers()
        if problem := on_first(self._make_extractor):  # the others need not look in vain
            return problem
        problems = everyone(lambda: None if rank() == 0 else self._make_extractor())
        return next((problem for problem in problems if problem), None)

    def _make_extractor(self) -> str | None:
        try:
            self._extractor = make_extractor(self.settings, self._device)
        except ExtractorError as error:
            return str(error)
        return None

    def evaluate(self, model: Pretrained) -> list[Row]:
        """All values that can be had, the same on all processes; in IEEE fp32 (fp64 for a model in fp64), whatever
        training computes in.

        `fid` and `kid` are left out when `prepare` found something missing. Raises StoppedError when
        told not to go on, and SampleError for a damaged image where that is fatal.
        """
        common = {
            "weights": "live" if model.live else "ema",
            "data": self._manifest.digest,
            "level": model.stage.resolution,
            "blend": None if model.stage.blend is None else float(model.stage.blend),
            "filter": "2x2 means",
            "precision": evaluated_in(model),
            "device": device_model(self._device),
        }
        with ieee():
            rows = self._of_samples(model, self._extractor) if self._extractor is not None else []
            rows += self._of_reconstructions(model)
        return [{"images": model.images, "metric": row["metric"], "value": row["value"]} | common | row for row in rows]

    def _of_samples(self, model: Pretrained, extractor: Extractor) -> list[Row]:
        real = self._real(model.stage.resolution, extractor)
        fake = self._collect("samples", self._samples(model), self.settings.samples, extractor)
        return on_first(lambda: self._distances(real, fake, extractor))

    def _distances(self, real: Reference | None, fake: Reference, extractor: Extractor) -> list[Row]:
        assert real is not None  # on the first process
        common = {
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "layer": extractor.layer,
            "samples": fake.statistics.count,
            "seed": self.settings.seed,
            "reference": self.settings.reference,
            "reference_samples": real.statistics.count,
            "torch_fidelity": version("torch-fidelity"),
        }
        rows: list[Row] = []
        for metric in self.settings.metrics:
            row: Row = {"metric": metric_name(metric, extractor)}
            if metric == "fid":
                row["value"] = frechet_distance(real.statistics, fake.statistics)
            elif metric == "kid":
                assert real.features is not None and fake.features is not None
                row["value"], subsets = kernel_distance(fake.features, real.features)
                row |= subsets
            else:
                continue
            rows.append(row | common)
        return rows

    def _real(self, level: int, extractor: Extractor) -> Reference | None:
        """Of the real images; other processes than the first have None where it was known already."""
        if self._known is not None and self._known[0] == level:
            return self._known[1]
        first, stop = self._numbers()
        keep = "kid" in self.settings.metrics
        key = {
            "data": self._manifest.digest,
            "level": level,
            "first": first,
            "stop": stop,
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "layer": extractor.layer,
        }
        found: list[Reference | None] = [None]

        def look() -> bool:
            found[0] = reference.load(self.settings.folder, key, features=keep)
            return found[0] is not None

        if not on_first(look):
            made = self._collect("real images", self._pixels(level, first, stop), stop - first, extractor)
            self._keep(key, made)
            found[0] = made
        self._known = (level, found[0])
        return found[0]

    def _keep(self, key: dict[str, Any], made: Reference) -> None:
        if rank() > 0:
            return
        try:
            reference.save(self.settings.folder, key, made)
        except (OSError, SafetensorError) as error:
            self._say(f"warning: statistics of the real images cannot be kept in {self.settings.folder}: {error}")

    def _numbers(self) -> tuple[int, int]:
        """Samples of the reference: from one to before another."""
        train, all_of_them = self._manifest.train, self._manifest.samples
        first, stop = {"train": (0, train), "test": (train, all_of_them), "all": (0, all_of_them)}[
            self.settings.reference
        ]
        if self.settings.reference_samples is not None:
            stop = min(stop, first + self.settings.reference_samples)
        if stop - first < 2:
            raise ValueError(
                f"evaluation.reference={self.settings.reference}: the data set has {stop - first} images there"
            )
        return first, stop

    def _collect(self, what: str, batches: Iterable[Tensor], total: int, extractor: Extractor) -> Reference:
        collected = Collected(extractor.dimensions, self._device, keep="kid" in self.settings.metrics)
        for number, images in enumerate(batches, start=1):
            if len(images):
                collected.add(extractor.features(images.to(self._device)))
            self._told(what, number, total)
        return Reference(collected.statistics(), collected.features() if collected.keep else None)

    def _samples(self, model: Pretrained) -> Iterator[Tensor]:
        """This process's samples as uint8 [B, C, R, R]: no layer noise, no truncation."""
        for numbers in share(0, self.settings.samples, self.settings.batch):
            if not len(numbers):
                yield torch.empty(0)
                continue
            z = model.latents(int(numbers[0]), int(numbers[-1] - numbers[0]) + 1, self.settings.seed)
            yield to_uint8(model.decode(z[:: world_size()]))

    def _pixels(self, level: int, first: int, stop: int) -> Iterator[Tensor]:
        """This process's real images as uint8 [B, C, R, R], those that are damaged left out where that is wanted."""
        reader = Reader(self._store, self._manifest, level)

        def read(numbers: NDArray[np.int64]) -> Tensor:
            pixels, faults = reader.read(numbers)
            if faults and self._data.faults == "fatal":
                raise faults[min(faults)]
            return torch.from_numpy(np.delete(pixels, list(faults), 0) if faults else pixels)

        try:
            yield from _ahead(read, share(first, stop, self.settings.batch), self._data.threads)
        finally:
            reader.close()

    def _of_reconstructions(self, model: Pretrained) -> list[Row]:
        measured = reconstruction.metrics_at(model.stage.resolution)
        wanted = [metric for metric in self.settings.metrics if metric in measured]
        first = self._manifest.train
        stop = first + min(self._manifest.test, self.settings.test_samples or self._manifest.test)
        if not wanted or stop == first:
            return []
        totals = torch.zeros(1 + len(wanted), dtype=torch.float64, device=self._device)
        for number, pixels in enumerate(self._pixels(model.stage.resolution, first, stop), start=1):
            if len(pixels):
                real = to_images(pixels.to(self._device))
                errors = reconstruction.errors(real, model.reconstruct(real))
                totals += torch.stack([totals.new_tensor(len(pixels)), *(errors[metric].sum() for metric in wanted)])
            self._told("reconstructions", number, stop - first)
        if world_size() > 1:
            dist.all_reduce(totals)
        count, *sums = totals.tolist()
        return [
            {"metric": metric, "value": total / count, "split": "test", "count": int(count)}
            for metric, total in zip(wanted, sums, strict=True)
        ]

    def _told(self, what: str, batches: int, total: int) -> None:
        self._tick(what, min(batches * self.settings.batch * world_size(), total), total)


def evaluated_in(model: Pretrained) -> Precision:
    """The precision in which a model is evaluated, whatever it was trained in."""
    return "fp64" if model.dtype == torch.float64 else "fp32"


def metric_name(metric: str, extractor: Extractor) -> str:
    """FID and KID are names of distances in the features of 2015's Inception network alone."""
    if extractor.genuine:
        return metric
    return f"{'frechet' if metric == 'fid' else 'kernel'}_distance[{extractor.name}]"


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded and cut: as the image would be stored."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _ahead(function: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """Results in order, some of them computed ahead."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="evaluation") as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
