"""A tensor cut into one slice per process, as ZeRO 3 cuts weights: consecutive elements, and padding after the last."""

import math
from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from sivae_dist.process.processes import rank, world_size


def slice_of(tensor: Tensor) -> Tensor:
    """This process's slice [ceil(numel / world size)], a copy."""
    size = -(-tensor.numel() // world_size())
    part = tensor.new_zeros(size)
    mine = tensor.detach().reshape(-1)[rank() * size : (rank() + 1) * size]
    part[: mine.numel()] = mine
    return part


def put_together(part: Tensor, shape: Sequence[int]) -> Tensor:
    """The whole tensor, on every process, from the slice of each; they call it together."""
    if world_size() == 1:
        return part[: math.prod(shape)].view(*shape).clone()
    whole = part.new_empty(world_size() * part.numel())
    dist.all_gather(list(whole.chunk(world_size())), part)
    return whole[: math.prod(shape)].view(*shape)
