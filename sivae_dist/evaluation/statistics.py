"""Features of images, gathered by all processes, and the distances between two sets of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from sivae_dist.process.processes import rank, world_size

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
"""As everybody has it; smaller where there are fewer images."""


@dataclass(frozen=True)
class Statistics:
    """What a Frechet distance needs of a set of images."""

    count: int
    mean: NDArray[np.float64]
    """[D]"""
    covariance: NDArray[np.float64]
    """[D, D], unbiased."""


@dataclass
class Collected:
    """What a process has gathered, and after `reduce`, on the first process, all of them."""

    dimensions: int
    device: torch.device
    keep: bool
    """Whether the features themselves are kept, which a kernel distance needs."""
    count: int = 0
    _sum: Tensor = field(init=False)
    _products: Tensor = field(init=False)
    _features: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        d = self.dimensions
        self._sum = torch.zeros(d, dtype=torch.float64, device=self.device)
        self._products = torch.zeros(d, d, dtype=torch.float64, device=self.device)

    def add(self, features: Tensor) -> None:
        """fp32 [B, D]"""
        wide = features.double()
        self.count += len(features)
        self._sum += wide.sum(0)
        self._products.addmm_(wide.T, wide)
        if self.keep:
            self._features.append(features.cpu())

    def statistics(self) -> Statistics:
        """Of all processes' images. All of them call it together, once."""
        count = torch.tensor(self.count, dtype=torch.float64, device=self.device)
        if world_size() > 1:
            for sums in (count, self._sum, self._products):
                dist.all_reduce(sums)
        n, mean = int(count), (self._sum / count)
        covariance = (self._products - n * torch.outer(mean, mean)) / (n - 1)
        return Statistics(n, mean.cpu().numpy(), covariance.cpu().numpy())

    def features(self) -> Tensor | None:
        """fp32 [n, D] of all processes' images on the first process, in their order when process r had the images
        r, r + world, ...; None on the others. All of them call it together."""
        mine = torch.cat(self._features) if self._features else torch.empty(0, self.dimensions)
        world = world_size()
        if world == 1:
            return mine
        counts = torch.zeros(world, dtype=torch.int64)
        counts[rank()] = len(mine)
        counts = counts.to(self.device)
        dist.all_reduce(counts)
        longest = int(counts.max())
        padded = torch.cat((mine, mine.new_zeros(longest - len(mine), self.dimensions))).to(self.device)
        parts = [torch.empty_like(padded) for _ in range(world)] if rank() == 0 else None
        dist.gather(padded, parts)
        if parts is None:
            return None
        rows = torch.stack([part.cpu() for part in parts], 1).flatten(0, 1)
        there = torch.arange(longest)[:, None] < counts.cpu()[None, :]
        return rows[there.flatten()]


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance between two normal distributions, as torch-fidelity computes it."""
    first, second = ({"mu": s.mean, "sigma": s.covariance} for s in (a, b))
    return float(fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID])


def kernel_distance(fake: Tensor, real: Tensor) -> tuple[float, dict[str, Any]]:
    """Mean squared maximum mean discrepancy over random subsets of two sets of features [n, D], as torch-fidelity
    computes it, and the number and size of these subsets."""
    subsets = {"kid_subsets": KID_SUBSETS, "kid_subset_size": min(KID_SUBSET_SIZE, len(fake), len(real))}
    return float(kid_features_to_metric(fake, real, **subsets, verbose=False)[KEY_METRIC_KID_MEAN]), subsets


def share(first: int, stop: int, batch: int) -> Iterable[NDArray[np.int64]]:
    """This process's numbers out of first ... stop - 1, in batches: every world-th one. All processes get equally
    many batches, of which the last may be empty."""
    stride = world_size() * batch
    for start in range(first, stop, stride):
        yield np.arange(start + rank(), min(start + stride, stop), world_size())
