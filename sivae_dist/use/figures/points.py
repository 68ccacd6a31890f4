"""Samples that are no images, as points in the plane: their first two values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from data_pipelines.points.files import TABLES, write_points
from sivae_dist.run.atomic import replacing
from sivae_dist.use.figures.files import check_out
from sivae_dist.use.figures.pictures import labels_of, latents
from sivae_dist.use.figures.plots import PLOTS, SMALL, new_figure, save_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sivae_dist.use.pretrained import Pretrained

REAL, DRAWN = "0.45", "C0"
"""Colours of real points and of a model's."""

_PANEL = 3.2
"""Inches."""
_ROOM = 0.05
"""Around points that say themselves where they are drawn, as a share of the square's side."""
_MOST_NAMES = 16
"""Sets that a legend names."""

POINTS = (*PLOTS, *TABLES)
"""Endings of points: plots, and tables of the points themselves."""

_BATCH = 4096

Sets = Mapping[str, Tensor]
"""Points [N, D] by the name of the set."""


class Square(NamedTuple):
    """The square that is drawn: its middle and half its side."""

    x: float
    y: float
    half: float

    @classmethod
    def of(cls, points: Tensor, scale: float | None = None) -> "Square":
        """[-2 scale, 2 scale]^2, or without a scale the smallest around the points [N, D], and a little more."""
        if scale is not None:
            return cls(0.0, 0.0, 2 * scale)
        flat = in_plane(points)
        least, most = flat.amin(0), flat.amax(0)
        half = float((most - least).max()) / 2 * (1 + 2 * _ROOM) or 1.0
        x, y = ((least + most) / 2).tolist()
        return cls(x, y, half)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top."""
        return self.x - self.half, self.x + self.half, self.y - self.half, self.y + self.half


def in_plane(points: Tensor) -> Tensor:
    """Samples [N, ...] -> their first two values, float64 [N, 2] on the CPU; a single one is 0 high."""
    flat = points.detach().flatten(1)[:, :2].double().cpu()
    return F.pad(flat, (0, 2 - flat.shape[1]))


def scatter(panels: Mapping[str, Tensor | Sets], square: Square, *, note: str = "", dpi: int = 110) -> "Figure":
    """A panel for each title, side by side, all of the same square; several sets in a panel in colours of their own.

    Those of real points, whose title is `real`, are grey.
    """
    figure = new_figure(_PANEL * len(panels), _PANEL + 0.25, dpi)
    for place, (title, sets) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        frame(axes, square)
        axes.set_title(title, fontsize=SMALL + 2)
        if isinstance(sets, Tensor):
            dots(axes, sets, REAL if title == "real" else DRAWN)
            continue
        for number, (name, points) in enumerate(sets.items()):
            dots(axes, points, f"C{number % 10}", name)
        if 1 < len(sets) <= _MOST_NAMES:
            axes.legend(fontsize=SMALL, markerscale=4, loc="upper right")
    if note:
        figure.supxlabel(note, fontsize=SMALL)
    return figure


def frame(axes: "Axes", square: Square, *, ticks: bool = True) -> None:
    """Axes of the square, as wide as high."""
    left, right, bottom, top = square.extent
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    if ticks:
        axes.tick_params(labelsize=SMALL)
    else:
        axes.set(xticks=[], yticks=[])


def dots(axes: "Axes", points: Tensor, colour: str, name: str | None = None, *, size: float = 2.0) -> None:
    """Points as dots, which are pixels in every format: thousands of them as shapes are slow to show."""
    x, y = in_plane(points).T.numpy()
    axes.scatter(x, y, s=size, c=colour, linewidths=0, alpha=0.7, label=name, rasterized=True)


def by_class(points: Tensor, labels: Tensor | None, names: Sequence[str]) -> Tensor | Sets:
    """The points [N, D] of each class [N] by its name; of a model without classes as they are."""
    if labels is None:
        return points
    numbers = labels.tolist()
    return {names[label]: points[labels == label] for label in sorted(set(numbers))}


def sample_points(
    model: "Pretrained", numbers: Sequence[int], out: Path, seed: int = 0, *, classes: Sequence[int] = ()
) -> None:
    """Writes the samples with these numbers, of one of the `classes` after the other: as a plot, each class in a colour
    of its own, or as a table, which the ending of `out` (POINTS) decides."""
    labels = labels_of(model, numbers, classes)
    points = model.draw(latents(model, numbers, seed), labels, batch=_BATCH)
    sets = by_class(points, labels, model.class_names)
    note = f"seed {seed}, {_origin(model)}"
    _write(out, points, {f"{len(points):,} samples": sets}, Square.of(points), note)


def reconstruct_points(model: "Pretrained", real: Tensor, labels: Tensor | None, out: Path) -> None:
    """Writes the reconstructions of real points [N, D]: beside them as a plot, or, in their order, as a table."""
    points = model.reconstruct(real, batch=_BATCH, labels=labels)
    square = Square.of(torch.cat((real, points.to(real))))
    _write(out, points, {"real": real, "reconstructions": points}, square, _origin(model))


def _write(out: Path, points: Tensor, panels: Mapping[str, Tensor | Sets], square: Square, note: str) -> None:
    if check_out(out, POINTS) in TABLES:
        with replacing(out, durable=False) as partial:
            write_points(partial, points.flatten(1).cpu().numpy())
    else:
        save_plot(out, scatter(panels, square, note=note))


def _origin(model: "Pretrained") -> str:
    return f"{model.images:,} points seen" + (", live weights" if model.live else "")
