"""Networks of blocks, one per resolution, whose activations may be computed again instead of saved."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sivae_dist.models.base import Network
from sivae_dist.models.layers.batch_norm import Recorded, normalizing, recorded_here
from sivae_dist.models.layers.scaled import SharedWeights, shared_here, sharing


def pixel_norm(z: Tensor) -> Tensor:
    """[B, D] scaled to a mean square of 1, so that only its direction is left."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def pass_through(block: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """`block(*inputs)`, and with `recompute` once more during backward, in place of saved activations.

    Nothing random happens inside a block (its noise is an input), so both passes are equal.
    """
    if recompute and torch.is_grad_enabled():
        around = (shared_here(), recorded_here())
        return checkpoint(_inside, *around, block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


def _inside(weights: SharedWeights | None, recorded: Recorded | None, block: nn.Module, *inputs: Any) -> Any:
    # During backward the passes' own contexts are over.
    with sharing(weights), normalizing(recorded and recorded.begin()):
        return block(*inputs)


class GrowingNetwork(Network):
    """A network of blocks, one per resolution, of which a stage uses some."""

    recomputed = 3
    """Number of blocks whose activations are recomputed, from the stage's resolution down.

    A block's operations are about the same at every resolution below the widest, its activations halve with each, so
    that three hold 7/8 of all that is saved, and the others would cost as much time and save little.
    """

    def recomputes(self, block: int, resolution: int) -> bool:
        """Whether the activations of the block of `block` px are recomputed, in a pass at `resolution` px."""
        return self.checkpoint_activations and block << self.recomputed > resolution
