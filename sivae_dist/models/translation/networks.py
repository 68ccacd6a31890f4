"""The networks of figure 8b. Kernels, strides and widths that the appendix leaves open are those of LORD's code."""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_pipelines.dataset import SAME_CLASS
from sivae_dist.models.base import Decoder, Encoder
from sivae_dist.models.layers import SLOPE, Conv2d, GrowingNetwork, Linear, StyledLayer, UpsampleConv2d, pass_through
from sivae_dist.models.stage import Cond

if TYPE_CHECKING:
    from sivae_dist.models.translation.settings import TranslationSettings

UPSAMPLINGS = 4
"""Of the decoder, which begins with as many halvings of the image's side."""


class ActiveConv2d(Conv2d):
    """A convolution and leaky ReLU, in place, so that nothing but its result is kept."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(super().forward(x), SLOPE)


class ActiveLinear(Linear):
    """A fully connected layer and leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(super().forward(x), SLOPE)


class CodeEncoder(nn.Module):
    """Images [B, C, R, R] -> mu and logvar of one group of z, side by side: [B, 2 latent]."""

    def __init__(self, settings: "TranslationSettings", latent: int) -> None:
        super().__init__()
        resolution, widths, units = settings.resolution, settings.widths, settings.hidden_units
        first = ActiveConv2d(settings.channels, widths[0], 7, equalized=False)
        others = (ActiveConv2d(before, after, 4, stride=2, equalized=False) for before, after in pairwise(widths))
        self.blocks = nn.ModuleDict({str(resolution >> k): block for k, block in enumerate((first, *others))})
        side = resolution >> (len(widths) - 1)
        self.hidden = nn.Sequential(
            ActiveLinear(widths[-1] * side * side, units, equalized=False), ActiveLinear(units, units, equalized=False)
        )
        self.posterior = Linear(units, 2 * latent, gain=1.0, equalized=False)


class TranslationEncoder(GrowingNetwork, Encoder):
    """Images [B, C, R, R] in [-1, 1] -> (mu, logvar), each [B, latent], in fp32 or wider.

    The two encoders share nothing, so that the KL divergence of a group is of one of them alone. That of the class sees
    `cond.extra[SAME_CLASS]` in the place of the image where it is given.
    """

    def __init__(self, settings: "TranslationSettings") -> None:
        super().__init__()
        self.settings = settings
        self.groups = settings.groups
        self.class_encoder = CodeEncoder(settings, settings.class_latent)
        self.content_encoder = CodeEncoder(settings, settings.content_latent)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        codes = self._code(self.class_encoder, cond.extra.get(SAME_CLASS, x)), self._code(self.content_encoder, x)
        mu, logvar = (torch.cat(parts, dim=1) for parts in zip(*(code.chunk(2, dim=1) for code in codes), strict=True))
        return mu, logvar

    def _code(self, encoder: CodeEncoder, x: Tensor) -> Tensor:
        for resolution, block in encoder.blocks.items():
            x = pass_through(block, x, recompute=self.recomputes(int(resolution), self.settings.resolution))
        out = encoder.posterior(encoder.hidden(x.flatten(1)))
        return out.to(torch.promote_types(out.dtype, torch.float32))


class StyledBlock(nn.Module):
    """Features [B, inputs, R/2, R/2] and class codes [B, class_latent] -> [B, outputs, R, R]."""

    def __init__(self, latent: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = UpsampleConv2d(inputs, outputs, equalized=False)
        self.layer = StyledLayer(latent, outputs, equalized=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.layer(self.up(x), code)


class TranslationDecoder(GrowingNetwork, Decoder):
    """z [B, latent] -> images [B, C, R, R], in fp32 or wider: the content code becomes feature maps, which the class
    code normalises."""

    def __init__(self, settings: "TranslationSettings") -> None:
        super().__init__()
        self.settings = settings
        width, side = settings.decoder_width, settings.resolution >> UPSAMPLINGS
        self.entered = width, side, side
        sizes = [settings.content_latent, *(side * side * width // part for part in (8, 4, 1))]
        self.entry = nn.Sequential(*(ActiveLinear(before, after, equalized=False) for before, after in pairwise(sizes)))
        self.blocks = nn.ModuleDict(
            {str(side << k): StyledBlock(settings.class_latent, width, width) for k in range(1, UPSAMPLINGS + 1)}
        )
        self.last = ActiveConv2d(width, settings.last_width, 5, equalized=False)
        self.to_rgb = Conv2d(settings.last_width, settings.channels, 7, gain=1.0, equalized=False)

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        """There is no `noise` to take."""
        code, content = z.split(list(self.settings.groups.values()), dim=1)
        x = self.entry(content).unflatten(1, self.entered).contiguous(memory_format=self.map_format)
        for resolution, block in self.blocks.items():
            x = pass_through(block, x, code, recompute=self.recomputes(int(resolution), self.settings.resolution))
        image = self.to_rgb(pass_through(self.last, x, recompute=self.checkpoint_activations))
        if self.settings.output == "tanh":
            image = torch.tanh(image)
        return image.to(torch.promote_types(image.dtype, torch.float32))
