"""The layer after a convolution of a decoder with styles."""

import torch
from torch import Tensor, nn

from sivae_dist.models.layers.normalization import activate_and_normalize
from sivae_dist.models.layers.scaled import Linear

NORM_EPS = 1e-8


class StyledLayer(nn.Module):
    """Noise, bias, activation, and AdaIN with a style: x [B, width, H, W] and w [B, latent] -> [B, width, H, W]."""

    def __init__(self, latent: int, width: int, *, noise: bool = False, equalized: bool) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(width)) if noise else None
        self.bias = nn.Parameter(torch.zeros(width))
        self.style = Linear(latent, 2 * width, gain=1.0, equalized=equalized)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        style = self.style(w)
        scale, shift = style.to(torch.promote_types(style.dtype, torch.float32)).chunk(2, dim=1)
        strength = None if noise is None else self.noise_strength
        return activate_and_normalize(
            x, noise=noise, strength=strength, bias=self.bias, scale=scale, offset=shift, eps=NORM_EPS
        )[0]
