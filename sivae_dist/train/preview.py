"""The image grids that a run shows of itself."""

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Decoder, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.step.randomness import normals
from sivae_dist.train.players import Players
from sivae_dist.use import figures

_MOST_CLASSES = 16
"""Rows of samples."""


@torch.no_grad()
def preview(
    settings: RunSettings, players: Players, data: Dataset, stage: Stage, *, here: bool = True
) -> dict[str, Tensor]:
    """Grids by tag: real images over their reconstructions, samples, and samples of the averaged decoder.

    Always the same images (of the test split when there is one) and the same latents. Where the model has classes, each
    row of samples is one of them, of the same latents. All processes call it together; those without `here` draw
    nothing.
    """
    columns, engine, device = settings.monitoring.grid, settings.engine, data.device
    classes = settings.model.classes
    pictures: dict[str, Tensor] = {}
    z = normals(settings.seed, "preview", 0, 2 * columns, settings.model.latent, device).to(engine.dtype)
    labels = None
    if classes:
        rows = torch.arange(min(classes, _MOST_CLASSES), device=device)
        z, labels = z[:columns].repeat(len(rows), 1), rows.repeat_interleave(columns)
    autocast = torch.autocast(device.type, engine.amp, enabled=engine.amp is not None)
    with players.whole(live=True, here=here) as (encoder, decoder):
        if here:
            shown = data.samples(stage.resolution, _numbers(data, 2 * columns))
            real = blend_real(shown.x.to(engine.dtype), stage.blend)
            labelled = Cond(stage, shown.y if classes else None)
            with autocast:
                reconstructed = decoder(encoder(real, labelled)[0], labelled)
                pictures["sample"] = _decoded(decoder, z, stage, labels, 2 * columns)
            pictures["real_reconstruction"] = figures.in_rows(real, reconstructed, columns=columns)
    with players.whole(live=False, here=here) as (_, decoder):
        if here:
            with autocast:
                pictures["sample_ema"] = _decoded(decoder, z, stage, labels, 2 * columns)
    return {f"images/{name}": figures.grid(images, columns) for name, images in pictures.items()}


def _decoded(decoder: Decoder, z: Tensor, stage: Stage, labels: Tensor | None, batch: int) -> Tensor:
    """Images of z [N, latent], `batch` at once, as many as there are of a model without classes."""
    parts = [None] * len(z) if labels is None else labels.split(batch)
    return torch.cat([decoder(part, Cond(stage, y)) for part, y in zip(z.split(batch), parts, strict=False)])


def _numbers(data: Dataset, count: int) -> range:
    """Numbers of the real images that are shown."""
    count = min(count, data.train + data.test)
    first = data.train if data.test >= count else 0
    return range(first, first + count)
