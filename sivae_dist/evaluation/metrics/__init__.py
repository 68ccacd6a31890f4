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
)
from sivae_dist.evaluation.metrics.fid import FrechetDistance
from sivae_dist.evaluation.metrics.kid import KernelDistance
from sivae_dist.evaluation.metrics.mse import MeanSquaredError
from sivae_dist.evaluation.metrics.psnr import PeakSignalNoiseRatio
from sivae_dist.evaluation.metrics.ssim import StructuralSimilarity

METRICS: Registry[type[Metric]] = Registry(
    "metric",
    {
        "fid": FrechetDistance,
        "kid": KernelDistance,
        "psnr": PeakSignalNoiseRatio,
        "ssim": StructuralSimilarity,
        "mse": MeanSquaredError,
    },
)

USUAL_METRICS = ("fid", "psnr", "ssim", "mse")
"""What is measured unless something else is asked for."""

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
]
