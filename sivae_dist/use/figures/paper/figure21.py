"""Figure 21: whether the posterior has collapsed onto the prior, which samples and the KL divergence show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sivae_dist.process import startup
from sivae_dist.use.figures.paper.base import FIGURES, Shown
from sivae_dist.use.figures.plots import PAPER_DPI, SMALL, new_figure
from sivae_dist.use.figures.points import dots, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL = 2.4
"""Inches."""
_ACROSS = 3
"""Panels of samples in a row."""
_KL = "kl/real"


@FIGURES.add("fig21")
def collapse(runs: Sequence[Shown], seed: int, count: int) -> "Figure":
    """Samples of each run, and beside them the KL divergence of real points of all, over the points seen."""
    across, down = min(len(runs), _ACROSS), -(-len(runs) // _ACROSS)
    figure = new_figure(_PANEL * (across + 1.7), _PANEL * down + 0.4, PAPER_DPI)
    grid = figure.add_gridspec(down, across + 1, width_ratios=[*[1] * across, 1.6])
    curves = figure.add_subplot(grid[:, across])
    for number, run in enumerate(runs):
        startup.doing(f"drawing {run.name}")
        axes, colour = figure.add_subplot(grid[number // across, number % across]), f"C{number % 10}"
        _, square = run.real(count)
        frame(axes, square)
        dots(axes, run.model.sample(count, seed, batch=count), colour)
        axes.set_title(f"{run.settings.objective.title}, {run.name}", fontsize=SMALL)
        points = [(row["images"], row[_KL]) for row in run.metrics if _KL in row]
        if points:
            curves.plot(*zip(*points, strict=True), color=colour, label=run.name, linewidth=1)
    curves.set(yscale="log")
    curves.set_xlabel("points seen", fontsize=SMALL)
    curves.set_ylabel("KL divergence of real points (nats)", fontsize=SMALL)
    curves.tick_params(labelsize=SMALL)
    curves.xaxis.get_offset_text().set_fontsize(SMALL)
    if curves.lines:
        curves.legend(fontsize=SMALL)
    return figure
