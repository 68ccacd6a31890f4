"""Hidden layers with ReLU and a linear one at the end, with torch's own initial weights, as in the authors' code."""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.models.base import Decoder, Encoder, Network
from sivae_dist.models.stage import Cond

if TYPE_CHECKING:
    from sivae_dist.models.mlp.settings import MlpSettings


class _Dense(Network):
    def __init__(self, settings: "MlpSettings", inputs: int, outputs: int) -> None:
        super().__init__()
        widths = [inputs, *[settings.hidden_units] * settings.hidden_layers, outputs]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def through(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs], in fp32 or wider."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x), inplace=True)
        x = last(x)
        return x.to(torch.promote_types(x.dtype, torch.float32))


class MlpEncoder(_Dense, Encoder):
    """Vectors [B, D] -> (mu, logvar), each [B, latent], in fp32 or wider."""

    def __init__(self, settings: "MlpSettings") -> None:
        super().__init__(settings, settings.features, 2 * settings.latent)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        mu, logvar = self.through(x).chunk(2, dim=1)
        return mu, logvar


class MlpDecoder(_Dense, Decoder):
    """z [B, latent] -> vectors [B, D], in fp32 or wider."""

    def __init__(self, settings: "MlpSettings") -> None:
        super().__init__(settings, settings.latent, settings.features)

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        """There is no `noise` to take."""
        return self.through(z)
