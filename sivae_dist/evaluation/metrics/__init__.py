"""The metrics; base.py says how to add one."""

from data_pipelines.choices import Registry
from sivae_dist.evaluation.metrics.base import (
    Batch,
    Features,
    Found,
    MeanMetric,
    Metric,
    Need,
    RealImages,
    Reconstructions,
    Samples,
    Total,
    Trained,
)
from sivae_dist.evaluation.metrics.fid import FrechetDistance
from sivae_dist.evaluation.metrics.kid import KernelDistance
from sivae_dist.evaluation.metrics.mse import MeanSquaredError
from sivae_dist.evaluation.metrics.points.gnelbo import GridNormalizedElbo
from sivae_dist.evaluation.metrics.points.histograms import (
    HistogramDivergence,
    HistogramJensenShannon,
    OfficialDivergence,
    OfficialJensenShannon,
)
from sivae_dist.evaluation.metrics.points.modes import HighQuality, ModesCovered
from sivae_dist.evaluation.metrics.psnr import PeakSignalNoiseRatio
from sivae_dist.evaluation.metrics.ssim import StructuralSimilarity
from sivae_dist.evaluation.metrics.translation.content_transfer import (
    ContentTransfer,
    PerceptualTransfer,
    RandomPerceptualTransfer,
)
from sivae_dist.evaluation.metrics.translation.probes import ClassFromContent, ContentFromClass
from sivae_dist.evaluation.metrics.vgg import PerceptualDistance, RandomPerceptualDistance

METRICS: Registry[type[Metric]] = Registry(
    "metric",
    {
        "fid": FrechetDistance,
        "kid": KernelDistance,
        "psnr": PeakSignalNoiseRatio,
        "ssim": StructuralSimilarity,
        "mse": MeanSquaredError,
        "vgg_distance": PerceptualDistance,
        "vgg_random_distance": RandomPerceptualDistance,
        "gnelbo": GridNormalizedElbo,
        "kl_official": OfficialDivergence,
        "jsd_official": OfficialJensenShannon,
        "kl_histogram": HistogramDivergence,
        "jsd_histogram": HistogramJensenShannon,
        "modes": ModesCovered,
        "high_quality": HighQuality,
        "content_transfer": ContentTransfer,
        "content_transfer_vgg": PerceptualTransfer,
        "content_transfer_vgg_random": RandomPerceptualTransfer,
        "class_from_content": ClassFromContent,
        "content_from_class": ContentFromClass,
    },
)

USUAL_METRICS = (
    *("fid", "psnr", "ssim", "mse"),
    *("gnelbo", "kl_official", "jsd_official", "kl_histogram", "jsd_histogram", "modes", "high_quality"),
)
"""What is measured unless something else is asked for: those of these that the data have what it takes for."""

__all__ = [
    "METRICS",
    "USUAL_METRICS",
    "Batch",
    "Features",
    "Found",
    "MeanMetric",
    "Metric",
    "Need",
    "RealImages",
    "Reconstructions",
    "Samples",
    "Total",
    "Trained",
]
