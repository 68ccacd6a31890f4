"""The contract of a metric: one number that says how good a model is.

To add one, write a class and put it into the list, in a file of its own here or in a module of yours:

    @METRICS.add("sharpness")
    class Sharpness(MeanMetric[Samples]):
        needs = (Samples,)

        def each(self, batch: Samples) -> Tensor:
            return batch.images.double().diff(dim=3).abs().mean((1, 2, 3))

Then `evaluation.metrics=sharpness` measures it, in training and by `sivae evaluate`, on any number of processes.
Nothing else knows it: the evaluator makes batches of everything that the chosen metrics need (`needs`) and gives them
to `add`, on every process those of its own share; sums over all of them are given to `value`, on the first process.
A mean over images needs `each` alone. A metric of data that are no images needs the model itself (`Trained`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from sivae_dist.evaluation.statistics import FeatureSet
from sivae_dist.use.pretrained import Pretrained

T = TypeVar("T")


@dataclass(frozen=True)
class Samples:
    """Some of the `evaluation.samples` samples of the prior: no layer noise, no truncation."""

    images: Tensor
    """uint8 [B, C, R, R], rounded as a file would hold them."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class RealImages:
    """Some of the images that samples are compared with (`evaluation.reference`), as they are stored."""

    images: Tensor
    """uint8 [B, C, R, R]"""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Reconstructions:
    """Some images of the test split (`evaluation.test_samples`) through the encoder's mean and the decoder."""

    real: Tensor
    """fp32 [B, C, R, R] in [0, 1]"""
    reconstructed: Tensor
    """The same, clamped to [0, 1]."""

    def __len__(self) -> int:
        return len(self.real)


@dataclass(frozen=True)
class Features:
    """Features of all real images and of all samples, by `evaluation.extractor`; on the first process."""

    real: FeatureSet
    generated: FeatureSet


@dataclass(frozen=True)
class Trained:
    """The model itself and its data set, for a metric that makes samples of its own; on the first process."""

    model: Pretrained
    data: Dataset
    seed: int
    """`evaluation.seed`, on which all that the metric draws depends."""
    made: dict[str, Any] = field(default_factory=dict, compare=False)
    """What `once` keeps, for as long as the evaluation takes."""

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made for the first of all values and details of this evaluation that ask for it."""
        if name not in self.made:
            self.made[name] = make()
        found: T = self.made[name]
        return found


Batch = Samples | RealImages | Reconstructions
Need = type[Batch] | type[Features] | type[Trained]


@dataclass(frozen=True)
class Total:
    """Sums over everything of one need, of all processes."""

    count: int
    """Images."""
    sums: Tensor
    """fp64 [sums] on the CPU: of what `add` returned."""


@dataclass(frozen=True)
class Found:
    """What a value is made of: the total of each need of the metric; features or the model where one needs them."""

    totals: Mapping[type[Batch], Total]
    both: Features | None = None
    itself: Trained | None = None

    def total(self, need: type[Batch]) -> Total:
        """What is found for a need of the metric."""
        return self.totals[need]

    @property
    def features(self) -> Features:
        """For a metric that needs them."""
        assert self.both is not None
        return self.both

    @property
    def trained(self) -> Trained:
        """For a metric that needs it."""
        assert self.itself is not None
        return self.itself


class Metric(ABC):
    """A number that says how good a model is, made without arguments once per process. What it has
    found of batches is in its sums, not in itself.

    Its name is that under which it is in METRICS, for `evaluation.metrics`; `reported` is its name beside its value.
    """

    needs: ClassVar[tuple[Need, ...]]
    """Of Samples, RealImages, Reconstructions, Features and Trained. How many images that are is the user's choice, the
    same for all metrics. A metric is left out where a need cannot be met: without a test split, or without the
    extractor."""
    sums: ClassVar[int] = 0
    """How many numbers `add` returns."""
    least_resolution: ClassVar[int] = 1
    """Pixels a side; at smaller ones it is left out."""
    keeps_features: ClassVar[bool] = False
    """Whether it needs the features themselves; otherwise FeatureSet.features may be None."""
    distance: ClassVar[str | None] = None
    """What it is called in other features than those that its name is known for; None: by its name. `fid` and `kid` are
    names of distances in features of the Inception network of 2015 alone."""
    groups: ClassVar[tuple[str, ...]] = ()
    """Named groups of z that it is about; a model without them is refused."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version the value depends on; it is recorded."""

    def __init_subclass__(cls) -> None:
        """TypeError for a metric that cannot be computed: before an hour of samples has been drawn for it."""
        super().__init_subclass__()
        if cls.add is Metric.add and any(need not in (Features, Trained) for need in getattr(cls, "needs", ())):
            raise TypeError(f"{cls.__name__} needs batches of images and has no `add`")

    def prepare(self, device: torch.device) -> None:  # noqa: B027 (most need nothing)
        """Gets what it needs beside batches, such as a network, onto the device; called once before the first batch.

        ValueError, in one line, when that cannot be had: the metric is then left out.
        """

    def add(self, batch: Batch) -> Tensor:
        """A batch of one of the needs, on the device -> fp64 [sums], which is summed over batches and processes.

        Computed in IEEE fp32 or fp64, without gradients. Batches of Features or Trained do not come; none is empty.
        """
        raise NotImplementedError  # not reached: __init_subclass__ refuses a metric of batches that has no own

    @abstractmethod
    def value(self, found: Found) -> float:
        """The value, of all images; called on the first process."""

    def details(self, found: Found) -> dict[str, Any]:
        """Further columns of the value's row in evaluation.jsonl: what it depends on beside its needs."""
        return {}

    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        """What a data set would have to be made of for this metric, such as `images`; None when it can be measured."""
        return "images" if data.spec.channels is None and any(need is not Trained for need in cls.needs) else None

    @classmethod
    def reported(cls, name: str, features: str | None) -> str:
        """The name beside a value of the metric `name`. `features`: of the extractor, None for the genuine ones."""
        return name if features is None or Features not in cls.needs else f"{cls.distance or name}[{features}]"


B = TypeVar("B", Samples, RealImages, Reconstructions)


class MeanMetric(Metric, Generic[B]):
    """The mean over images of one need of a value that each has."""

    sums = 1

    @abstractmethod
    def each(self, batch: B) -> Tensor:
        """The value of each image, [B]."""

    def add(self, batch: Batch) -> Tensor:
        return self.each(cast(B, batch)).double().sum()[None]

    def value(self, found: Found) -> float:
        (need,) = self.needs
        total = found.total(cast(type[Batch], need))
        return total.sums.item() / total.count
