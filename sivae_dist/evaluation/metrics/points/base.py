"""The common part of metrics of points: the model and points to compare its samples with."""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from data_pipelines.dataset import Dataset
from data_pipelines.points.dataset import PointSet
from sivae_dist.evaluation.metrics.base import Found, Metric, Trained

SAMPLES = 5000
"""Points that the model generates, and real ones that they are compared with, as in the authors' code."""


class PointMetric(Metric):
    """A number that says how good a model of points in the plane is; all of it is computed on the first process."""

    needs = (Trained,)

    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        plane = isinstance(data, PointSet) and set(data.spec.shapes.values()) == {(2,)}
        return None if plane else "points in the plane"

    @abstractmethod
    def measure(self, trained: Trained) -> float:
        """The value."""

    def value(self, found: Found) -> float:
        return self.measure(found.trained)


def points_of(trained: Trained) -> PointSet:
    """The data set, of which `lacks` has found that it is one of points."""
    assert isinstance(trained.data, PointSet)
    return trained.data


def generated(trained: Trained) -> NDArray[np.float64]:
    """SAMPLES points [n, 2] of the prior, the first ones of the seed."""
    model = trained.model
    return model.decode(model.latents(0, SAMPLES, trained.seed)).cpu().double().numpy()
