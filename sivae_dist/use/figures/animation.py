"""A walk through latent space as a moving picture."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sivae_dist.run.atomic import replacing
from sivae_dist.use.figures.files import check_out
from sivae_dist.use.figures.pictures import labels_of
from sivae_dist.use.figures.sheet import Sheet

if TYPE_CHECKING:
    from sivae_dist.use.pretrained import Pretrained


MOVING = (".gif", ".mp4")
"""Endings of pictures that move."""


def animate(
    model: "Pretrained",
    path: Path,
    seed: int = 0,
    *,
    walks: int = 8,
    stops: int = 5,
    frames: int = 20,
    fps: int = 25,
    columns: int = 8,
    truncation: float = 1.0,
    classes: Sequence[int] = (),
) -> int:
    """Writes closed walks side by side as a GIF or MP4, which the ending of `path` decides; returns its frames.

    Walk k passes through the samples number k stops ... (k + 1) stops - 1, with `frames` from each to the next, all of
    one class: of `classes`, or else of all that the model has, in turn.
    ValueError for another ending, less than two stops, or when this machine cannot write MP4.
    """
    write = _WRITERS[check_out(path, MOVING)]
    if stops < 2:
        raise ValueError("a walk needs at least two stops")
    labels = labels_of(model, range(walks), classes)
    mean = model.mean_w(labels=labels) if truncation != 1 else None
    z = model.latents(0, walks * stops, seed).unflatten(0, (walks, stops))
    weights = closed_walk(stops, frames).to(z)

    def pictures() -> Iterator[Image.Image]:
        for weight in weights:
            codes = torch.einsum("s,wsl->wl", weight, z)
            images = model.draw(codes, labels, truncation=truncation, mean=mean, batch=walks).cpu()
            yield Sheet([images[k : k + columns].unbind() for k in range(0, walks, columns)]).draw(labels=False)

    with replacing(path, durable=False) as partial:
        write(partial, pictures(), fps)
    return len(weights)


def closed_walk(stops: int, frames: int) -> Tensor:
    """Weights [stops * frames, stops] of the stops at every frame of a smooth closed walk, fp64.

    It passes through each stop (Fourier interpolation). The squares of a frame's weights sum to 1, so that a mixture
    of independent N(0, I) latents is N(0, I) itself, and no frame is less typical than a sample.
    """
    at = torch.arange(stops * frames, dtype=torch.float64) / frames
    distance = math.pi * (at[:, None] - torch.arange(stops)) / stops
    # The Dirichlet kernel sin(n t) / (n sin t), for an even number of stops with the middle frequency halved.
    below = torch.sin(distance) if stops % 2 else torch.tan(distance)
    weights = torch.sin(stops * distance) / (stops * below)
    weights = torch.where(torch.sin(distance).abs() < 1e-9, 1.0, weights)
    return weights / weights.norm(dim=1, keepdim=True)


def _write_gif(path: Path, pictures: Iterator[Image.Image], fps: int) -> None:
    first = next(pictures)
    # Frames of a GIF last a whole number of hundredths of a second.
    duration = 10 * max(2, round(100 / fps))
    first.save(path, format="GIF", save_all=True, append_images=pictures, duration=duration, loop=0)


def _write_mp4(path: Path, pictures: Iterator[Image.Image], fps: int) -> None:
    frames = (_even(np.asarray(picture)[..., ::-1]) for picture in pictures)
    first = next(frames)
    height, width = first.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    try:
        if not writer.isOpened():
            raise ValueError("OpenCV has no encoder for MP4 here; name a .gif instead")
        for frame in chain([first], frames):
            writer.write(frame)
    finally:
        writer.release()


def _even(pixels: np.ndarray) -> np.ndarray:
    """Padded with white at the right and below to even sizes, which the format needs."""
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255))


_WRITERS: dict[str, Callable[[Path, Iterator[Image.Image], int], None]] = dict(
    zip(MOVING, (_write_gif, _write_mp4), strict=True)
)
