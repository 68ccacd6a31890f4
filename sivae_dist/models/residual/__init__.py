"""IntroVAE's residual encoder and decoder (appendix 9.2.2, table 6), at one resolution from the start."""

from sivae_dist.models.residual.networks import ResidualDecoder, ResidualEncoder
from sivae_dist.models.residual.settings import ResidualSettings

__all__ = ["ResidualDecoder", "ResidualEncoder", "ResidualSettings"]
