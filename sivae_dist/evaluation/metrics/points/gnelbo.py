"""The grid-normalized ELBO of the authors' code."""

from typing import Any

import torch
from torch import Tensor

from sivae_dist.evaluation.metrics.base import Found, Trained
from sivae_dist.evaluation.metrics.points.base import PointMetric, points_of
from sivae_dist.use.density import elbo
from sivae_dist.use.pretrained import Pretrained

SIDE = 1024
"""Points of the grid in each direction."""
TEST_POINTS = 12_800
"""100 batches of 128."""


class GridNormalizedElbo(PointMetric):
    """The mean of test points' negative ELBO, divided by the sum over a grid and all of them; less is better.

    The negative ELBO, in nats with both weights 1, is the squared error of the reconstruction by the encoder's mean,
    summed over both dimensions, plus the KL divergence. The grid, 1024 x 1024, covers [-2 S, 2 S]^2. No paper says why;
    a model has a small value if its ELBO is far better where the data are than anywhere else. Only values of models of
    the same data can be compared.
    """

    def measure(self, trained: Trained) -> float:
        test = torch.from_numpy(points_of(trained).to_measure(trained.seed, "points for the ELBO", TEST_POINTS))
        return grid_normalized_elbo(trained.model, test, 2 * points_of(trained).scale, SIDE)

    def details(self, found: Found) -> dict[str, Any]:
        data = points_of(found.trained)
        count = len(data.to_measure(found.trained.seed, "points for the ELBO", TEST_POINTS))
        return {"grid": SIDE, "extent": 2 * data.scale, "test_points": count}


def grid_normalized_elbo(model: Pretrained, test: Tensor, extent: float, side: int) -> float:
    """Of points [N, 2], with a grid of `side` points in each direction over [-extent, extent]^2."""
    axis = torch.linspace(-extent, extent, side, dtype=test.dtype)
    of_grid = -elbo(model, torch.cartesian_prod(axis, axis)).sum().item()
    of_test = -elbo(model, test).sum().item()
    return of_test / len(test) / (of_grid + of_test)
