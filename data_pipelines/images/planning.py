"""The plan of a data set: which images of a source go to which shard."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.manifest import Split
from data_pipelines.images.sources import Source, SourceError
from data_pipelines.images.sources.splits import TestChoice, choose_test, how_many
from data_pipelines.images.survey import usable


@dataclass(frozen=True)
class Plan:
    """The content of a shard: positions in the source."""

    number: int
    split: Split
    positions: NDArray[np.int64]

    @property
    def record_name(self) -> str:
        return f"work/shard-{self.number:05d}.json"


def plan_shards(source: Source, test: TestChoice, shard_size: int, damaged: Sequence[int] = ()) -> list[Plan]:
    """Training shards, then test shards, with `shard_size` files of the source each.

    `damaged`: positions that were found to be no use for a test split of a given size; they count as training images,
    so that the number of shards does not depend on them. Raises SourceError when no image is left for training.
    """
    good = usable(source)
    wanted = how_many(test, int(good.sum()))
    good[list(damaged)] = False
    chosen = choose_test(source.listing, wanted, good)
    if not (good & ~chosen).any():
        raise SourceError(f"the test split takes all {int(good.sum())} images: leave some for training")
    taken = np.ones(len(source), bool)
    taken[list(source.found.left_out)] = False
    splits: tuple[tuple[Split, NDArray[np.int64]], ...] = (
        ("train", np.flatnonzero(taken & ~chosen)),
        ("test", np.flatnonzero(chosen)),
    )
    plans: list[Plan] = []
    for split, positions in splits:
        for start in range(0, len(positions), shard_size):
            plans.append(Plan(len(plans), split, positions[start : start + shard_size]))
    return plans
