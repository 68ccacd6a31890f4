"""The encoder and the decoder of table 6: blocks between 4x4 pixels and the images, and a fully connected layer."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.models.base import Decoder, Encoder
from sivae_dist.models.conditional import one_hot
from sivae_dist.models.layers import Conv2d, GrowingNetwork, Linear, pass_through
from sivae_dist.models.residual.blocks import ResidualBlock, Stem
from sivae_dist.models.stage import Cond

if TYPE_CHECKING:
    from sivae_dist.models.residual.settings import ResidualSettings


class _Network(GrowingNetwork):
    """Where there are classes, one-hot labels stand beside what the fully connected layer takes, as the authors' code
    provides for."""

    def __init__(self, settings: "ResidualSettings") -> None:
        super().__init__()
        self.settings = settings
        self.concatenates = not settings.batch_statistics
        self.tracks_statistics = settings.batch_statistics

    def with_labels(self, x: Tensor, cond: Cond) -> Tensor:
        """x [B, n] -> [B, n + classes]. The one is as long as a z of the prior: a plain 1 beside it went unused."""
        if not self.settings.classes:
            return x
        labels = one_hot(cond, self.settings.classes, x.dtype) * math.sqrt(self.settings.latent)
        return torch.cat((x, labels), dim=1)


class ResidualEncoder(_Network, Encoder):
    """Images [B, C, R, R] in [-1, 1] -> (mu, logvar), each [B, latent], in fp32 or wider."""

    def __init__(self, settings: "ResidualSettings") -> None:
        super().__init__(settings)
        widths = settings.inwards
        self.blocks = nn.ModuleDict({str(settings.resolution): Stem(settings)})
        for k in range(1, len(widths)):
            pooled = k < len(widths) - 1
            block = ResidualBlock(settings, widths[k - 1], widths[k], resample="down" if pooled else None)
            self.blocks[str(settings.resolution >> k)] = block
        self.posterior = Linear(
            math.prod(settings.entered) + settings.classes, 2 * settings.latent, gain=1.0, equalized=False
        )

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        for resolution, block in self.blocks.items():
            x = pass_through(block, x, recompute=self.recomputes(int(resolution), self.settings.resolution))
        out = self.posterior(self.with_labels(x.flatten(1), cond))
        mu, logvar = out.to(torch.promote_types(out.dtype, torch.float32)).chunk(2, dim=1)
        return mu, logvar


class ResidualDecoder(_Network, Decoder):
    """z [B, latent] -> images [B, C, R, R] around [-1, 1], in fp32 or wider."""

    def __init__(self, settings: "ResidualSettings") -> None:
        super().__init__(settings)
        # Each width is that of the block before an upsampling; the last block, at the images' size, changes none.
        widths = [settings.widths[-1], *reversed(settings.widths), settings.widths[0]]
        self.entry = Linear(settings.latent + settings.classes, math.prod(settings.entered), equalized=False)
        self.blocks = nn.ModuleDict()
        for k, (inputs, outputs) in enumerate(pairwise(widths)):
            self.blocks[str(4 << k)] = ResidualBlock(settings, inputs, outputs, resample="up" if k else None)
        self.to_rgb = Conv2d(settings.widths[0], settings.channels, 5, gain=1.0, equalized=False)

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        """There is no `noise` to take."""
        x = F.relu(self.entry(self.with_labels(z, cond))).unflatten(1, self.settings.entered)
        x = x.contiguous(memory_format=self.map_format)
        for resolution, block in self.blocks.items():
            x = pass_through(block, x, recompute=self.recomputes(int(resolution), self.settings.resolution))
        image = self.to_rgb(x)
        if self.settings.output == "tanh":
            image = torch.tanh(image)
        return image.to(torch.promote_types(image.dtype, torch.float32))
