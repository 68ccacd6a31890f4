"""Grids of images, as tensors for TensorBoard and as PNG files, and curves of a run."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return ((images.float() + 1) / 2).clamp(0, 1)


def grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> one image [3, H', W'] in [0, 1] with `columns` in a row."""
    return make_grid(to_unit(images).cpu(), nrow=columns, padding=max(1, images.shape[-1] // 32), pad_value=1.0)


def in_rows(*sets: Tensor, columns: int) -> Tensor:
    """Interleaves sets of N images each: the first `columns` of every set as rows under each other, then the next.

    Short last rows are filled up with white, so that what belongs together stays under each other.
    """
    missing = -len(sets[0]) % columns
    full = [torch.cat((images, images.new_ones(missing, *images.shape[1:]))) for images in sets]
    return torch.cat([part for rows in zip(*(images.split(columns) for images in full), strict=True) for part in rows])


def save_png(path: Path, picture: Tensor) -> None:
    """Writes an image [C, H, W] in [0, 1]."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path, format="PNG")


_PANELS = {
    "reconstruction error of a value": ("reconstruction/per_value",),
    "KL divergence (nats)": ("kl/real", "kl/rec", "kl/fake"),
    "expELBO": ("exp_elbo/rec", "exp_elbo/fake"),
    "loss": ("loss/encoder", "loss/decoder"),
}


def curves(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draws a run's metrics over images seen as a PNG; dashed lines stand where the resolution changes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    figure.suptitle(title)
    changes = [
        (after["images"], after["schedule/resolution"])
        for before, after in pairwise(rows)
        if before["schedule/resolution"] != after["schedule/resolution"]
    ]
    for axes, (label, tags) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for tag in tags:
            points = [(row["images"], row[tag]) for row in rows if tag in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=tag, linewidth=1)
        for images, resolution in changes:
            axes.axvline(images, color="grey", linestyle="--", linewidth=0.8)
            axes.annotate(f"{resolution} px", (images, 0.98), xycoords=("data", "axes fraction"), va="top", fontsize=8)
        axes.set(ylabel=label, xlabel="images seen", yscale="log")
        if axes.lines:
            axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
