"""Curves of a run's metrics."""

from collections.abc import Mapping
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sivae_dist.objectives import Objective
from sivae_dist.run.atomic import replacing
from sivae_dist.use.figures.files import PICTURES, check_out, save_picture

_VECTOR = {".pdf": "CreationDate", ".svg": "Date"}
"""Formats that are drawn at any size, and where each would hold the date of writing."""

CURVES = (*PICTURES, *_VECTOR)
"""Endings of curves."""

Rows = list[dict[str, Any]]

_STYLES = ("-", ":", "-.")
"""Of the lines of a run, and of those beside it."""


def curves(rows: Rows, path: Path, name: str, objective: Objective, beside: Mapping[str, Rows] | None = None) -> None:
    """Draws the metrics of the run `name` over images seen; dashed lines stand where the resolution changes.

    `beside`: rows of other runs by their names, drawn into the same panels in other styles of lines. The ending of
    `path` decides the format (CURVES). The same rows make the same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ending = check_out(path, CURVES)
    panels = objective.panels
    height, width = min(len(panels), 2), -(-len(panels) // 2)
    figure = Figure(figsize=(6 * width, 3.25 * height), dpi=110, layout="constrained")
    figure.suptitle(f"{name}, {objective.title}, {rows[-1]['images']:,} images")
    changes = [
        (after["images"], after["schedule/resolution"])
        for before, after in pairwise(rows)
        if before["schedule/resolution"] != after["schedule/resolution"]
    ]
    for place, (label, tags) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(height, width, place)
        shown = [tag for tag in tags if any(tag in row for row in rows)]
        for style, (run, its_rows) in zip(cycle(_STYLES), {name: rows, **(beside or {})}.items(), strict=False):
            for number, tag in enumerate(shown):
                points = [(row["images"], row[tag]) for row in its_rows if tag in row]
                line = f"{tag}, {run}" if beside else tag
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=line, linewidth=1)
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
