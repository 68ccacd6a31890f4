"""Heat maps: one number over two keys."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sivae_dist.use.figures.files import check_out
from sivae_dist.use.figures.plots import PLOTS, SMALL, new_figure, save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_LOGARITHMIC = 100
"""Ratio of the largest value to the smallest from which colours are logarithmic."""

_CELL = 0.58, 0.42
"""Width and height in inches."""

_BEST = "crimson"

Colour = tuple[float, float, float, float]
"""Red, green, blue and opacity in [0, 1]."""


@dataclass(frozen=True)
class Cell:
    value: float | None
    settled: bool = True
    """Whether the value can no longer change; otherwise the cell is hatched."""
    note: str = ""
    """Text in place of a value."""


class Panel(NamedTuple):
    title: str
    cells: dict[tuple[int, int], Cell]
    """By row and column; a combination that is missing stays empty."""


@dataclass(frozen=True)
class HeatMap:
    row_key: str
    rows: Sequence[str]
    """The values of the key, from the bottom up."""
    column_key: str
    columns: Sequence[str]
    panels: Sequence[Panel]
    largest: bool = False
    """Whether the largest value is the best one, and not the smallest."""

    def best(self) -> tuple[int, tuple[int, int]] | None:
        """Panel, row and column of the best value; None when there is no value."""
        valued = {
            (number, place): cell.value
            for number, panel in enumerate(self.panels)
            for place, cell in panel.cells.items()
            if cell.value is not None
        }
        return (max if self.largest else min)(valued, key=valued.__getitem__) if valued else None


def heat_map(drawn: HeatMap, path: Path, title: str, footnote: str = "") -> None:
    """Writes a heat map; the ending of `path` decides the format (PLOTS). ValueError when no cell has a value."""
    check_out(path, PLOTS)
    save_plot(path, heat_map_figure(drawn, title, footnote))


def heat_map_figure(drawn: HeatMap, title: str, footnote: str = "") -> "Figure":
    """A panel of cells for each of the heat map's, with their values and one bar of colours; the best cell of all has a
    frame, and cells that are not settled are hatched. Better is lighter."""
    import matplotlib
    from matplotlib.cm import ScalarMappable

    values = [cell.value for panel in drawn.panels for cell in panel.cells.values() if cell.value is not None]
    best = drawn.best()
    if best is None:
        raise ValueError("there is no value to draw")
    across = math.ceil(math.sqrt(len(drawn.panels)))
    down = math.ceil(len(drawn.panels) / across)
    width, height = max(2.2, _CELL[0] * len(drawn.columns)), max(1.6, _CELL[1] * len(drawn.rows))
    figure = new_figure(across * (width + 0.8) + 1.2, down * (height + 0.9) + 0.8)
    figure.suptitle(title, wrap=True)
    norm, colours = _norm(values), matplotlib.colormaps["viridis" if drawn.largest else "viridis_r"]
    shown = []
    for number, panel in enumerate(drawn.panels):
        axes = figure.add_subplot(down, across, number + 1)
        _draw(axes, drawn, panel, lambda value: colours(norm(value)), best[1] if number == best[0] else None)
        shown.append(axes)
    figure.colorbar(ScalarMappable(norm, colours), ax=shown)
    if footnote:
        figure.supxlabel(footnote, fontsize=SMALL, wrap=True)
    return figure


def _norm(values: list[float]) -> "Normalize":
    from matplotlib.colors import LogNorm, Normalize

    least, most = min(values), max(values)
    return (LogNorm if least > 0 and most > _LOGARITHMIC * least else Normalize)(least, most)


def _draw(
    axes: "Axes", drawn: HeatMap, panel: Panel, colour_of: Callable[[float], Colour], best: tuple[int, int] | None
) -> None:
    from matplotlib.patches import Rectangle

    for (row, column), cell in panel.cells.items():
        corner, colour = (column - 0.5, row - 0.5), "white"
        if cell.value is not None:
            red, green, blue, _ = colour_of(cell.value)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=(red, green, blue), linewidth=0))
            is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            colour = "black" if is_light else "white"
        if not cell.settled:
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="grey", linewidth=0))
        text, colour = (cell.note, "black") if cell.value is None else (f"{cell.value:.3g}", colour)
        is_best = (row, column) == best
        letters = axes.text(
            column, row, text, ha="center", va="center", color=colour, fontsize=SMALL - 1,
            fontweight="bold" if is_best else "normal",
        )  # fmt: skip
        if cell.value is None:
            letters.set_bbox({"facecolor": "white", "linewidth": 0, "pad": 1})  # legible on hatches
        if is_best:
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_BEST, linewidth=2, zorder=3))
    axes.set(
        xlim=(-0.5, len(drawn.columns) - 0.5),
        ylim=(-0.5, len(drawn.rows) - 0.5),
        xlabel=drawn.column_key,
        ylabel=drawn.row_key,
    )
    axes.set_title(panel.title, fontsize=SMALL + 1)
    axes.set_xticks(range(len(drawn.columns)), drawn.columns, fontsize=SMALL)
    axes.set_yticks(range(len(drawn.rows)), drawn.rows, fontsize=SMALL)
