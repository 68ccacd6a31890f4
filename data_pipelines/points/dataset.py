"""Points as a kind of data set: `data: {name: points, distribution: 8gaussians}`, or `path: points.csv`."""

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from data_pipelines.choices import name_in
from data_pipelines.dataset import Batch, Dataset, DatasetSettings, Numbers, Request, SampleOrder, Samples, Spec
from data_pipelines.order import Order
from data_pipelines.points.distributions import DISTRIBUTIONS, Distribution
from data_pipelines.points.files import TABLES, digest_of, kind_of, read_points
from data_pipelines.settings import MAY_CHANGE, expand
from data_pipelines.stages import ONLY_STAGE
from data_pipelines.streams import stream

EPOCH = 100_000
"""Points of a distribution that count as an epoch; there is no end to them."""
HELD_OUT = 10_000
"""Points of a distribution that are kept for testing."""

_BLOCK = 512
"""Points that are drawn at once. The number is part of what stands at a position."""
_BLOCKS_KEPT = 16

_VERSION = 1
"""Of the draws: part of the digest."""


class PointSettings(DatasetSettings):
    """Points in the plane, or a table of numbers. Either `distribution` or `path`."""

    name: Literal["points"] = "points"
    distribution: Annotated[str, name_in(DISTRIBUTIONS)] | None = None
    """Points without end: `8gaussians`, `spiral`, `checkerboard` or `rings` of appendix 9.2.1."""
    path: Annotated[str, MAY_CHANGE] | None = None
    """A file of your own points, a row for each: a .npy of an array [N, D], or a .csv, with or without names of
    columns. A relative path starts from the working directory; `~` and `$VARIABLES` are replaced."""
    test: float = Field(0.1, ge=0, lt=1)
    """Share of the points of a file that are kept for testing, chosen at random."""

    @field_validator("path")
    @classmethod
    def _expanded(cls, path: str | None) -> str | None:
        return None if path is None else expand(path)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.distribution is None) == (self.path is None):
            raise ValueError(f"give either distribution, one of {', '.join(DISTRIBUTIONS)}, or the path of a file")
        return self

    @property
    def where(self) -> str:
        return self.path or f"{self.distribution}"

    def located(self, absolute: Callable[[str], str]) -> Self:
        return self if self.path is None else self.model_copy(update={"path": absolute(self.path)})

    def open(self, seed: int, device: torch.device) -> "PointSet":
        """Raises as read_points."""
        if self.path is not None:
            return PointFile(self.path, self.test, seed, device)
        assert self.distribution is not None
        return DrawnPoints(self.distribution, seed, device)


def points_at(where: str) -> "PointSet | None":
    """The points of the distribution of this name, or in the file at this path; None where it is neither. Raises as
    read_points."""
    if where in DISTRIBUTIONS and not Path(where).exists():
        return DrawnPoints(where, 0, torch.device("cpu"))
    path = Path(expand(where))
    if kind_of(path) in TABLES and not path.is_dir():
        return PointFile(str(path), PointSettings(path=where).test, 0, torch.device("cpu"))
    return None


class PointSet(Dataset):
    """Points. Their x are [B, D] without bounds, at ONLY_STAGE."""

    scale: float
    """They lie inside about [-2 scale, 2 scale] in each dimension, where they are drawn and measured."""
    distribution: type[Distribution] | None = None
    """Where they are drawn from one that is known."""

    @property
    def endless(self) -> bool:
        """Whether there is a new point at every position."""
        return self.distribution is not None

    def _describe(self, where: str, dimensions: int, train: int, test: int, digest: str) -> None:
        self.where, self.train, self.test, self.digest = where, train, test, digest
        self.spec = Spec({ONLY_STAGE: (dimensions,)}, bounds=(-math.inf, math.inf))

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        for request in requests:
            yield Batch(self._on_device(self._at(request.position, request.count)), None, request.position)

    def samples(self, stage: int, numbers: Numbers) -> Samples:
        return Samples(self._on_device(self._numbered(np.asarray(numbers, np.int64))), None)

    @abstractmethod
    def to_measure(self, seed: int, purpose: str, count: int) -> NDArray[np.float32]:
        """Points [n, D] to measure a model by, other ones for another seed or purpose.

        Of a distribution `count` new ones. Of a file as many of those for testing (of all, if none are), or fewer where
        there are fewer.
        """

    @abstractmethod
    def _at(self, position: int, count: int) -> NDArray[np.float32]:
        """The points [count, D] at the positions from `position` on."""

    @abstractmethod
    def _numbered(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The points [N, D] with these numbers."""

    def _on_device(self, points: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(points).to(self.device)


class _Endless:
    """The order of what is drawn: the sample at a position has its number, however large that is."""

    def at(self, position: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        return np.arange(position, position + count), np.zeros(count, np.bool_)


class DrawnPoints(PointSet):
    """Points of a distribution, a new one at every position of a run. Those for testing are the same for all seeds."""

    def __init__(self, name: str, seed: int, device: torch.device) -> None:
        self.distribution = DISTRIBUTIONS[name]
        self.scale = self.distribution.scale
        self.device = device
        self._seed = seed
        self._blocks: OrderedDict[tuple[int, str, int], NDArray[np.float32]] = OrderedDict()
        self._describe(name, 2, EPOCH, HELD_OUT, f"{name}, version {_VERSION}")

    @property
    def order(self) -> SampleOrder:
        return _Endless()

    def to_measure(self, seed: int, purpose: str, count: int) -> NDArray[np.float32]:
        assert self.distribution is not None
        return self.distribution.draw(stream(seed, f"{purpose}, {self.where}", 0), count).astype(np.float32)

    def _at(self, position: int, count: int) -> NDArray[np.float32]:
        return self._drawn(self._seed, "points", position, count)

    def _numbered(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        found = np.empty((len(numbers), 2), np.float32)
        for row, number in enumerate(numbers.tolist()):
            if number < self.train:
                found[row] = self._at(number, 1)
            else:
                found[row] = self._drawn(0, "test points", number - self.train, 1)
        return found

    def _drawn(self, seed: int, purpose: str, first: int, count: int) -> NDArray[np.float32]:
        start, stop = first // _BLOCK, -(-(first + count) // _BLOCK)
        blocks = [self._block(seed, purpose, number) for number in range(start, stop)]
        points = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return points[first - start * _BLOCK :][:count]

    def _block(self, seed: int, purpose: str, number: int) -> NDArray[np.float32]:
        key = (seed, purpose, number)
        if key not in self._blocks:
            assert self.distribution is not None
            generator = stream(seed, f"{purpose}, {self.where}", number)
            self._blocks[key] = self.distribution.draw(generator, _BLOCK).astype(np.float32)
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return self._blocks[key]


class PointFile(PointSet):
    """The points of a file: those for training first, each of them once in an epoch, then those for testing."""

    def __init__(self, path: str, test: float, seed: int, device: torch.device) -> None:
        """Raises as read_points."""
        points = read_points(Path(path))
        held_out = int(test * len(points))
        shuffled = points[stream(0, "split of points", 0).permutation(len(points))]
        self.device = device
        self._points = shuffled
        self._order = Order([len(points) - held_out], seed, flip=False)
        self.scale = float(np.abs(points).max()) / 2 or 1.0
        digest = digest_of(points)
        self._describe(path, points.shape[1], len(points) - held_out, held_out, f"{digest}, test {test}")

    @property
    def order(self) -> Order:
        return self._order

    def to_measure(self, seed: int, purpose: str, count: int) -> NDArray[np.float32]:
        pool = self._points[self.train :] if self.test else self._points
        return pool[stream(seed, purpose, 0).permutation(len(pool))[:count]]

    def _at(self, position: int, count: int) -> NDArray[np.float32]:
        numbers, _ = self._order.at(position, count)
        return self._points[numbers]

    def _numbered(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._points[numbers]
