"""The error of content transfer, measured as LORD does (Gabbay & Hoshen 2020): of unseen images, against the truth.

Of two test images a and b of different classes and contents, an image is made with the class of a and the content of b.
Where contents have names that classes share, the test image that shows just that is the truth. Otherwise a is another
image of the class of b, whose own image is the truth: this sees whether the class code holds anything of a's content,
and whether both codes together suffice for b, but not whether the content code alone would (`class_from_content` does).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.dataset import Dataset
from data_pipelines.images.ranges import to_unit
from data_pipelines.streams import stream
from sivae_dist.evaluation.metrics.base import Found, Trained
from sivae_dist.evaluation.metrics.translation.base import TranslationMetric, images_of, labels_of
from sivae_dist.evaluation.metrics.vgg import OfRandomVgg, OfVgg

PAIRS = 1_000
_AT_ONCE = 50


class Pairs(NamedTuple):
    """Numbers of samples [N]: whose class, whose content, and what they should give."""

    of_class: NDArray[np.int64]
    of_content: NDArray[np.int64]
    truth: NDArray[np.int64]
    named: bool
    """Whether contents have names; otherwise the truth is the image whose content it is."""


def draw_pairs(data: Dataset, count: int, seed: int) -> Pairs:
    """Of the test split, drawn from the seed. ValueError when it has no two images that could be a pair."""
    numbers = np.arange(data.train, data.train + data.test)
    contents, generator = data.contents(), stream(seed, "content transfer", 0)
    labels = labels_of(data, numbers)
    kinds = None if contents is None else [contents[number] for number in numbers]
    shown = {} if kinds is None else {key: k for k, key in enumerate(zip(labels.tolist(), kinds, strict=True))}
    found: list[tuple[int, int, int]] = []
    for _ in range(100 * count):
        if len(found) == count:
            break
        a, b = generator.integers(len(numbers), size=2).tolist()
        if kinds is None:
            if a != b and labels[a] == labels[b]:
                found.append((a, b, b))
        elif labels[a] != labels[b] and None not in (kinds[a], kinds[b]) and kinds[a] != kinds[b]:
            truth = shown.get((int(labels[a]), kinds[b]))
            if truth is not None:
                found.append((a, b, truth))
    if not found:
        raise ValueError(f"{data.where} has no two test images between which content can be transferred")
    of_class, of_content, truth = numbers[np.array(found).T]
    return Pairs(of_class, of_content, truth, kinds is not None)


class ContentTransfer(TranslationMetric):
    """Mean over 1,000 pairs of the squared error of a value in [0, 1]."""

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, C, R, R] and the same, in [0, 1] -> [B]: the error of each image."""
        return (a - b).double().square().flatten(1).mean(1)

    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        return super().lacks(data) or (None if data.test else "labelled images with a test split")

    def value(self, found: Found) -> float:
        trained, pairs = found.trained, _pairs(found)
        return self._mean_error(trained, pairs.truth, lambda part: _transferred(trained, pairs, part))

    def details(self, found: Found) -> dict[str, Any]:
        """Also the errors of images that no model made: those whose class, and whose content, it was to be. The
        latter only where it isn't the truth itself."""
        trained, pairs = found.trained, _pairs(found)

        def unchanged(numbers: NDArray[np.int64]) -> float:
            return self._mean_error(trained, pairs.truth, lambda part: images_of(trained, numbers[part]))

        details = {
            **super().details(found),
            "pairs": len(pairs.truth),
            "truth": "contents" if pairs.named else "same class",
            "of_class_image": unchanged(pairs.of_class),
        }
        return details | ({"of_content_image": unchanged(pairs.of_content)} if pairs.named else {})

    def _mean_error(self, trained: Trained, truth: NDArray[np.int64], made: Callable[[slice], Tensor]) -> float:
        total = torch.zeros((), dtype=torch.float64, device=trained.model.device)
        for first in range(0, len(truth), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            total += self.between(to_unit(made(part)), to_unit(images_of(trained, truth[part]))).double().sum()
        return total.item() / len(truth)


class PerceptualTransfer(OfVgg, ContentTransfer):
    """Mean over the same pairs of the perceptual distance, as LORD reports LPIPS."""


class RandomPerceptualTransfer(OfRandomVgg, PerceptualTransfer):
    """With random weights."""


def _pairs(found: Found) -> Pairs:
    trained = found.trained
    return trained.once("pairs", lambda: draw_pairs(trained.data, PAIRS, trained.seed))


def _transferred(trained: Trained, pairs: Pairs, part: slice) -> Tensor:
    of_class, of_content = (images_of(trained, numbers[part]) for numbers in (pairs.of_class, pairs.of_content))
    return trained.model.transfer(of_class, of_content)
