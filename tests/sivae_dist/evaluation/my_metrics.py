"""Metrics and a feature extractor from outside the package, as a user would add them."""

import torch
from torch import Tensor, nn

from sivae_dist.evaluation.extractors import EXTRACTORS, Extractor, ExtractorKind
from sivae_dist.evaluation.metrics import METRICS, Found, MeanMetric, Metric, RealImages, Samples


@METRICS.add("sharpness")
class Sharpness(MeanMetric[Samples]):
    """Mean difference of neighbouring pixels of samples, 0..255."""

    needs = (Samples,)

    def each(self, batch: Samples) -> Tensor:
        return batch.images.double().diff(dim=3).abs().mean((1, 2, 3))


@METRICS.add("brightness")
class BrightnessDifference(Metric):
    """How much brighter samples are than real images, 0..255."""

    needs = (Samples, RealImages)
    sums = 2

    def add(self, batch: Samples | RealImages) -> Tensor:  # type: ignore[override]
        pixels = batch.images.double()
        return torch.stack((pixels.sum(), pixels.new_tensor(pixels.numel())))

    def value(self, found: Found) -> float:
        samples, real = (found.total(need).sums for need in (Samples, RealImages))
        return (samples[0] / samples[1] - real[0] / real[1]).item()

    def details(self, found: Found) -> dict[str, int]:
        return {"values": int(found.total(Samples).sums[1])}


@METRICS.add("careless")
class Careless(Metric):
    """Returns other sums than it announces: one of each colour, in single precision."""

    needs = (Samples,)
    sums = 1

    def add(self, batch: Samples) -> Tensor:  # type: ignore[override]
        return batch.images.float().mean((0, 2, 3))

    def value(self, found: Found) -> float:
        return 0.0


class Colours(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.float().mean((2, 3)),)


@EXTRACTORS.add("colours")
class ColourExtractor(ExtractorKind):
    """The mean of each colour."""

    def load(self, device: torch.device) -> Extractor:
        return Extractor("colours", "none", "3", False, Colours())
