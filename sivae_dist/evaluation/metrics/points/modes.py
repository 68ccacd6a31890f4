"""Modes of a mixture of Gaussians that a model covers, and its samples that lie near one.

The definitions are those of VEEGAN (Srivastava et al. 2017, section 5): a sample is of high quality within three
standard deviations of the nearest mode, and a mode is covered if it is the nearest one of at least one such sample.
There they are taken of 2,500 samples, here of 5,000, as all that is measured of points.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.dataset import Dataset
from data_pipelines.points.dataset import PointSet
from data_pipelines.points.distributions import Distribution
from sivae_dist.evaluation.metrics.base import Found, Trained
from sivae_dist.evaluation.metrics.points.base import SAMPLES, PointMetric, generated, points_of

DEVIATIONS = 3
"""Standard deviations from the centre of a mode within which a sample is of high quality."""


class _OfModes(PointMetric):
    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        if lacking := super().lacks(data):
            return lacking
        assert isinstance(data, PointSet)
        known = data.distribution
        return None if known is not None and known.centres else "a mixture of Gaussians whose centres are known"

    def measure(self, trained: Trained) -> float:
        return self.of(*nearest(generated(trained), _mixture(trained)))

    @abstractmethod
    def of(self, centre: NDArray[np.int64], good: NDArray[np.bool_]) -> float:
        """The value, from what `nearest` returns."""

    def details(self, found: Found) -> dict[str, Any]:
        centres = len(_mixture(found.trained).centres)
        return {"samples": SAMPLES, "centres": centres, "within_deviations": DEVIATIONS}


class ModesCovered(_OfModes):
    """How many modes are the nearest one of at least one sample of high quality."""

    def of(self, centre: NDArray[np.int64], good: NDArray[np.bool_]) -> float:
        return float(len(np.unique(centre[good])))


class HighQuality(_OfModes):
    """The share of samples of high quality; of the data themselves it is 1 - exp(-9 / 2) = 0.989."""

    def of(self, centre: NDArray[np.int64], good: NDArray[np.bool_]) -> float:
        return float(good.mean())


def _mixture(trained: Trained) -> type[Distribution]:
    mixture = points_of(trained).distribution
    assert mixture is not None
    return mixture


def nearest(points: NDArray[Any], mixture: type[Distribution]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of points [N, 2], the number of the nearest centre [N], and whether it is near enough for high quality [N]."""
    apart = np.linalg.norm(points[:, None] - np.array(mixture.centres), axis=2)
    return apart.argmin(1), apart.min(1) <= DEVIATIONS * mixture.deviation
