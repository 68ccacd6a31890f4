"""Image translation: an encoder of the class, one of the content, and a decoder of both (appendix 9.3, figure 8b)."""

from sivae_dist.models.translation.networks import TranslationDecoder, TranslationEncoder
from sivae_dist.models.translation.settings import TranslationSettings

__all__ = ["TranslationDecoder", "TranslationEncoder", "TranslationSettings"]
