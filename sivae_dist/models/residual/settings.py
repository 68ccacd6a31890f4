"""Settings of the residual networks, and the choices that follow from them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sivae_dist.models.conditional import ConditionalSettings
from sivae_dist.models.residual.networks import ResidualDecoder, ResidualEncoder


class ResidualSettings(ConditionalSettings):
    """IntroVAE's residual encoder and decoder (appendix 9.2.2, table 6)."""

    saved_whole: ClassVar[bool] = True

    name: Literal["residual"] = "residual"
    """The family of networks."""
    variant: Literal["paper", "official"] = "paper"
    """`paper`: a block normalises after its addition, as IntroVAE's code does. `official`: before it, as in the
    authors' code."""
    resolution: int = 32
    """Pixels of the images, a power of two from 8 to 1024."""
    channels: int = Field(3, ge=1)
    """Colour channels of the images."""
    latent: int = Field(128, ge=1)
    """Dimensions of z."""
    widths: list[Annotated[int, Field(ge=1)]] = [64, 128, 256]
    """Feature maps from the images inwards, one number for every halving down to 4x4 pixels: of the 5x5 convolution,
    then of each block; the innermost block has the last number too."""
    norm: Literal["batch", "group", "none"] = "batch"
    """After every convolution of blocks, and after the encoder's first one. `batch`: over all images of a pass, of all
    processes together; outside of training, by running statistics. `group`: over groups of 16 feature maps of an image,
    or of fewer where 16 does not divide their number. `none`: a bias alone."""
    track: Literal["real", "all"] = "real"
    """The passes that running statistics are of. `real`: E(X) and D(Z), of real images. `all`: every one in training,
    as in the authors' code, those of generated images included."""
    output: Literal["linear", "tanh"] = "linear"
    """Activation of the image; `tanh` keeps it inside [-1, 1], as BCE needs."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        resolution = self.resolution
        if resolution & (resolution - 1) or not 8 <= resolution <= 1024:
            raise ValueError(f"resolution {resolution} is not a power of two from 8 to 1024")
        if len(self.widths) != (halvings := resolution.bit_length() - 3):
            raise ValueError(
                f"widths has {len(self.widths)} numbers, but it takes {halvings} halvings from {resolution} px to 4"
            )
        return self

    @property
    def resolutions(self) -> list[int]:
        """The final one alone."""
        return [self.resolution]

    @property
    def batch_statistics(self) -> bool:
        return self.norm == "batch"

    @property
    def bounded(self) -> bool:
        return self.output == "tanh"

    def shape(self, resolution: int) -> tuple[int, int, int]:
        return self.channels, resolution, resolution

    def feature_values(self, resolution: int) -> int:
        """Values of an image's feature maps, one per block; activations are proportional."""
        return sum(width * (resolution >> k) ** 2 for k, width in enumerate(self.inwards))

    @property
    def inwards(self) -> list[int]:
        """Feature maps of the blocks from the images to 4x4 pixels."""
        return [*self.widths, self.widths[-1]]

    @property
    def entered(self) -> tuple[int, int, int]:
        """Shape of the maps at 4x4 pixels, between the blocks and the fully connected layers."""
        return self.widths[-1], 4, 4

    def networks(self) -> tuple[ResidualEncoder, ResidualDecoder]:
        return ResidualEncoder(self), ResidualDecoder(self)
