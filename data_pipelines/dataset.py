"""The contract of a data set: what training, previews and evaluation require of every kind.

A kind is a settings class and a `Dataset`. The settings class is added to `data_pipelines.kinds.DATASETS` by a
decorator, and is then chosen in a configuration by `data: {name: KIND, ...}`:

    @DATASETS.add("discs")
    class DiscSettings(DatasetSettings):
        name: Literal["discs"] = "discs"

        def open(self, seed: int, device: torch.device) -> "Discs":
            return Discs(self, seed, device)

`Discs` derives from `Dataset`, sets its attributes and implements `order`, `batches` and `samples`; the rest has
defaults. Two things have to hold, and everything that is promised of a run follows from them:

- The sample that stands at a position of the run, and all that is drawn for it (whether it is mirrored, say), is a pure
  function of the seed and that position: `order`, and `data_pipelines.streams.stream(seed, PURPOSE, position)` for
  whatever else is random. Nothing may depend on the process, on a worker, on where one batch ends, or on what was read
  before. Then a run may be killed and resumed anywhere, and any number of processes train on the same samples.
- The digest changes whenever any sample does. A run is resumed only with the data set that it was started with.

A data set that has no end, such as points that are drawn, says with `train` how many samples count as an epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from data_pipelines.settings import Settings

if TYPE_CHECKING:  # it takes seconds, and settings are also read by commands that need none of it
    import torch
    from torch import Tensor

Numbers = Sequence[int] | NDArray[np.int64]
"""Numbers of samples."""

SAME_CLASS = "same_class"
"""The further input that is, for each position, another training sample of the class of the one that stands there."""


class SampleError(ValueError):
    """A sample is damaged or missing; the message, in one line, says where it is stored and which it is."""


@dataclass(frozen=True)
class Request:
    """The positions [position, position + count) of the run, at one stage."""

    position: int
    count: int
    stage: int
    """Which of the shapes of `Spec`; of images their resolution, else ONLY_STAGE."""
    extra: tuple[str, ...] = ()
    """Names of the further inputs that are asked for, of those of `Spec.extra`."""


@dataclass(frozen=True)
class Replaced:
    """A damaged or missing sample that another one replaces."""

    position: int
    sample: int
    reason: str
    """One line that says where it is stored and which it is."""
    extra: str | None = None
    """Name of the further input in whose place it would have stood; None for x."""


_SHOWN = 5
"""Classes that a warning names."""

_NONE: Mapping[Any, Any] = MappingProxyType({})


class Batch(NamedTuple):
    """The samples at the positions of a request, on the device."""

    x: "Tensor"
    """fp32 [B, *shape], within the bounds of `Spec`."""
    y: "Tensor | None"
    """Labels, int64 [B] in [0, classes); None when the data set has none."""
    position: int
    """Position of the first sample."""
    replaced: tuple[Replaced, ...] = ()
    extra: "Mapping[str, Tensor]" = _NONE
    """The further inputs that were asked for, and no others, by name: each as x, fp32 [B, *shape] within the same
    bounds."""


class Samples(NamedTuple):
    """Some samples as they are stored, on the device: nothing is mirrored or replaced."""

    x: "Tensor"
    """fp32 [n, *shape], within the bounds of `Spec`."""
    y: "Tensor | None"
    """int64 [n]; None when the data set has no labels."""
    damaged: Mapping[int, str] = _NONE
    """By place in 0..n-1 what is wrong with those that cannot be read, in whose place stands the middle of the
    range."""

    @property
    def sound(self) -> "Tensor":
        """x without those that are damaged."""
        return self.without_damaged().x

    def without_damaged(self) -> Self:
        """Those that can be read."""
        if not self.damaged:
            return self
        sound = [place for place in range(len(self.x)) if place not in self.damaged]
        y = None if self.y is None else self.y[sound]
        return self._replace(x=self.x[sound], y=y, damaged=_NONE)


@dataclass(frozen=True)
class Spec:
    """The shape and range of a data set's samples."""

    shapes: Mapping[int, tuple[int, ...]]
    """Of one x, by stage: of images (channels, side, side) by their side."""
    bounds: tuple[float, float] = (-1.0, 1.0)
    """Least and largest value of x; infinite where there is none."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty without labels."""
    extra: tuple[str, ...] = ()
    """Names of the further inputs that it can give at every position: each a sample as x, of the same shape, range and
    stage. SAME_CLASS is the one that prepared images with labels have."""

    @property
    def channels(self) -> int | None:
        """Number of channels if samples are (channels, height, width), as images are; else None."""
        found = {shape[0] if len(shape) == 3 else None for shape in self.shapes.values()}
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Needs:
    """The requirements of a model on a data set."""

    shapes: Mapping[int, tuple[int, ...]]
    """Of one x at every stage that it trains at."""
    classes: int = 0
    """Labels that it is conditioned on; 0 when it ignores them."""
    extra: tuple[str, ...] = ()
    """Names of further inputs that it takes for every position (`Spec.extra`)."""


class SampleOrder(Protocol):
    """Maps positions to samples; `data_pipelines.order.Order` is one."""

    def at(self, position: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Sample numbers [count] in [0, train) and flips [count] of the positions from `position` on."""


class Dataset(ABC):
    """An opened data set: one process's, for a run with one seed. It closes itself after a `with`.

    Opening it reads no more than its description, so that a check costs nothing; `start` readies the rest. What
    describes it (`where` to `digest`) stays after `close`.
    """

    where: str
    """Its name in messages."""
    spec: Spec
    train: int
    """Samples [0, train) are for training; an epoch has as many."""
    test: int
    """Samples [train, train + test) are for testing."""
    digest: str
    """Digest of all its samples; checkpoints record it, and statistics of its samples are kept under it."""
    scale: float | None = None
    """Of samples that are no images: they are drawn inside [-2 scale, 2 scale] in each dimension, or, with None, where
    they happen to lie."""
    device: "torch.device"
    """Device of batches and samples."""
    max_faults: float | None = None
    """The largest share of the training samples that may be replaced per epoch because they are damaged; None when a
    damaged sample ends the run."""
    wait_seconds: float = 0.0
    """Time that the consumer of `batches` has spent waiting for them."""

    @property
    @abstractmethod
    def order(self) -> SampleOrder:
        """A pure function of seed and position."""

    @abstractmethod
    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """One batch for each request, in their order. Requests may be taken ahead, a few at a time.

        SampleError for a sample that cannot be read and is not to be replaced; OSError when the machine cannot read.
        """

    @abstractmethod
    def samples(self, stage: int, numbers: Numbers) -> Samples:
        """Samples by their numbers in [0, train + test), for previews and evaluation. Raises as `batches`."""

    def read(self, stage: int, groups: Iterable[Numbers]) -> Iterator[Samples]:
        """`samples` of each group; a kind that can reads some groups ahead."""
        return (self.samples(stage, numbers) for numbers in groups)

    def class_counts(self) -> NDArray[np.int64]:
        """Training samples of each class, int64 [classes]; none without labels. Here they are read one by one, at the
        smallest stage; a kind that knows them does not."""
        counts = np.zeros(len(self.spec.classes), np.int64)
        groups = (range(first, min(first + 256, self.train)) for first in range(0, self.train, 256))
        for found in self.read(min(self.spec.shapes), groups) if len(counts) else ():
            if found.y is not None:
                counts += np.bincount(found.y.cpu().numpy(), minlength=len(counts))
        return counts

    def contents(self) -> list[str | None] | None:
        """What each sample in [0, train + test) shows besides its class (from where a car is seen, say): samples of
        different classes with equal contents differ in their class alone. None for a sample whose content is not
        known, or for all of them."""
        return None

    def check(self, needs: Needs) -> None:
        """ValueError, in one line, when a model with these needs cannot be trained on it here."""
        for stage, shape in needs.shapes.items():
            if stage not in self.spec.shapes:
                known = ", ".join(map(str, self.spec.shapes))
                raise ValueError(f"{self.where} has no samples at {stage}, where the model trains: it has {known}")
            if self.spec.shapes[stage] != shape:
                found = self.spec.shapes[stage]
                raise ValueError(f"{self.where} has samples of shape {found} at {stage}, but the model needs {shape}")
        if needs.classes > len(self.spec.classes):
            have = f"{len(self.spec.classes)} classes" if self.spec.classes else "no labels"
            raise ValueError(f"{self.where} has {have}, but the model has {needs.classes} classes")
        if SAME_CLASS in needs.extra and not self.spec.classes:
            raise ValueError(
                f"{self.where} has no labels, but the model's class encoder sees another sample of the class: prepare "
                "it from a labelled source, or set model.class_from=itself"
            )
        if missing := [name for name in needs.extra if name not in self.spec.extra]:
            raise ValueError(f"{self.where} has no {' or '.join(missing)}, which the model needs")
        if self.train < 1:
            raise ValueError(f"{self.where} has no training samples")

    def warnings(self, needs: Needs) -> list[str]:
        """What a run of a model with these needs, which are met, should know before it starts; a line each."""
        if SAME_CLASS not in needs.extra:
            return []
        alone = [name for name, count in zip(self.spec.classes, self.class_counts(), strict=True) if count == 1]
        if not alone:
            return []
        more = ", ..." * (len(alone) > _SHOWN)
        return [
            f"{len(alone)} of the {len(self.spec.classes)} classes of {self.where} have a single training sample, "
            f"which stands in for another one of the class: {', '.join(alone[:_SHOWN])}{more}"
        ]

    def start(self) -> None:  # noqa: B027 (most kinds have nothing to ready)
        """Readies what `batches` needs, so that whatever is wrong with it is raised here, before training begins."""

    def speed(self) -> dict[str, float]:
        """Further values to record with a run's speed, by name."""
        return {}

    def notes(self) -> list[str]:
        """Lines to show before training on it."""
        return []

    def stored_bytes(self, stages: Iterable[int]) -> int:
        """Bytes on disk that a run over these stages reads."""
        return 0

    def close(self) -> None:  # noqa: B027
        """Ends threads and lets go of files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DatasetSettings(Settings, ABC):
    """Settings of one kind of data set. `name` says which kind: a Literal with that as its default."""

    name: str

    @property
    def where(self) -> str:
        """Name of the data set in messages."""
        return self.name

    @property
    def folder(self) -> Path | None:
        """The data set's own directory, in which nothing else belongs; None when there is none."""
        return None

    def located(self, absolute: Callable[[str], str]) -> Self:
        """The same settings with paths made `absolute`, so that they mean the same in any working directory."""
        return self

    @abstractmethod
    def open(self, seed: int, device: "torch.device") -> Dataset:
        """The data set for a run with this seed, whose batches go to this device.

        Raises ValueError, or OSError, with one line when there is none that can be used.
        """
