"""Settings of the networks for image translation, and the choices that follow from them."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from data_pipelines.dataset import SAME_CLASS
from sivae_dist.models.base import ModelSettings
from sivae_dist.models.translation.networks import UPSAMPLINGS, TranslationDecoder, TranslationEncoder


class TranslationSettings(ModelSettings):
    """Two encoders, of an image's class and of its content, and one decoder (appendix 9.3, after LORD)."""

    saved_whole: ClassVar[bool] = True

    name: Literal["translation"] = "translation"
    """The family of networks."""
    resolution: int = 64
    """Pixels of the images, a power of two from 32 to 256."""
    channels: int = Field(3, ge=1)
    """Colour channels of the images."""
    class_latent: int = Field(256, ge=1)
    """Dimensions of z's first group, `class`."""
    content_latent: int = Field(128, ge=1)
    """Dimensions of its second group, `content`."""
    class_from: Literal["another", "itself"] = "another"
    """The image that the class encoder sees beside a real one in training. `another`: one of the same class, drawn
    anew each time, so that a class code holds nothing but the class; the data set must have labels. `itself`: the image
    itself."""
    widths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=4, max_length=4)] = [64, 128, 256, 256]
    """Feature maps of the four convolutions of each encoder; all but the first halve the pixels."""
    hidden_units: int = Field(256, ge=1)
    """Units of the first two fully connected layers of each encoder."""
    decoder_width: int = Field(256, ge=8)
    """Feature maps of the decoder's first four convolutions, those with AdaIN; a multiple of 8."""
    last_width: int = Field(64, ge=1)
    """Feature maps of its fifth convolution; the sixth makes the image."""
    output: Literal["linear", "tanh"] = "tanh"
    """Activation of the image; `tanh` keeps it inside [-1, 1]."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        resolution = self.resolution
        if resolution & (resolution - 1) or not 32 <= resolution <= 256:
            raise ValueError(f"resolution {resolution} is not a power of two from 32 to 256")
        if self.decoder_width % 8:
            raise ValueError(f"decoder_width {self.decoder_width} is not a multiple of 8")
        return self

    @property
    def latent(self) -> int:
        """Dimensions of z, of both groups together."""
        return sum(self.groups.values())

    @property
    def groups(self) -> Mapping[str, int]:
        return {"class": self.class_latent, "content": self.content_latent}

    @property
    def inputs(self) -> tuple[str, ...]:
        return (SAME_CLASS,) if self.class_from == "another" else ()

    @property
    def resolutions(self) -> list[int]:
        """The final one alone."""
        return [self.resolution]

    @property
    def bounded(self) -> bool:
        return self.output == "tanh"

    def shape(self, resolution: int) -> tuple[int, int, int]:
        return self.channels, resolution, resolution

    def feature_values(self, resolution: int) -> int:
        """Values of an image's feature maps in the decoder; activations are proportional."""
        maps = [self.decoder_width * (resolution >> k) ** 2 for k in range(UPSAMPLINGS)]
        return sum(maps) + self.last_width * resolution**2

    def networks(self) -> tuple[TranslationEncoder, TranslationDecoder]:
        return TranslationEncoder(self), TranslationDecoder(self)
