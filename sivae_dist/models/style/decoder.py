"""The decoder: z is mapped to a style w that drives every layer through AdaIN (appendix 9.2.2, after StyleGAN)."""

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.models.base import Decoder
from sivae_dist.models.conditional import ClassEmbedding
from sivae_dist.models.layers import (
    Blur,
    Conv2d,
    GrowingNetwork,
    Linear,
    StyledLayer,
    UpsampleConv2d,
    activate,
    compute_type,
    pass_through,
    pixel_norm,
)
from sivae_dist.models.stage import Cond

if TYPE_CHECKING:
    from sivae_dist.models.style.settings import StyleSettings


class DecoderBlock(nn.Module):
    """Features [B, inputs, R/2, R/2] -> [B, outputs, R, R]; the first block starts from its learned 4x4 constant."""

    def __init__(self, settings: "StyleSettings", resolution: int) -> None:
        super().__init__()
        width = settings.width(resolution)
        self.up: UpsampleConv2d | None = None
        if resolution == 4:
            self.constant = nn.Parameter(torch.ones(1, width, 4, 4))
        else:
            self.up = UpsampleConv2d(settings.width(resolution // 2), width, equalized=settings.equalized)
        self.blur = Blur() if settings.blur else nn.Identity()
        layer = partial(StyledLayer, settings.latent, width, noise=settings.noise, equalized=settings.equalized)
        self.layer1 = layer()
        self.conv2 = Conv2d(width, width, 3, equalized=settings.equalized, bias=False)
        self.layer2 = layer()

    def forward(
        self,
        x: Tensor | None,
        w: tuple[Tensor, Tensor],
        noise: tuple[Tensor | None, ...],
        map_format: torch.memory_format = torch.channels_last,
    ) -> Tensor:
        if self.up is None or x is None:
            x = self.constant.to(compute_type(w[0])).expand(w[0].shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=map_format)
        else:
            x = self.blur(self.up(x))
        x = self.layer1(x, w[0], noise[0])
        return self.layer2(self.conv2(x), w[1], noise[1])


class StyleMapping(nn.Module):
    """z [B, latent], with the vectors of its labels beside it where there are classes -> w [B, latent]."""

    def __init__(self, settings: "StyleSettings") -> None:
        super().__init__()
        latent, equalized, lr_factor = settings.latent, settings.equalized, settings.mapping_lr_factor
        self.direction_only = settings.official
        self.embedding: ClassEmbedding | None = None
        if settings.classes:
            self.embedding = ClassEmbedding(settings.classes, latent, equalized=equalized, lr_factor=lr_factor)
        self.layers = nn.ModuleList(
            Linear(
                2 * latent if layer == 0 and settings.classes else latent,
                latent,
                equalized=equalized,
                lr_factor=lr_factor,
            )
            for layer in range(settings.decoder_mapping)
        )

    def forward(self, z: Tensor, cond: Cond) -> Tensor:
        if self.direction_only:
            z = pixel_norm(z)
        if self.embedding is not None:
            z = self.embedding.beside(z, cond)
        for layer in self.layers:
            z = activate(layer(z))
        return z


class _Mapped(nn.Module):
    """In the place of a mapping, for inputs that are w already."""

    def forward(self, w: Tensor, cond: Cond) -> Tensor:
        return w


class StyleDecoder(GrowingNetwork, Decoder):
    """z [B, latent] -> images [B, C, R, R] around [-1, 1], in fp32 or wider.

    All blocks exist from the start; the stage says which are used.
    """

    def __init__(self, settings: "StyleSettings") -> None:
        super().__init__()
        self.settings = settings
        self.mapping = StyleMapping(settings)
        self.blocks = nn.ModuleDict({str(r): DecoderBlock(settings, r) for r in settings.resolutions})
        self.to_rgb = nn.ModuleDict(
            {
                str(r): Conv2d(
                    settings.width(r),
                    settings.channels,
                    1,
                    gain=settings.to_rgb_gain,
                    equalized=settings.equalized,
                )
                for r in settings.resolutions
            }
        )

    def behind_mapping(self) -> "StyleDecoder":
        """A decoder of the same layers that takes w in the place of z."""
        shared = {id(part): part for part in (self.blocks, self.to_rgb)}
        return deepcopy(self, {**shared, id(self.mapping): _Mapped()})

    def noise_size(self, resolution: int) -> int:
        """Noise values that one image takes: two maps per block; 0 when the model has no noise."""
        return sum(2 * r * r for r in self.settings.resolutions if r <= resolution) if self.settings.noise else 0

    def layer_count(self, resolution: int) -> int:
        """Styled layers in use, among which style mixing chooses its crossover."""
        return 2 * sum(r <= resolution for r in self.settings.resolutions)

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        """`noise` is flat, [B, noise_size(resolution)], from N(0, 1); None leaves it out, its mean."""
        stage, mixing = cond.stage, cond.mixing
        w = self.mapping(z, cond)
        other = self.mapping(mixing.z, cond) if mixing is not None else w
        in_use = [r for r in self.settings.resolutions if r <= stage.resolution]
        x: Tensor | None = None
        below: Tensor | None = None
        taken = 0
        for index, resolution in enumerate(in_use):
            below = x
            styles: list[Tensor] = []
            maps: list[Tensor | None] = []
            for layer in (2 * index, 2 * index + 1):
                style = w
                if mixing is not None:
                    style = torch.where((layer < mixing.cutoff)[:, None], w, other)
                styles.append(style)
                if noise is None or not self.settings.noise:
                    maps.append(None)
                else:
                    size = resolution * resolution
                    maps.append(noise[:, taken : taken + size].unflatten(1, (1, resolution, resolution)))
                    taken += size
            x = pass_through(
                self.blocks[str(resolution)],
                x,
                (styles[0], styles[1]),
                tuple(maps),
                self.map_format,
                recompute=self.recomputes(resolution, stage.resolution),
            )
        assert x is not None
        image = self.to_rgb[str(stage.resolution)](x)
        if stage.blend is not None:
            assert below is not None
            coarse = F.interpolate(self.to_rgb[str(stage.resolution // 2)](below), scale_factor=2, mode="nearest")
            # On a GPU autocast interpolates in fp32, and what is blended has to be of one type.
            image = torch.lerp(coarse.to(image.dtype), image, stage.blend.to(image.dtype))
        if self.settings.output == "tanh":
            image = torch.tanh(image)
        return image.to(torch.promote_types(image.dtype, torch.float32))

    def parts_in_use(self, resolution: int, blending: bool) -> list[nn.Module]:
        """The submodules that a pass at this stage goes through."""
        used: list[nn.Module] = [self.mapping, self.to_rgb[str(resolution)]]
        used += [self.blocks[str(r)] for r in self.settings.resolutions if r <= resolution]
        return [*used, self.to_rgb[str(resolution // 2)]] if blending else used
