"""Curves of a run's metrics."""

from collections.abc import Mapping
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from sivae_dist.objectives import Objective
from sivae_dist.use.figures.files import check_out
from sivae_dist.use.figures.plots import PLOTS, SMALL, new_figure, save_plot

Rows = list[dict[str, Any]]

_STYLES = ("-", ":", "-.")
"""Of the lines of a run, and of those beside it."""


def curves(rows: Rows, path: Path, name: str, objective: Objective, beside: Mapping[str, Rows] | None = None) -> None:
    """Draws the metrics of the run `name` over images seen; dashed lines stand where the resolution changes.

    `beside`: rows of other runs by their names, drawn into the same panels in other styles of lines. The ending of
    `path` decides the format (PLOTS). The same rows make the same bytes.
    """
    check_out(path, PLOTS)
    panels = objective.panels
    height, width = min(len(panels), 2), -(-len(panels) // 2)
    figure = new_figure(6 * width, 3.25 * height)
    figure.suptitle(f"{name}, {objective.title}, {rows[-1]['images']:,} images")
    changes = [
        (after["images"], after["schedule/resolution"])
        for before, after in pairwise(rows)
        if before["schedule/resolution"] != after["schedule/resolution"]
    ]
    for place, (label, tags) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(height, width, place)
        logged = dict.fromkeys(name for row in rows for name in row)
        # A term's own groups, such as kl/real/class, stand beside it.
        shown = [name for tag in tags for name in logged if name == tag or name.startswith(f"{tag}/")]
        for style, (run, its_rows) in zip(cycle(_STYLES), {name: rows, **(beside or {})}.items(), strict=False):
            for number, tag in enumerate(shown):
                points = [(row["images"], row[tag]) for row in its_rows if tag in row]
                line = f"{tag}, {run}" if beside else tag
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=line, linewidth=1)
        for images, resolution in changes:
            axes.axvline(images, color="grey", linestyle="--", linewidth=0.8)
            axes.annotate(
                f"{resolution} px", (images, 0.98), xycoords=("data", "axes fraction"), va="top", fontsize=SMALL
            )
        axes.set(ylabel=label, xlabel="images seen", yscale="log")
        if axes.lines:
            axes.legend(fontsize=SMALL)
    save_plot(path, figure)
