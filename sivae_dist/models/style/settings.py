"""Settings of the style-based networks, and the choices that follow from them."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from sivae_dist.models.conditional import ConditionalSettings
from sivae_dist.models.style.decoder import StyleDecoder
from sivae_dist.models.style.encoder import StyleEncoder


class StyleSettings(ConditionalSettings):
    """The style-based encoder and decoder of appendix 9.2.2, which grow from 4x4 pixels."""

    saved_whole: ClassVar[bool] = True

    name: Literal["style"] = "style"
    """The family of networks."""
    variant: Literal["paper", "official"] = "paper"
    """`paper`: appendix 9.2.2 as printed. `official`: as in the authors' code, which also normalises the length of z
    before the decoder's mapping, applies leaky ReLU to mu and logvar, and applies it twice in FromRGB."""
    resolution: int = 256
    """Pixels of the final images, a power of two from 4 to 1024."""
    channels: int = Field(3, ge=1)
    """Colour channels of the images."""
    latent: int = Field(512, ge=1)
    """Dimensions of z and of w."""
    base_width: int = Field(64, ge=1)
    """Feature maps at the final resolution; doubled at every halving up to max_width."""
    max_width: int = Field(512, ge=1)
    """Most feature maps at any resolution."""
    encoder_mapping: int = Field(3, ge=1)
    """Fully connected layers from the summed styles to mu and logvar."""
    decoder_mapping: int = Field(8, ge=1)
    """Fully connected layers from z to w."""
    equalized: bool = True
    """Equalised learning rate: stored weights are N(0, 1) and scaled at run time; otherwise He initialisation."""
    mapping_lr_factor: float = Field(0.1, gt=0)
    """Relative learning rate of both mapping networks."""
    to_rgb_gain: float = Field(0.03, gt=0)
    """Initial scale of the layers that make the image; 0.03 starts from grey."""
    blur: bool = True
    """The [1, 2, 1] filter beside every up- and down-sampling."""
    noise: bool = True
    """Per-pixel noise with a learned strength (0 at first) after every convolution of the decoder."""
    output: Literal["linear", "tanh"] = "linear"
    """Activation of the image; `tanh` keeps it inside [-1, 1], as BCE needs."""

    @field_validator("resolution")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1) or not 4 <= value <= 1024:
            raise ValueError(f"resolution {value} is not a power of two from 4 to 1024")
        return value

    @property
    def official(self) -> bool:
        return self.variant == "official"

    @property
    def styled(self) -> bool:
        return True

    @property
    def bounded(self) -> bool:
        return self.output == "tanh"

    @property
    def fewest_tensors(self) -> int:
        return self.encoder_mapping + self.decoder_mapping

    def shape(self, resolution: int) -> tuple[int, int, int]:
        return self.channels, resolution, resolution

    def networks(self) -> tuple[StyleEncoder, StyleDecoder]:
        return StyleEncoder(self), StyleDecoder(self)

    def width(self, resolution: int) -> int:
        """Feature maps at `resolution` (2, which the encoder's last block reaches, included)."""
        return min(self.max_width, self.base_width * (self.resolution // resolution))

    def feature_values(self, resolution: int) -> int:
        """Values of an image's feature maps, one per block, up to `resolution`; activations are proportional."""
        return sum(self.width(r) * r * r for r in self.resolutions if r <= resolution)

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ... up to the final one."""
        return [2**k for k in range(2, self.resolution.bit_length())]
