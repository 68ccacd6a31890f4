"""Measures a model on all processes at once, for training and for `sivae evaluate`."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from data_pipelines.dataset import Dataset
from data_pipelines.images.ranges import to_uint8, to_unit
from sivae_dist.evaluation.extractors import Extractor, make_extractor
from sivae_dist.evaluation.metrics import (
    METRICS,
    Batch,
    Features,
    Found,
    Metric,
    Need,
    RealImages,
    Reconstructions,
    Samples,
    Total,
    Trained,
)
from sivae_dist.evaluation.reference import References
from sivae_dist.evaluation.rows import Row
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.evaluation.statistics import Collected, FeatureSet
from sivae_dist.evaluation.streams import Streams
from sivae_dist.evaluation.totals import Totals
from sivae_dist.process.devices import device_model
from sivae_dist.process.numerics import Precision, ieee
from sivae_dist.process.processes import everyone, on_first, rank, world_size
from sivae_dist.use.pretrained import Pretrained

Sums = dict[Metric, Total]


class Evaluator:
    """Made and called by all processes together. Knows no metric by name: each declares its needs (metrics/base.py)."""

    def __init__(
        self,
        settings: EvaluationSettings,
        data: Dataset,
        device: torch.device,
        say: Callable[[str], None] = lambda line: None,
        tick: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        """`say` gets warnings. `tick` is called after every batch, on all processes equally often, with what was done
        to how many images out of how many; it may raise on all of them. ValueError when the metrics are not for such
        data."""
        self.settings = settings
        self._data = data
        self._device = device
        self._tick = tick
        self._metrics = {name: METRICS[name]() for name in settings.chosen(data)}
        self._streams = Streams(settings, data)
        self._references = References(settings.folder, say)
        self._real_sums: tuple[int, Sums] | None = None  # at the level that was asked for last
        self._extractor: Extractor | None = None
        self._lacking: set[str] = set()

    def prepare(self) -> str | None:
        """Gets the extractor, if one is needed, and what the metrics need; returns what is missing, in one line, the
        same on all processes.

        ValueError when there are no real images to compare with.
        """
        features = self.settings.needs(Features, self._data)
        if features or self.settings.needs(RealImages, self._data):
            self._streams.check_reference()
        problems = []
        if features and self._extractor is None:
            problems.append(_missing(self._make_extractor))
        for name, metric in self._metrics.items():
            if type(metric).prepare is not Metric.prepare:
                problems.append(_missing(partial(metric.prepare, self._device)))
                self._lacking |= {name} if problems[-1] else set()
        return "; ".join(problem for problem in problems if problem) or None

    def _make_extractor(self) -> None:
        self._extractor = make_extractor(self.settings, self._device)

    def evaluate(self, model: Pretrained) -> list[Row]:
        """All values that can be measured, those of reconstructions last, the same on all processes; in IEEE fp32 (fp64
        for a model in fp64), whatever training computes in.

        Metrics for which `prepare` found something missing are left out. Raises StoppedError when asked to
        stop, and SampleError for a damaged image where that is fatal.
        """
        common = {
            "weights": "live" if model.live else "ema",
            "data": self._data.digest,
            **self._stage(model),
            "precision": evaluated_in(model),
            "device": device_model(self._device),
        }
        metrics = self._measurable(model.stage.resolution)
        with torch.no_grad(), ieee():
            found = self._found(model, list(metrics.values()))
            rows = on_first(lambda: [self._row(model, name, metric, found[metric]) for name, metric in metrics.items()])
        return [{"images": model.images, "metric": row["metric"], "value": row["value"]} | common | row for row in rows]

    def _stage(self, model: Pretrained) -> dict[str, Any]:
        """The images that a model of images is measured on; other samples have one size."""
        if self._data.spec.channels is None:
            return {}
        blend = model.stage.blend
        return {
            "level": model.stage.resolution,
            "blend": None if blend is None else float(blend),
            "filter": "2x2 means",
        }

    def _measurable(self, resolution: int) -> dict[str, Metric]:
        """Metrics whose needs can be met, those of reconstructions last."""
        missing: set[Need] = set()
        if self._extractor is None:
            missing.add(Features)
        if not self._streams.held_out:
            missing.add(Reconstructions)
        possible = {
            name: metric
            for name, metric in self._metrics.items()
            if name not in self._lacking
            and resolution >= metric.least_resolution
            and not missing.intersection(metric.needs)
        }
        return dict(sorted(possible.items(), key=lambda item: Reconstructions in item[1].needs))

    def _found(self, model: Pretrained, metrics: list[Metric]) -> dict[Metric, Found]:
        """Collects all that the metrics need, in one pass through the images of each need."""

        def needing(need: Need) -> list[Metric]:
            return [metric for metric in metrics if need in metric.needs]

        level, settings, streams = model.stage.resolution, self.settings, self._streams
        extractor = self._extractor if needing(Features) else None
        real = None if extractor is None else self._real_features(level, extractor)
        sums: dict[type[Batch], Sums] = {}
        if some := needing(RealImages):
            sums[RealImages] = self._sums_of_real(level, some)
        generated = None
        if (some := needing(Samples)) or extractor is not None:
            samples = (Samples(images.to(self._device)) for images in streams.samples(model))
            sums[Samples], generated = self._through("samples", samples, settings.samples, some, extractor)
        if some := needing(Reconstructions):
            pairs = self._reconstructions(model)
            sums[Reconstructions], _ = self._through("reconstructions", pairs, len(streams.held_out), some)
        both = None if real is None or generated is None else Features(real, generated)
        itself = Trained(model, self._data, settings.seed) if needing(Trained) else None
        return {m: Found({need: of[m] for need, of in sums.items() if m in of}, both, itself) for m in metrics}

    def _through(
        self, what: str, batches: Iterable[Batch], total: int, metrics: list[Metric], extractor: Extractor | None = None
    ) -> tuple[Sums, FeatureSet | None]:
        """Gives every batch to the metrics and, of samples and real images, to the extractor."""
        totals = Totals(metrics, self._device)
        collected = None if extractor is None else Collected(extractor.dimensions, self._device, keep=self._keeps)
        for number, batch in enumerate(batches, start=1):
            if len(batch):
                totals.add(batch)
                if extractor is not None and collected is not None and not isinstance(batch, Reconstructions):
                    collected.add(extractor.features(batch.images))
            self._tick(what, min(number * self.settings.batch * world_size(), total), total)
        features = None if collected is None else collected.feature_set()
        return dict(zip(metrics, totals.reduced(), strict=True)), features

    @property
    def _keeps(self) -> bool:
        return any(metric.keeps_features for metric in self._metrics.values())

    def _real_features(self, level: int, extractor: Extractor) -> FeatureSet | None:
        """Features of the real images, computed once for all runs; processes other than the first may get None."""
        numbers = self._streams.reference
        key = {
            "data": self._data.digest,
            "level": level,
            "first": numbers.start,
            "stop": numbers.stop,
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "layer": extractor.layer,
        }

        def make() -> FeatureSet:
            _, made = self._through("real images", self._real(level), len(numbers), [], extractor)
            assert made is not None
            return made

        return self._references.get(key, make, features=self._keeps)

    def _sums_of_real(self, level: int, metrics: list[Metric]) -> Sums:
        if self._real_sums is None or self._real_sums[0] != level:
            sums, _ = self._through("real images", self._real(level), len(self._streams.reference), metrics)
            self._real_sums = (level, sums)
        return self._real_sums[1]

    def _real(self, level: int) -> Iterator[RealImages]:
        for real in self._streams.real(level, self._streams.reference):
            yield RealImages(to_uint8(real.x))

    def _reconstructions(self, model: Pretrained) -> Iterator[Reconstructions]:
        for real in self._streams.real(model.stage.resolution, self._streams.held_out):
            if not len(real.x):
                yield Reconstructions(torch.empty(0), torch.empty(0))
                continue
            labels = real.y if model.class_names else None
            yield Reconstructions(to_unit(real.x), to_unit(model.reconstruct(real.x, labels=labels)))

    def _row(self, model: Pretrained, name: str, metric: Metric, found: Found) -> Row:
        """A value with everything that it depends on; on the first process."""
        label = None if self._extractor is None else self._extractor.label
        row: Row = {"metric": metric.reported(name, label), "value": metric.value(found)} | metric.details(found)
        for need in metric.needs:
            row |= self._origin(need, found)
        if model.class_names and {Features, Samples}.intersection(metric.needs):
            row["labels"] = "training frequencies"
        return row | {library.replace("-", "_"): version(library) for library in metric.libraries}

    def _origin(self, need: Need, found: Found) -> dict[str, Any]:
        """The record about the images of a need."""
        settings = self.settings
        if need is Trained:
            return {"seed": settings.seed}
        if need is Features:
            assert self._extractor is not None
            return {
                "extractor": self._extractor.name,
                "extractor_sha256": self._extractor.sha256,
                "layer": self._extractor.layer,
                "samples": found.features.generated.statistics.count,
                "seed": settings.seed,
                "reference": settings.reference,
                "reference_samples": found.features.real.statistics.count,
            }
        count = found.totals[need].count  # type: ignore[index]
        if need is Samples:
            return {"samples": count, "seed": settings.seed}
        if need is RealImages:
            return {"reference": settings.reference, "reference_samples": count}
        return {"split": "test", "count": count}


def _missing(prepare: Callable[[], None]) -> str | None:
    """What `prepare` lacks on any process, in one line, the same on all; they call it together."""

    def lacking() -> str | None:
        try:
            prepare()
        except ValueError as error:
            return str(error)
        return None

    if problem := on_first(lacking):  # the others need not look in vain
        return problem
    problems = everyone(lambda: None if rank() == 0 else lacking())
    return next((problem for problem in problems if problem), None)


def evaluated_in(model: Pretrained) -> Precision:
    """The precision in which a model is evaluated, whatever it was trained in."""
    return "fp64" if model.dtype == torch.float64 else "fp32"
