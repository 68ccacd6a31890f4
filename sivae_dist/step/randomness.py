"""Latents, reparameterization noise, layer noise and style mixing for a range of positions of the run.

Drawn image by image (data_pipelines/streams.py), so that what stands at a position is the same for every world size and
every division into micro-batches. On a CPU the numbers come from numpy's counter-based Philox, elsewhere from the
device's own generator, seeded for each position; the two differ from each other. What a GPU draws depends neither on
its model nor on its size.
"""

import numpy as np
import torch
from torch import Tensor

from data_pipelines.streams import seed_at, stream, streams
from sivae_dist.models.stage import Mixing
from sivae_dist.objectives.base import Draws
from sivae_dist.process.devices import upload

_PIECE = 32_768
"""Values: 128 blocks of 256 threads, which 32 multiprocessors of any generation hold at once."""


def normals(seed: int, purpose: str, first: int, count: int, size: int, device: torch.device) -> Tensor:
    """N(0, 1) in fp32, [count, size]: a row for each of the positions first ... first + count - 1."""
    if device.type == "cpu":
        out = np.empty((count, size), np.float32)
        for row, generator in enumerate(streams(seed, purpose, first, count)):
            generator.standard_normal(out=out[row], dtype=np.float32)
        return torch.from_numpy(out)
    rows = torch.empty((count, size), device=device)
    if device.type == "meta":
        return rows
    on_device = torch.Generator(device)
    for row in range(count):
        on_device.manual_seed(seed_at(seed, purpose, first + row))
        fill_normal(rows[row], on_device)
    return rows


def fill_normal(row: Tensor, generator: torch.Generator) -> None:
    """N(0, 1) in a row, in pieces that any GPU draws alike.

    How CUDA divides one draw among its threads, and with it which number goes where, depends on the number of
    multiprocessors as soon as there is work for all of them.
    """
    for piece in row.split(_PIECE):
        piece.normal_(generator=generator)


def draw(
    seed: int,
    first: int,
    count: int,
    *,
    latent: int,
    noise_size: int,
    layers: int,
    mixing: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Draws:
    """All random draws for `count` positions from `first` on.

    `noise_size`: layer noise values of one decoding, 0 for none; `layers`: styled layers in use; `mixing`: share of the
    generated images with two styles, whose crossover is uniform over the layers.
    """
    codes = normals(seed, "latent", first, count, 4 * latent, device).to(dtype).unflatten(1, (4, latent))
    noise = None
    if noise_size:
        noise = normals(seed, "noise", first, count, 4 * noise_size, device).to(dtype).unflatten(1, (4, noise_size))
    mixed = None
    if mixing > 0:
        cutoff = [_cutoff(seed, first + row, layers, mixing) for row in range(count)]
        second = normals(seed, "mixing latent", first, count, latent, device).to(dtype)
        mixed = Mixing(second, upload(torch.tensor(cutoff), device))
    return Draws(z=codes[:, 0], eps=codes[:, 1:], noise=noise, mixing=mixed)


def _cutoff(seed: int, position: int, layers: int, mixing: float) -> int:
    generator = stream(seed, "mixing", position)
    return int(generator.integers(1, layers)) if generator.random() < mixing else layers
