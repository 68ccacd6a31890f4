"""The image grids that a run shows of itself."""

import torch
from torch import Tensor

from data_pipelines.images.loader import Loader, to_images
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.step.randomness import normals
from sivae_dist.train.players import Players
from sivae_dist.use import figures


@torch.no_grad()
def preview(
    settings: RunSettings, players: Players, loader: Loader, stage: Stage, *, here: bool = True
) -> dict[str, Tensor]:
    """Grids by tag: real images over their reconstructions, samples, and samples of the averaged decoder.

    Always the same images (of the test split when there is one) and the same latents. All processes call it together;
    those without `here` draw nothing.
    """
    columns, engine, device = settings.monitoring.grid, settings.engine, loader.device
    pictures: dict[str, Tensor] = {}
    z = normals(settings.seed, "preview", 0, 2 * columns, settings.model.latent, device).to(engine.dtype)
    autocast = torch.autocast(device.type, engine.amp, enabled=engine.amp is not None)
    with players.whole(live=True, here=here) as (encoder, decoder):
        if here:
            real = blend_real(_real(loader, stage.resolution, 2 * columns).to(engine.dtype), stage.blend)
            with autocast:
                reconstructed, pictures["sample"] = decoder(encoder(real, stage)[0], stage), decoder(z, stage)
            pictures["real_reconstruction"] = figures.in_rows(real, reconstructed, columns=columns)
    with players.whole(live=False, here=here) as (_, decoder):
        if here:
            with autocast:
                pictures["sample_ema"] = decoder(z, stage)
    return {f"images/{name}": figures.grid(images, columns) for name, images in pictures.items()}


def _real(loader: Loader, resolution: int, count: int) -> Tensor:
    manifest = loader.manifest
    count = min(count, manifest.samples)
    first = manifest.train if manifest.test >= count else 0
    pixels = loader.pictures(resolution, range(first, first + count))
    return to_images(torch.from_numpy(pixels).to(loader.device))
