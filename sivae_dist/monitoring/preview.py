"""The image grids that a run shows of itself."""

import torch
from torch import Tensor

from data_pipelines.loader import Loader, to_images
from sivae_dist import figures
from sivae_dist.config import RunSettings
from sivae_dist.models import Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.players import Players
from sivae_dist.randomness import normals


@torch.no_grad()
def preview(settings: RunSettings, players: Players, loader: Loader, stage: Stage) -> dict[str, Tensor]:
    """Grids by tag: real images over their reconstructions, samples, and samples of the averaged decoder.

    Always the same images (of the test split when there is one) and the same latents. Talks to no other process.
    """
    columns, engine, device = settings.monitoring.grid, settings.engine, loader.device
    manifest = loader.manifest
    count = min(2 * columns, manifest.samples)
    first = manifest.train if manifest.test >= count else 0
    pixels = loader.pictures(stage.resolution, range(first, first + count))
    real = blend_real(to_images(torch.from_numpy(pixels).to(device)).to(engine.dtype), stage.blend)
    z = normals(settings.seed, "preview", 0, 2 * columns, settings.model.latent, device).to(engine.dtype)
    with torch.autocast(device.type, engine.amp, enabled=engine.amp is not None):
        reconstructed = players.decoder(players.encoder(real, stage)[0], stage)
        samples = {"sample": players.decoder(z, stage), "sample_ema": players.decoder_ema.module(z, stage)}
    pairs = figures.in_rows(real, reconstructed, columns=columns)
    return {"images/real_reconstruction": figures.grid(pairs, columns)} | {
        f"images/{name}": figures.grid(images, columns) for name, images in samples.items()
    }
