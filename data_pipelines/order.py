"""The order of samples: which sample is at a position of a run, and whether it is flipped, from seed and position."""

from collections import OrderedDict

import numpy as np

from data_pipelines.streams import stream

WINDOW = 16
"""Shards among which samples are shuffled: a permutation of all shards, then of the samples inside windows of 16."""

_EPOCHS_KEPT = 2


class Order:
    """The order of the samples [0, sum(shard_sizes)) over endless epochs.

    Every epoch holds each sample once. Shards are permuted and samples shuffled inside windows of 16 shards, so that
    neighbours in time are neighbours on disk, and an epoch of 3 million samples is ordered in under half a second.
    """

    def __init__(self, shard_sizes: list[int], seed: int, flip: bool) -> None:
        """`shard_sizes`: samples in each shard; `flip`: mirror each sample with probability 1/2, anew every epoch."""
        if not shard_sizes or min(shard_sizes) < 1:
            raise ValueError("an order needs shards with at least one sample each")
        self.sizes = np.asarray(shard_sizes, np.int64)
        self.starts = np.concatenate(([0], np.cumsum(self.sizes)[:-1]))
        self.samples = int(self.sizes.sum())
        self.seed = seed
        self.flip = flip
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._epochs:
            generator = stream(self.seed, "order", epoch)
            shards = generator.permutation(len(self.sizes))
            windows = []
            for first in range(0, len(shards), WINDOW):
                chosen = shards[first : first + WINDOW]
                samples = np.concatenate([np.arange(self.starts[k], self.starts[k] + self.sizes[k]) for k in chosen])
                windows.append(generator.permutation(samples))
            order = np.concatenate(windows)
            flips = stream(self.seed, "flip", epoch).random(self.samples) < 0.5 if self.flip else order < 0
            self._epochs[epoch] = (order, flips)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def at(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers (int64 [count]) and flips (bool [count]) of the positions from `position` on."""
        samples, flips = [], []
        while count > 0:
            epoch, first = divmod(position, self.samples)
            order, flipped = self._epoch(epoch)
            part = slice(first, min(first + count, self.samples))
            samples.append(order[part])
            flips.append(flipped[part])
            taken = len(samples[-1])
            position, count = position + taken, count - taken
        return np.concatenate(samples), np.concatenate(flips)

    def shards_from(self, position: int, windows: int = 2) -> list[int]:
        """Shards of the window in which a position lies, then those of the windows after it, `windows` in all."""
        epoch, first = divmod(position, self.samples)
        shards = self._shards(epoch)
        inside = int(np.searchsorted(np.cumsum(self.sizes[shards]), first, side="right"))
        shards = shards[inside - inside % WINDOW :]
        found: list[int] = []
        while windows > 0:
            chosen = shards[: windows * WINDOW].tolist()
            found += chosen
            windows -= -(-len(chosen) // WINDOW)
            epoch += 1
            shards = self._shards(epoch)
        return found

    def _shards(self, epoch: int) -> np.ndarray:
        """All shards in the order of an epoch; its windows have 16 of them each."""
        return stream(self.seed, "order", epoch).permutation(len(self.sizes))

    def substitute(self, position: int, attempt: int) -> int:
        """The sample that replaces one that cannot be read at a position; attempts 0, 1, ... differ."""
        return int(stream(self.seed, "substitute", position).integers(self.samples, size=attempt + 1)[attempt])
