"""Settings of the fully connected networks."""

from typing import ClassVar, Literal

from pydantic import Field

from data_pipelines.stages import ONLY_STAGE
from sivae_dist.models.base import ModelSettings
from sivae_dist.models.mlp.networks import MlpDecoder, MlpEncoder


class MlpSettings(ModelSettings):
    """Fully connected encoder and decoder with ReLU, for vectors (appendix 9.2.1)."""

    saved_whole: ClassVar[bool] = True

    name: Literal["mlp"] = "mlp"
    """The family of networks."""
    features: int = Field(2, ge=1)
    """Dimensions of the data."""
    latent: int = Field(2, ge=1)
    """Dimensions of z."""
    hidden_layers: int = Field(3, ge=1)
    """Hidden layers of each network: the paper's 3. The authors' code has 4, so that five layers are linear."""
    hidden_units: int = Field(256, ge=1)
    """Units of each of them."""

    @property
    def resolutions(self) -> list[int]:
        return [ONLY_STAGE]

    def shape(self, resolution: int) -> tuple[int]:
        return (self.features,)

    def feature_values(self, resolution: int) -> int:
        return self.hidden_layers * self.hidden_units

    def networks(self) -> tuple[MlpEncoder, MlpDecoder]:
        return MlpEncoder(self), MlpDecoder(self)
