"""The images that an evaluation looks at, every process its share of them, batch by batch."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.dataset import Dataset
from data_pipelines.dataset import Samples as RealSamples
from data_pipelines.images.ranges import to_uint8
from data_pipelines.streams import stream
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.process.processes import rank, world_size
from sivae_dist.use.pretrained import Pretrained


class Streams:
    """Real images and samples. All processes get equally many batches, some of them empty."""

    def __init__(self, settings: EvaluationSettings, data: Dataset) -> None:
        self._settings = settings
        self._data = data

    @property
    def reference(self) -> range:
        """Numbers of the images that samples are compared with."""
        train, all_of_them = self._data.train, self._data.train + self._data.test
        first, stop = {"train": (0, train), "test": (train, all_of_them), "all": (0, all_of_them)}[
            self._settings.reference
        ]
        if self._settings.reference_samples is not None:
            stop = min(stop, first + self._settings.reference_samples)
        return range(first, stop)

    def check_reference(self) -> None:
        """ValueError when there are too few images to compare samples with."""
        if (count := len(self.reference)) < 2:
            raise ValueError(f"evaluation.reference={self._settings.reference}: the data set has {count} images there")

    @property
    def held_out(self) -> range:
        """Numbers of the images of the test split that are reconstructed; there may be none."""
        first, test = self._data.train, self._data.test
        return range(first, first + min(test, self._settings.test_samples or test))

    def samples(self, model: Pretrained) -> Iterator[Tensor]:
        """uint8 [B, C, R, R]; no layer noise, no truncation; where the model has classes, as often of each as they are
        in the training set."""
        shares = self._class_shares if model.class_names else None
        for numbers in share(0, self._settings.samples, self._settings.batch):
            if not len(numbers):
                yield torch.empty(0)
                continue
            z = model.latents(int(numbers[0]), int(numbers[-1] - numbers[0]) + 1, self._settings.seed)
            labels = None if shares is None else drawn_labels(shares, numbers, self._settings.seed)
            yield to_uint8(model.decode(z[:: world_size()], labels))

    @cached_property
    def _class_shares(self) -> NDArray[np.float64]:
        """The share of each class in the training set, [classes]."""
        counts = self._data.class_counts()
        return counts / counts.sum()

    def real(self, level: int, numbers: range) -> Iterator[RealSamples]:
        """Real images with x [B, C, R, R] in [-1, 1], those that are damaged left out where that is wanted. SampleError
        where it is not."""
        for samples in self._data.read(level, share(numbers.start, numbers.stop, self._settings.batch)):
            yield samples.without_damaged()


def drawn_labels(shares: NDArray[np.float64], numbers: NDArray[np.int64], seed: int) -> Tensor:
    """The labels [N] of the samples with these numbers, drawn with the probabilities `shares` [classes]. Each depends
    only on the seed and its number."""
    drawn = [stream(seed, "sample class", int(number)).random() for number in numbers]
    # Rounding may leave the last sum below 1, and behind it is a class without images.
    upper = np.cumsum(shares)
    labels = np.searchsorted(upper / upper[-1], drawn, side="right")
    return torch.from_numpy(labels.astype(np.int64))


def share(first: int, stop: int, batch: int) -> Iterable[NDArray[np.int64]]:
    """This process's numbers out of first ... stop - 1, in batches: every world-th one. All processes get equally
    many batches, of which the last may be empty."""
    stride = world_size() * batch
    for start in range(first, stop, stride):
        yield np.arange(start + rank(), min(start + stride, stop), world_size())
