"""Divergences of histograms of generated points from those of real ones: as the authors compute them, and as defined.

All of 100 x 100 cells over [-2 S, 2 S]^2 and of 5,000 points each. With p of the real points, q of the generated ones
and m = (p + q) / 2, the definitions are KL = sum p log(p / q) and JSD = sum (p log(p / m) + q log(q / m)) / 2, at most
log 2. What the authors' code computes under these names differs in three ways: p and q are densities, so that the value
depends on the size of a cell; it is divided by 100, the number of rows; and in JSD p and q have changed places with m.
To compare with the paper's table their values are needed, for anything else the others.
"""

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sivae_dist.evaluation.metrics.base import Found, Trained
from sivae_dist.evaluation.metrics.points.base import SAMPLES, PointMetric, generated, points_of

BINS = 100
"""Cells in each direction."""

_FLOOR = 1e-14
"""The authors' density of a cell without points, inside a logarithm."""


class Histograms(NamedTuple):
    """How many of the real and of the generated points lie in each cell, and how many outside of all."""

    real: Tensor
    """fp64 [BINS, BINS]"""
    generated: Tensor
    """fp64 [BINS, BINS]"""
    outside: tuple[int, int]
    """Of the real ones, and of the generated ones."""
    cell: float
    """Area of a cell."""

    def densities(self) -> tuple[Tensor, Tensor]:
        """As the authors have them: points outside are left out. Zero where no point lies inside; theirs is NaN."""
        real, generated = (counts / counts.sum().clamp(min=1) / self.cell for counts in (self.real, self.generated))
        return real, generated

    def counts(self) -> tuple[Tensor, Tensor]:
        """[BINS * BINS + 1], of which the last counts the points outside: it is a cell like any other."""
        inside = (self.real.flatten(), self.generated.flatten())
        real, generated = (torch.cat((a, a.new_tensor([b]))) for a, b in zip(inside, self.outside, strict=True))
        return real, generated


def histograms(real: NDArray[Any], generated: NDArray[Any], extent: float) -> Histograms:
    """Of points [N, 2] and [M, 2] in cells over [-extent, extent]^2."""

    def counted(points: NDArray[Any]) -> Tensor:
        edges = [[-extent, extent]] * 2
        return torch.from_numpy(np.histogram2d(points[:, 0], points[:, 1], bins=BINS, range=edges)[0])

    a, b = counted(real), counted(generated)
    outside = (len(real) - int(a.sum()), len(generated) - int(b.sum()))
    return Histograms(a, b, outside, (2 * extent / BINS) ** 2)


class HistogramMetric(PointMetric):
    """A divergence of two histograms."""

    def measure(self, trained: Trained) -> float:
        data = points_of(trained)
        real = data.to_measure(trained.seed, "points for histograms", SAMPLES)
        return self.divergence(histograms(real, generated(trained), 2 * data.scale))

    def details(self, found: Found) -> dict[str, Any]:
        """Also what other real points of a distribution would have, which no model can be much better than."""
        data, seed = points_of(found.trained), found.trained.seed
        real = data.to_measure(seed, "points for histograms", SAMPLES)
        details = {"samples": SAMPLES, "test_points": len(real), "bins": BINS, "extent": 2 * data.scale}
        if data.distribution is None:
            return details
        other = data.to_measure(seed, "other points for histograms", SAMPLES)
        return details | {"of_real": self.divergence(histograms(real, other, 2 * data.scale))}

    @staticmethod
    @abstractmethod
    def divergence(found: Histograms) -> float:
        """The value."""


class OfficialDivergence(HistogramMetric):
    """The authors' KL: sum of p (log p - log(q + 1e-14)) / 100 over densities p and q.

    That is the KL divergence in nats, divided by 100 cells' areas (by 0.16 where S is 1, by 0.64 where it is 2), but
    for the floor: a cell without generated points has the density 1e-14.
    """

    @staticmethod
    def divergence(found: Histograms) -> float:
        real, generated = found.densities()
        return F.kl_div(torch.log(generated + _FLOOR), real, reduction="batchmean").item()


class OfficialJensenShannon(HistogramMetric):
    """The authors' JSD: half the sum of m (log m - log(p + 1e-14)) / 100 and the same of q, over densities.

    These are the divergences of m from p and q in place of those of p and q from m. Where only one of them has points
    they would be infinite, so that the floor of 1e-14 decides how large the value is; it may exceed log 2 by far.
    """

    @staticmethod
    def divergence(found: Histograms) -> float:
        real, generated = found.densities()
        mean = (real + generated) / 2
        halves = (F.kl_div(torch.log(one + _FLOOR), mean, reduction="batchmean") for one in (real, generated))
        return 0.5 * sum(half.item() for half in halves)


class HistogramDivergence(HistogramMetric):
    """KL(real || generated) in nats. All points outside of the cells count as one more cell.

    It would be infinite for a cell that has real points alone. So the generated points are taken for one more than they
    are, and that one is spread evenly over all cells: such a cell has the probability 1 / (10,001 * 5,001).
    """

    @staticmethod
    def divergence(found: Histograms) -> float:
        real, generated = found.counts()
        p, q = real / real.sum(), (generated + 1 / len(generated)) / (generated.sum() + 1)
        return F.kl_div(q.log(), p, reduction="sum").item()


class HistogramJensenShannon(HistogramMetric):
    """JSD of real and generated points in nats, from 0 to log 2 = 0.693. All points outside count as one more cell.

    Empty cells need no treatment: where p or q is not zero, neither is their mean. Two sets of 5,000 points of the same
    distribution are apart by more than nothing, since a cell has few of them.
    """

    @staticmethod
    def divergence(found: Histograms) -> float:
        real, generated = found.counts()
        p, q = real / real.sum(), generated / generated.sum()
        log_mean = ((p + q) / 2).log()  # -inf of an empty cell is met by 0 in both
        halves = (torch.special.xlogy(one, one) - torch.where(one > 0, one * log_mean, 0) for one in (p, q))
        return 0.5 * sum(half.sum().item() for half in halves)
