"""The pictures that a run shows of itself: grids of images, or points."""

from collections.abc import Mapping

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Decoder, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.step.randomness import normals
from sivae_dist.train.players import Players
from sivae_dist.use import figures
from sivae_dist.use.figures.points import Sets, Square, by_class

_MOST_CLASSES = 16
"""Rows of samples."""
_POINTS = 2_000
"""Of samples that are no images."""


@torch.no_grad()
def preview(
    settings: RunSettings, players: Players, data: Dataset, stage: Stage, *, here: bool = True
) -> dict[str, Tensor]:
    """Pictures [3, H, W] in [0, 1] by tag: real images over their reconstructions, samples, and samples of the averaged
    decoder. Samples that are no images are drawn as points. Where z has groups, also real images over the same with the
    first group of the first image: its class, with their contents.

    Always the same images (of the test split when there is one) and the same latents. Where the model has classes, each
    row of samples is one of them, of the same latents. All processes call it together; those without `here` draw
    nothing.
    """
    model, engine, device = settings.model, settings.engine, data.device
    columns = settings.monitoring.grid
    count = 2 * columns if model.of_images else _POINTS
    z = normals(settings.seed, "preview", 0, count, model.latent, device).to(engine.dtype)
    labels = None
    if model.classes:
        each = columns if model.of_images else _POINTS // min(model.classes, _MOST_CLASSES)
        rows = torch.arange(min(model.classes, _MOST_CLASSES), device=device)
        z, labels = z[:each].repeat(len(rows), 1), rows.repeat_interleave(each)
    autocast = torch.autocast(device.type, engine.amp, enabled=engine.amp is not None)
    shown: dict[str, Tensor] = {}
    with players.whole(live=True, here=here) as (encoder, decoder):
        if here:
            found = data.samples(stage.resolution, _numbers(data, count, spread=bool(model.groups)))
            shown["real"] = blend_real(found.x.to(engine.dtype), stage.blend)
            labelled = Cond(stage, found.y if model.classes else None)
            with autocast:
                mu, _ = encoder(shown["real"], labelled)
                shown["reconstruction"] = decoder(mu, labelled)
                if model.groups:
                    first, *_ = model.groups.values()
                    mixed = torch.cat((mu[:1, :first].expand(len(mu), -1), mu[:, first:]), 1)
                    shown["exchanged"] = decoder(mixed, labelled)
                shown["sample"] = _decoded(decoder, z, stage, labels, count)
    with players.whole(live=False, here=here) as (_, decoder):
        if here:
            with autocast:
                shown["sample_ema"] = _decoded(decoder, z, stage, labels, count)
    if not here:
        return {}
    pictures = _grids(shown, columns) if model.of_images else _scatters(shown, labels, settings, data.scale)
    return {f"images/{name}": picture for name, picture in pictures.items()}


def _grids(shown: Mapping[str, Tensor], columns: int) -> dict[str, Tensor]:
    pairs = figures.in_rows(shown["real"], shown["reconstruction"], columns=columns)
    images = {"sample": shown["sample"], "real_reconstruction": pairs, "sample_ema": shown["sample_ema"]}
    if "exchanged" in shown:
        images["real_exchanged"] = figures.in_rows(shown["real"], shown["exchanged"], columns=columns)
    return {name: figures.grid(some, columns) for name, some in images.items()}


def _scatters(
    shown: Mapping[str, Tensor], labels: Tensor | None, settings: RunSettings, scale: float | None
) -> dict[str, Tensor]:
    """The real points beside their reconstructions, and both kinds of samples, all in the same square."""
    square, names = Square.of(shown["real"], scale), settings.model.named_classes()
    panels: dict[str, dict[str, Tensor | Sets]] = {
        "sample": {"samples": by_class(shown["sample"], labels, names)},
        "real_reconstruction": {"real": shown["real"], "reconstructions": shown["reconstruction"]},
        "sample_ema": {"samples, averaged weights": by_class(shown["sample_ema"], labels, names)},
    }
    return {name: figures.plotted(figures.scatter(some, square)) for name, some in panels.items()}


def _decoded(decoder: Decoder, z: Tensor, stage: Stage, labels: Tensor | None, batch: int) -> Tensor:
    """Samples of z [N, latent], `batch` at once, as many as there are of a model without classes."""
    parts = [None] * len(z) if labels is None else labels.split(batch)
    return torch.cat([decoder(part, Cond(stage, y)) for part, y in zip(z.split(batch), parts, strict=False)])


def _numbers(data: Dataset, count: int, *, spread: bool) -> range:
    """Numbers of the real samples that are shown: the first ones, or, `spread`, some from everywhere."""
    count = min(count, data.train + data.test)
    first, there = (data.train, data.test) if data.test >= count else (0, data.train + data.test)
    step = there // count if spread else 1
    return range(first, first + step * count, step)
