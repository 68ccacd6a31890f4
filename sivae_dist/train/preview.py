"""The image grids that a run shows of itself."""

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.step.randomness import normals
from sivae_dist.train.players import Players
from sivae_dist.use import figures


@torch.no_grad()
def preview(
    settings: RunSettings, players: Players, data: Dataset, stage: Stage, *, here: bool = True
) -> dict[str, Tensor]:
    """Grids by tag: real images over their reconstructions, samples, and samples of the averaged decoder.

    Always the same images (of the test split when there is one) and the same latents. All processes call it together;
    those without `here` draw nothing.
    """
    columns, engine, device = settings.monitoring.grid, settings.engine, data.device
    classes = settings.model.classes
    pictures: dict[str, Tensor] = {}
    z = normals(settings.seed, "preview", 0, 2 * columns, settings.model.latent, device).to(engine.dtype)
    # One class after the other, so that each column has the same one throughout.
    cond = Cond(stage, torch.arange(len(z), device=device) % classes if classes else None)
    autocast = torch.autocast(device.type, engine.amp, enabled=engine.amp is not None)
    with players.whole(live=True, here=here) as (encoder, decoder):
        if here:
            shown = data.samples(stage.resolution, _numbers(data, 2 * columns))
            real = blend_real(shown.x.to(engine.dtype), stage.blend)
            labelled = Cond(stage, shown.y if classes else None)
            with autocast:
                reconstructed, pictures["sample"] = decoder(encoder(real, labelled)[0], labelled), decoder(z, cond)
            pictures["real_reconstruction"] = figures.in_rows(real, reconstructed, columns=columns)
    with players.whole(live=False, here=here) as (_, decoder):
        if here:
            with autocast:
                pictures["sample_ema"] = decoder(z, cond)
    return {f"images/{name}": figures.grid(images, columns) for name, images in pictures.items()}


def _numbers(data: Dataset, count: int) -> range:
    """Numbers of the real images that are shown."""
    count = min(count, data.train + data.test)
    first = data.train if data.test >= count else 0
    return range(first, first + count)
