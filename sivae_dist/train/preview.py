"""The image grids that a run shows of itself."""

import torch
from torch import Tensor

from data_pipelines.images.loader import Loader, to_images
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Stage
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
    classes = settings.model.classes
    pictures: dict[str, Tensor] = {}
    z = normals(settings.seed, "preview", 0, 2 * columns, settings.model.latent, device).to(engine.dtype)
    # One class after the other, so that each column has the same one throughout.
    cond = Cond(stage, torch.arange(len(z), device=device) % classes if classes else None)
    autocast = torch.autocast(device.type, engine.amp, enabled=engine.amp is not None)
    with players.whole(live=True, here=here) as (encoder, decoder):
        if here:
            numbers = _numbers(loader, 2 * columns)
            real = to_images(torch.from_numpy(loader.pictures(stage.resolution, numbers)).to(device))
            real = blend_real(real.to(engine.dtype), stage.blend)
            labels = None if loader.labels is None else torch.from_numpy(loader.labels[numbers]).to(device)
            told = Cond(stage, labels if classes else None)
            with autocast:
                reconstructed, pictures["sample"] = decoder(encoder(real, told)[0], told), decoder(z, cond)
            pictures["real_reconstruction"] = figures.in_rows(real, reconstructed, columns=columns)
    with players.whole(live=False, here=here) as (_, decoder):
        if here:
            with autocast:
                pictures["sample_ema"] = decoder(z, cond)
    return {f"images/{name}": figures.grid(images, columns) for name, images in pictures.items()}


def _numbers(loader: Loader, count: int) -> range:
    """Of the real images that are shown."""
    manifest = loader.manifest
    count = min(count, manifest.samples)
    first = manifest.train if manifest.test >= count else 0
    return range(first, first + count)
