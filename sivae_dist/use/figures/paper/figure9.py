"""Figure 9: what models of points have learned, their samples and densities, a row for each data set."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sivae_dist.objectives import ElboSettings
from sivae_dist.process import startup
from sivae_dist.use.density import elbo, log_density
from sivae_dist.use.figures.paper.base import FIGURES, Shown
from sivae_dist.use.figures.plots import PAPER_DPI, SMALL, new_figure
from sivae_dist.use.figures.points import DRAWN, REAL, Square, dots, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_PANEL = 1.25
"""Inches."""
_ELBO_CELLS, _DENSITY_CELLS = 256, 128
"""Of a side of the grids."""
_LEAST = -12.0
"""Nats of log p(x) below which all is drawn alike."""
_KINDS = ("samples", "exp(ELBO)", "log p(x)")
_NOTE = (
    "exp(ELBO) is exp(-KL - |x - decoder(mu)|²), which the authors draw, each on a scale of its own; log p(x) is "
    "importance-sampled, for the likelihood N(decoder(z), σ² I) with the least "
    "σ²\u00a0=\u00a0beta_kl\u00a0/\u00a0(2\u00a0beta_rec) of its row."
)
_LETTERS = 17
"""Of the note, in an inch."""


@FIGURES.add("fig9")
def densities(runs: Sequence[Shown], seed: int, count: int) -> "Figure":
    """A row for each data set and a column for each objective, in the order of the runs: real points and samples,
    exp(ELBO) as in the paper's figure, and log p(x) for the least noise of the row's likelihoods, so that those of a
    row can be compared. ValueError for two runs of the same."""
    cells = _cells(runs)
    sets, titles = (list(dict.fromkeys(key[part] for key in cells)) for part in (0, 1))
    width, height = _PANEL * (3 * len(titles) + 1.5), _PANEL * len(sets) + 0.9
    figure = new_figure(width, height, PAPER_DPI)
    figure.supxlabel(textwrap.fill(_NOTE, int(_LETTERS * width)), fontsize=SMALL - 1)
    panels, beside = _panels(figure, sets, titles)
    shown: list[AxesImage] = []
    for row, where in enumerate(sets):
        sigma = min(deviation(run) for (of, _), run in cells.items() if of == where)
        for column, title in enumerate(titles):
            if (run := cells.get((where, title))) is None:
                continue
            startup.doing(f"drawing {run.name}")
            real, square = run.real(count)
            first, own, bound, density = (panels[row, part] for part in ("real", *((kind, column) for kind in _KINDS)))
            if not first.collections:
                _show(first, square)
                dots(first, real, REAL, size=1)
            _show(own, square)
            dots(own, run.model.sample(count, seed, batch=count), DRAWN, size=1)
            _image(bound, square, elbo(run.model, _points(square, _ELBO_CELLS)).exp())
            shown.append(_image(density, square, log_density(run.model, _points(square, _DENSITY_CELLS), sigma)))
            density.text(0.04, 0.04, f"σ = {sigma:.2f}", color="white", fontsize=6, transform=density.transAxes)
    top = max(image.get_clim()[1] for image in shown)
    for image in shown:
        image.set_clim(_LEAST, top)
    figure.colorbar(shown[0], cax=beside, extend="min").set_label("nats", fontsize=SMALL - 1)
    beside.tick_params(labelsize=SMALL - 1)
    return figure


def _panels(figure: "Figure", sets: Sequence[str], titles: Sequence[str]) -> "tuple[dict[tuple[int, Any], Axes], Axes]":
    """Blank panels by row, and by "real" or a kind and the number of its objective; and that for a bar of colours."""
    wide, gap, bar = len(titles), 0.12, 0.06
    ratios = [1, *[1] * wide, gap, *[1] * wide, gap, *[1] * wide, bar]
    grid = figure.add_gridspec(len(sets), len(ratios), width_ratios=ratios)
    panels: dict[tuple[int, Any], Axes] = {}
    for row, where in enumerate(sets):
        places = {"real": 0} | {
            (kind, k): 1 + part * (wide + 1) + k for part, kind in enumerate(_KINDS) for k in range(wide)
        }
        for place, column in places.items():
            axes = panels[row, place] = figure.add_subplot(grid[row, column])
            axes.set(xticks=[], yticks=[], aspect="equal")
            axes.set_frame_on(False)
            if row == 0:
                axes.set_title(place if isinstance(place, str) else f"{place[0]}\n{titles[place[1]]}", fontsize=SMALL)
        panels[row, "real"].set_ylabel(where, fontsize=SMALL)
    return panels, figure.add_subplot(grid[:, -1])


def deviation(run: Shown) -> float:
    """The standard deviation of the likelihood p(x|z) = N(decoder(z), deviation^2 I) of a model.

    Divided by beta_kl, the ELBO that it was trained with is |x - decoder(z)|^2 beta_rec / beta_kl + KL, which has this
    likelihood with deviation^2 = beta_kl / (2 beta_rec). ValueError when the objective has no such weights.
    """
    objective, model = run.settings.objective, run.settings.model
    if not isinstance(objective, ElboSettings):
        raise ValueError(f"{run.name} has no likelihood: its objective has no beta_rec and beta_kl")
    weights = objective.weights(model.final_resolution, model.dimensions)
    if isinstance(weights.beta_kl, Mapping) or not weights.beta_rec or not weights.beta_kl:
        raise ValueError(f"{run.name} has no likelihood: it takes one beta_rec and one beta_kl, both more than 0")
    return math.sqrt(weights.beta_kl / (2 * weights.beta_rec))


def _cells(runs: Sequence[Shown]) -> dict[tuple[str, str], Shown]:
    """Runs by data set and title of the objective."""
    cells: dict[tuple[str, str], Shown] = {}
    for run in runs:
        key = run.settings.data.where, run.settings.objective.title
        if key in cells:
            raise ValueError(f"{cells[key].name} and {run.name} are both {key[1]} on {key[0]}: name one of them")
        if (dimensions := run.settings.model.dimensions) != 2:
            raise ValueError(f"{run.name} has points of {dimensions} dimensions; a density is drawn of two")
        cells[key] = run
    return cells


def _show(axes: "Axes", square: Square) -> None:
    axes.set_frame_on(True)
    frame(axes, square, ticks=False)


def _points(square: Square, cells: int) -> Tensor:
    """The middles [cells * cells, 2] of the cells of a grid over the square, row by row from below."""
    steps = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1
    up, across = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((square.x + square.half * across, square.y + square.half * up), 2).flatten(0, 1)


def _image(axes: "Axes", square: Square, values: Tensor) -> "AxesImage":
    """A picture of the values [cells * cells] of `_points`."""
    side = math.isqrt(len(values))
    array: NDArray[np.float64] = values.reshape(side, side).numpy()
    _show(axes, square)
    return axes.imshow(array, origin="lower", extent=square.extent, interpolation="nearest", cmap="viridis")
