"""Features of a set of images, gathered by all processes."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sivae_dist.process.processes import rank, world_size


@dataclass(frozen=True)
class Statistics:
    """The statistics of a set of images that a Frechet distance needs."""

    count: int
    mean: NDArray[np.float64]
    """[D]"""
    covariance: NDArray[np.float64]
    """[D, D], unbiased."""


@dataclass(frozen=True)
class FeatureSet:
    """All that a metric may need about the features of a set of images."""

    statistics: Statistics
    features: Tensor | None
    """fp32 [n, D] in the order of the images, where a metric needs them (Metric.keeps_features)."""


@dataclass
class Collected:
    """The features that a process has gathered."""

    dimensions: int
    device: torch.device
    keep: bool
    """Whether the features themselves are kept."""
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
        """Statistics of all processes' images. All of them call it together, once."""
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

    def feature_set(self) -> FeatureSet:
        """The feature set of all processes' images; the features themselves are on the first process only. All of them
        call it together, once."""
        return FeatureSet(self.statistics(), self.features() if self.keep else None)
