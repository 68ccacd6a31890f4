"""Fully connected encoder and decoder of vectors, such as points in the plane (appendix 9.2.1)."""

from sivae_dist.models.mlp.networks import MlpDecoder, MlpEncoder
from sivae_dist.models.mlp.settings import MlpSettings

__all__ = ["MlpDecoder", "MlpEncoder", "MlpSettings"]
