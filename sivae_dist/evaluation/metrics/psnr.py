"""Peak signal-to-noise ratio of reconstructions."""

from torch import Tensor

from sivae_dist.evaluation.metrics.base import MeanMetric, Reconstructions


class PeakSignalNoiseRatio(MeanMetric[Reconstructions]):
    """Mean over images of the peak signal-to-noise ratio (dB) of values in [0, 1], by torchmetrics."""

    needs = (Reconstructions,)

    def each(self, batch: Reconstructions) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio  # takes seconds

        return peak_signal_noise_ratio(batch.reconstructed, batch.real, data_range=1.0, reduction="none", dim=(1, 2, 3))
