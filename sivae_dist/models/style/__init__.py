"""The style-based, progressively growing encoder and decoder of appendix 9.2.2 (figure 8c)."""

from sivae_dist.models.style.decoder import StyleDecoder
from sivae_dist.models.style.encoder import StyleEncoder
from sivae_dist.models.style.settings import StyleSettings

__all__ = ["StyleDecoder", "StyleEncoder", "StyleSettings"]
