"""Points drawn: each where it belongs, in pictures of training and of trained models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sivae_dist.use.figures.plots import plotted, rendered
from sivae_dist.use.figures.points import Square, by_class, in_plane, scatter

UNIT = Square(0.0, 0.0, 1.0)


def at(axes_pixels: NDArray[np.float64], height: int) -> list[tuple[int, int]]:
    """Rows and columns of places that matplotlib counts from the lower left corner."""
    return [(height - 1 - round(y - 0.5), round(x - 0.5)) for x, y in axes_pixels]


def is_dark(pixels: NDArray[np.uint8], row: int, column: int) -> bool:
    return bool(pixels[row - 1 : row + 2, column - 1 : column + 2].min() < 200)


def test_dots_are_where_the_points_are() -> None:
    """In the panel of their set, and nowhere else."""
    points = {"real": torch.tensor([[-0.5, 0.5], [0.75, -0.25]]), "samples": torch.tensor([[0.25, 0.25]])}
    figure = scatter(points, UNIT)
    pixels = rendered(figure)
    for panel, axes in zip(points, figure.axes, strict=True):
        assert axes.get_title() == panel
        for name, some in points.items():
            for row, column in at(axes.transData.transform(some.numpy()), len(pixels)):
                assert is_dark(pixels, row, column) == (name == panel)
    left, right, bottom, top = (round(float(v)) for v in figure.axes[1].get_window_extent().extents[[0, 2, 1, 3]])
    inside = pixels[len(pixels) - top + 3 : len(pixels) - bottom - 3, left + 3 : right - 3]
    rows, columns = np.nonzero((inside < 200).any(2))
    assert 1 <= len(rows) <= 12 and np.ptp(rows) < 5 and np.ptp(columns) < 5  # one dot, and no other ink


def test_a_plot_as_an_image() -> None:
    figure = scatter({"samples": torch.zeros(1, 2)}, UNIT)
    image = plotted(figure)
    assert image.shape[0] == 3 and image.min() >= 0 and image.max() == 1
    assert ((image.permute(1, 2, 0) * 255).round().numpy() == rendered(figure)).all()


@pytest.mark.parametrize("points", [torch.tensor([[0.0], [2.0]]), torch.tensor([[[0.0], [0.0]], [[2.0], [0.0]]])])
def test_samples_of_another_shape(points: Tensor) -> None:
    assert in_plane(points).tolist() == [[0, 0], [2, 0]]


def test_the_square() -> None:
    """The one of the data set, or around the points: their wider side fills it but for a little room."""
    points = torch.tensor([[10.0, 5.0], [14.0, 6.0]])
    assert Square.of(points, 1.5) == (0, 0, 3) and Square.of(points, 1.5).extent == (-3, 3, -3, 3)
    assert Square.of(points) == pytest.approx((12, 5.5, 2.2))
    assert Square.of(points[:1]) == (10, 5, 1)


def test_sets_of_classes() -> None:
    points = torch.arange(6.0).reshape(3, 2)
    sets = by_class(points, torch.tensor([2, 0, 2]), ("a", "b", "c"))
    assert not isinstance(sets, Tensor)
    assert {name: some.tolist() for name, some in sets.items()} == {"a": [[2, 3]], "c": [[0, 1], [4, 5]]}
    assert by_class(points, None, ()) is points
    figure = scatter({"samples": sets}, Square.of(points))
    legend = figure.axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["a", "c"]


def test_the_same_points_make_the_same_bytes(tmp_path: Path) -> None:
    from sivae_dist.use.figures import save_plot

    points = torch.rand(3_000, 2, generator=torch.Generator().manual_seed(0))
    for name in ("a.svg", "b.svg"):
        save_plot(tmp_path / name, scatter({"samples": points}, UNIT))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size < 100_000  # dots are not shapes
