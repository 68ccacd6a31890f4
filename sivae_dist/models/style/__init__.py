"""The style-based, progressively growing encoder and decoder of appendix 9.2.2 (figure 8c)."""

import torch

from sivae_dist.models.style.decoder import StyleDecoder
from sivae_dist.models.style.encoder import StyleEncoder
from sivae_dist.models.style.settings import StyleSettings


def build(settings: StyleSettings, seed: int) -> tuple[StyleEncoder, StyleDecoder]:
    """Both networks on the CPU, their initial weights a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleEncoder(settings), StyleDecoder(settings)


__all__ = ["StyleDecoder", "StyleEncoder", "StyleSettings", "build"]
