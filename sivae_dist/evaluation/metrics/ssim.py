"""Structural similarity of reconstructions."""

from torch import Tensor

from sivae_dist.evaluation.metrics.base import MeanMetric, Reconstructions


class StructuralSimilarity(MeanMetric[Reconstructions]):
    """Mean over images of the structural similarity (Wang et al. 2004; Gaussian window of 11 px, sigma 1.5) of values
    in [0, 1], by torchmetrics."""

    needs = (Reconstructions,)
    least_resolution = 16  # its window has 11

    def each(self, batch: Reconstructions) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds

        similarity = structural_similarity_index_measure(
            batch.reconstructed, batch.real, data_range=1.0, reduction="none"
        )
        assert isinstance(similarity, Tensor)
        return similarity
