"""Curves of a run's metrics."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sivae_dist.run.atomic import replacing
from sivae_dist.use.figures.files import PICTURES, check_out, save_picture

_VECTOR = {".pdf": "CreationDate", ".svg": "Date"}
"""Formats that are drawn at any size, and where each would hold the date of writing."""

CURVES = (*PICTURES, *_VECTOR)
"""Endings of curves."""

_PANELS = {
    "reconstruction error of a value": ("reconstruction/per_value",),
    "KL divergence (nats)": ("kl/real", "kl/rec", "kl/fake"),
    "expELBO, or what is missing to the margin (nats)": ("exp_elbo/rec", "exp_elbo/fake", "hinge/rec", "hinge/fake"),
    "loss": ("loss/encoder", "loss/decoder"),
}


def curves(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draws a run's metrics over images seen; dashed lines stand where the resolution changes.

    The ending of `path` decides the format (CURVES). The same rows make the same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ending = check_out(path, CURVES)
    figure = Figure(figsize=(12, 6.5), dpi=110, layout="constrained")
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
    if ending in _VECTOR:
        with replacing(path, durable=False) as partial, rc_context({"svg.hashsalt": "sivae"}):
            figure.savefig(partial, format=ending[1:], metadata={_VECTOR[ending]: None})
        return
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_picture(path, Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
