"""Mean squared error of reconstructions."""

from torch import Tensor

from sivae_dist.evaluation.metrics.base import MeanMetric, Reconstructions


class MeanSquaredError(MeanMetric[Reconstructions]):
    """Mean over images and values of the squared difference, of values in [0, 1]."""

    needs = (Reconstructions,)

    def each(self, batch: Reconstructions) -> Tensor:
        return (batch.reconstructed - batch.real).square().flatten(1).mean(1)
