import pytest
import torch
from torch import Tensor

from data_pipelines.images.ranges import to_unit
from sivae_dist.evaluation.metrics import METRICS, MeanMetric, Reconstructions


def errors(name: str, real: Tensor, reconstructed: Tensor) -> Tensor:
    """Of each image; both in [-1, 1]."""
    metric = METRICS[name]()
    assert isinstance(metric, MeanMetric)
    found: Tensor = metric.each(Reconstructions(to_unit(real), to_unit(reconstructed)))
    return found


def test_known_values() -> None:
    """In [0, 1]: a difference of 0.1 everywhere is an error of 0.01 and 20 dB."""
    real = torch.zeros(2, 3, 16, 16)
    pair = (real, torch.stack((real[0], real[1] + 0.2)))
    assert errors("mse", *pair).tolist() == pytest.approx([0, 0.01], abs=1e-7)
    assert errors("psnr", *pair)[1].item() == pytest.approx(20, abs=1e-4)
    ssim = errors("ssim", *pair)
    assert ssim[0].item() == pytest.approx(1)
    # Without structure only the luminance term is left: (2 a b + c1) / (a^2 + b^2 + c1), c1 = 0.01^2
    assert ssim[1].item() == pytest.approx((2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4), abs=1e-5)


def test_what_lies_outside_is_cut() -> None:
    real = torch.ones(1, 1, 8, 8)
    assert errors("mse", real, 3 * real).item() == 0
    assert METRICS["ssim"].least_resolution == 16
