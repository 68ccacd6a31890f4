"""Networks. Nothing here knows of processes, optimizers or files; base.py is the contract."""

from typing import Annotated

from data_pipelines.choices import Registry, one_of
from sivae_dist.models.base import Decoder, Encoder, ModelSettings
from sivae_dist.models.conditional import ConditionalSettings
from sivae_dist.models.mlp.settings import MlpSettings
from sivae_dist.models.residual.settings import ResidualSettings
from sivae_dist.models.stage import Cond, Mixing, Stage
from sivae_dist.models.style.settings import StyleSettings
from sivae_dist.models.translation.settings import TranslationSettings

MODELS: Registry[type[ModelSettings]] = Registry(
    "model",
    {"style": StyleSettings, "residual": ResidualSettings, "mlp": MlpSettings, "translation": TranslationSettings},
)
AnyModel = Annotated[ModelSettings, one_of(MODELS, default="style")]

__all__ = [
    "MODELS",
    "AnyModel",
    "Cond",
    "ConditionalSettings",
    "Decoder",
    "Encoder",
    "Mixing",
    "ModelSettings",
    "Stage",
]
