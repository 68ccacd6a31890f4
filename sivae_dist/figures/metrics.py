"""Curves of a run's metrics."""

from itertools import pairwise
from pathlib import Path
from typing import Any

_PANELS = {
    "reconstruction error of a value": ("reconstruction/per_value",),
    "KL divergence (nats)": ("kl/real", "kl/rec", "kl/fake"),
    "expELBO, or what is missing to the margin (nats)": ("exp_elbo/rec", "exp_elbo/fake", "hinge/rec", "hinge/fake"),
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
