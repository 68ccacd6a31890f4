"""The encoder: every layer extracts a style, their weighted sum is mapped to the Gaussian of z (appendix 9.2.2)."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.models.base import Encoder
from sivae_dist.models.conditional import ClassEmbedding
from sivae_dist.models.layers import (
    Blur,
    Conv2d,
    DownsampleConv2d,
    GrowingNetwork,
    Linear,
    activate,
    activate_and_normalize,
    pass_through,
)
from sivae_dist.models.stage import Cond, Stage

if TYPE_CHECKING:
    from sivae_dist.models.style.settings import StyleSettings

NORM_EPS = 1e-5
STD_EPS = 1e-8
"""The authors take sqrt(variance) bare, whose gradient is infinite on a constant image."""


class EncoderBlock(nn.Module):
    """Features [B, inputs, R, R] -> ([B, outputs, R/2, R/2], style [B, latent])."""

    def __init__(self, settings: "StyleSettings", resolution: int) -> None:
        super().__init__()
        inputs, outputs = settings.width(resolution), settings.width(resolution // 2)
        equalized = settings.equalized
        self.conv1 = Conv2d(inputs, inputs, 3, equalized=equalized)
        self.style1 = Linear(2 * inputs, settings.latent, gain=1.0, equalized=equalized)
        self.blur = Blur() if settings.blur else nn.Identity()
        self.conv2 = DownsampleConv2d(inputs, outputs, equalized=equalized)
        self.bias2 = nn.Parameter(torch.zeros(outputs))
        self.style2 = Linear(2 * outputs, settings.latent, gain=1.0, equalized=equalized)

    @staticmethod
    def _extract(x: Tensor, style: Linear, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The statistics of leaky_relu(x + bias) as a style, and the same without them."""
        x, mean, variance = activate_and_normalize(x, bias=bias, eps=NORM_EPS)
        return x, style(torch.cat((mean, torch.sqrt(variance + STD_EPS)), dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, first = self._extract(self.conv1(x), self.style1)
        x, second = self._extract(self.conv2(self.blur(x)), self.style2, self.bias2)
        return x, first + second


class PosteriorMapping(nn.Module):
    """Summed styles [B, latent], with the vectors of the labels beside them where there are classes -> (mu, logvar),
    each [B, latent], in fp32 or wider."""

    def __init__(self, settings: "StyleSettings") -> None:
        super().__init__()
        latent, depth = settings.latent, settings.encoder_mapping
        equalized, lr_factor = settings.equalized, settings.mapping_lr_factor
        self.rectified = settings.official
        self.embedding: ClassEmbedding | None = None
        if settings.classes:
            self.embedding = ClassEmbedding(settings.classes, latent, equalized=equalized, lr_factor=lr_factor)
        self.layers = nn.ModuleList(
            Linear(
                2 * latent if layer == 0 and settings.classes else latent,
                latent if layer < depth - 1 else 2 * latent,
                gain=math.sqrt(2) if layer < depth - 1 or settings.official else 1.0,
                equalized=equalized,
                lr_factor=lr_factor,
            )
            for layer in range(depth)
        )

    def forward(self, w: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        if self.embedding is not None:
            w = self.embedding.beside(w, cond)
        for layer in self.layers[:-1]:
            w = activate(layer(w))
        out = self.layers[-1](w)
        if self.rectified:
            out = activate(out)
        mu, logvar = out.to(torch.promote_types(out.dtype, torch.float32)).chunk(2, dim=1)
        return mu, logvar


class StyleEncoder(GrowingNetwork, Encoder):
    """Images [B, C, R, R] in [-1, 1] -> (mu, logvar), each [B, latent].

    All blocks exist from the start; the stage says which are used.
    """

    recomputed = 2
    """A third one would take as much time again and save 5% of a step's activations."""

    def __init__(self, settings: "StyleSettings") -> None:
        super().__init__()
        self.settings = settings
        self.from_rgb = nn.ModuleDict(
            {
                str(r): Conv2d(settings.channels, settings.width(r), 1, equalized=settings.equalized)
                for r in settings.resolutions
            }
        )
        self.blocks = nn.ModuleDict({str(r): EncoderBlock(settings, r) for r in settings.resolutions})
        self.mapping = PosteriorMapping(settings)

    def _from_rgb(self, x: Tensor, resolution: int) -> Tensor:
        x = activate(self.from_rgb[str(resolution)](x))
        return activate(x) if self.settings.official else x

    def _pass(self, x: Tensor, resolution: int, stage: Stage) -> tuple[Tensor, Tensor]:
        recompute = self.recomputes(resolution, stage.resolution)
        features, style = pass_through(self.blocks[str(resolution)], x, recompute=recompute)
        return features, style

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        stage, resolution = cond.stage, cond.stage.resolution
        features, w = self._pass(self._from_rgb(x, resolution), resolution, stage)
        if stage.blend is not None:
            below = self._from_rgb(F.avg_pool2d(x, 2), resolution // 2)
            blend = stage.blend.to(features.dtype)
            features, w = torch.lerp(below.to(features.dtype), features, blend), w * blend
        while resolution > 4:
            resolution //= 2
            features, style = self._pass(features, resolution, stage)
            w = w + style
        mu, logvar = self.mapping(w, cond)
        return mu, logvar

    def parts_in_use(self, resolution: int, blending: bool) -> list[nn.Module]:
        """The submodules that a pass at this stage goes through."""
        used: list[nn.Module] = [self.mapping, self.from_rgb[str(resolution)]]
        used += [self.blocks[str(r)] for r in self.settings.resolutions if r <= resolution]
        return [*used, self.from_rgb[str(resolution // 2)]] if blending else used
