import pytest
import torch

from sivae_dist.evaluation.reconstruction import errors


def test_known_values() -> None:
    """In [0, 1]: a difference of 0.1 everywhere is an error of 0.01 and 20 dB."""
    real = torch.zeros(2, 3, 16, 16)
    found = errors(real, torch.stack((real[0], real[1] + 0.2)))
    assert found["mse"].tolist() == pytest.approx([0, 0.01], abs=1e-7)
    assert found["psnr"][1].item() == pytest.approx(20, abs=1e-4)
    assert found["ssim"][0].item() == pytest.approx(1)
    # Without structure only the luminance term is left: (2 a b + c1) / (a^2 + b^2 + c1), c1 = 0.01^2
    assert found["ssim"][1].item() == pytest.approx((2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4), abs=1e-5)


def test_what_lies_outside_is_cut() -> None:
    real = torch.ones(1, 1, 8, 8)
    assert errors(real, 3 * real)["mse"].item() == 0
    assert "ssim" not in errors(real, real)
