"""How far reconstructions are from what they reconstruct, image by image."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from sivae_dist.use.figures import to_unit

_SSIM_LEAST = 16
"""Pixels; its window has 11."""


def metrics_at(resolution: int) -> tuple[str, ...]:
    """What `errors` gives for images of this resolution."""
    return ("mse", "psnr", "ssim") if resolution >= _SSIM_LEAST else ("mse", "psnr")


def errors(real: Tensor, reconstructed: Tensor) -> dict[str, Tensor]:
    """PSNR (dB), SSIM (Gaussian window of 11 px, sigma 1.5; from 16 px on) and the mean squared error of each image,
    fp64 [B]. Both are [B, C, R, R] in [-1, 1]; values are compared in [0, 1], reconstructions cut to it."""
    a, b = to_unit(reconstructed), to_unit(real)
    values = {
        "mse": (a - b).square().flatten(1).mean(1),
        "psnr": peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3)),
    }
    if "ssim" in metrics_at(real.shape[-1]):
        ssim = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(ssim, Tensor)
        values["ssim"] = ssim
    return {name: value.double() for name, value in values.items()}
