"""Pairs: for every position of a run another training image, of the class of the one that stands there (SAME_CLASS)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_pipelines.streams import stream, streams


class Pairs:
    """Draws the other image of a pair: a pure function of seed, position and the image that stands there.

    It is uniform among the class's other training images, and the image itself only where the class has no other. It is
    mirrored with probability 1/2 by a draw of its own, if images are mirrored at all.
    """

    def __init__(self, labels: NDArray[np.int64], seed: int, flip: bool) -> None:
        """`labels`: of the training samples [0, train); `flip`: whether images are mirrored."""
        self.labels = labels
        self.seed = seed
        self.flip = flip
        self._members = np.argsort(labels, kind="stable")  # by class, those of a class by their numbers
        self._ends = np.cumsum(np.bincount(labels))

    def at(self, position: int, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Numbers of the others [n] and whether they are mirrored [n], for the samples [n] that stand from `position`
        on. A damaged sample's substitute is what stands there."""
        others, flips = np.empty(len(samples), np.int64), np.zeros(len(samples), np.bool_)
        drawn = streams(self.seed, "same class", position, len(samples))
        for row, (sample, generator) in enumerate(zip(samples.tolist(), drawn, strict=True)):
            members = self._class_of(sample)
            others[row] = sample
            if len(members) > 1:
                chosen = int(generator.integers(len(members) - 1))
                others[row] = members[chosen + (members[chosen] >= sample)]
            if self.flip:
                flips[row] = generator.random() < 0.5
        return others, flips

    def substitutes(self, position: int, sample: int, damaged: int, most: int) -> Iterator[int]:
        """What replaces a damaged other of the `sample` at a position, the next one if that cannot be read either: up
        to `most` images of the class in random order, then, where there are no more, `sample` itself."""
        members = self._class_of(sample)
        members = members[(members != sample) & (members != damaged)]
        generator = stream(self.seed, "same class, substitute", position)
        yield from members[generator.choice(len(members), min(most, len(members)), replace=False)].tolist()
        if len(members) <= most:
            yield sample

    def _class_of(self, sample: int) -> NDArray[np.int64]:
        """The training samples of its class, in the order of their numbers."""
        label = self.labels[sample]
        first = self._ends[label - 1] if label else 0
        return self._members[first : self._ends[label]]
