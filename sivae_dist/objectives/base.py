"""The shape of an objective: one module a player, whose forward returns the loss that the player minimises.

The player's own network is a submodule; its partner and the distance are plain references, so that the module's
parameters are the player's alone. That is what DDP, DeepSpeed and torch.compile expect, and it halves what is
communicated. Whoever calls freezes the partner for the player's turn. All passes happen inside one forward, so one
forward meets one backward.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from sivae_dist.models.stage import Mixing
from sivae_dist.objectives.distances import Distance

Weights = TypeVar("Weights")
"""What an objective's settings come to at one resolution."""

Terms = dict[str, Tensor]
"""Detached 0-dimensional means over the batch, by the name under which they are logged everywhere."""


class Draws(NamedTuple):
    """Everything random in one step, drawn beforehand (randomness.py), so that an objective is a pure function.

    The layer noise is used by both updates: Algorithm 2's lines 8 and 20 are one and the same decoding.
    """

    z: Tensor
    """[B, latent] ~ N(0, I): Z_f, line 6."""
    eps: Tensor
    """[B, 3, latent] ~ N(0, I): of the samples Z, Z_rf and Z_ff."""
    noise: Tensor | None = None
    """[B, 4, noise_size] ~ N(0, 1): layer noise of the decodings X_r, X_f, X_rf and X_ff."""
    mixing: Mixing | None = None
    """Style mixing of X_f."""

    def layer_noise(self, *decodings: int) -> Tensor | None:
        """The noise of the named decodings, one batch after the other: [len(decodings) * B, noise_size]."""
        if self.noise is None:
            return None
        return torch.cat([self.noise[:, index] for index in decodings])


def detached(terms: Terms) -> Terms:
    return {name: term.detach() for name, term in terms.items()}


class _Objective(nn.Module, Generic[Weights]):
    partner: nn.Module
    distance: Distance
    """L_rec of Algorithm 2."""

    def __init__(
        self,
        weights: Weights,
        player: nn.Module,
        partner: nn.Module,
        distance: Distance,
        amp: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.player = player
        # Past nn.Module's own bookkeeping: neither may become a submodule.
        object.__setattr__(self, "partner", partner)
        object.__setattr__(self, "distance", distance)
        self.amp = amp

    def autocast(self, x: Tensor) -> AbstractContextManager[object]:
        """For the passes through the networks only; losses are computed in fp32 or wider."""
        return nullcontext() if self.amp is None else torch.autocast(x.device.type, dtype=self.amp)


class EncoderObjective(_Objective[Weights]):
    """forward(x [B, ...], cond, draws) -> (loss, terms, z [B, latent] detached), for Algorithm 2's first half."""


class DecoderObjective(_Objective[Weights]):
    """forward(x [B, ...], z [B, latent], cond, draws) -> (loss, terms), for Algorithm 2's second half."""
