"""What stands in the cells of a heat map."""

from pathlib import Path

import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from sivae_dist.use.figures.heat_map import Cell, HeatMap, Panel, heat_map, heat_map_figure

CELLS = {
    (0, 0): Cell(1.0),
    (0, 1): Cell(2.0),
    (1, 0): Cell(3.0, settled=False),
    (1, 2): Cell(None, False, "0007\nfailed"),
}


def drawn(*cells: dict[tuple[int, int], Cell], largest: bool = False) -> HeatMap:
    panels = [Panel(f"m = {number}", one) for number, one in enumerate(cells)]
    return HeatMap("beta_rec", ["0.1", "1"], "beta_kl", ["a", "b", "c"], panels, largest)


def test_cells() -> None:
    figure = heat_map_figure(drawn(CELLS), "title", "footnote")
    axes, bar = figure.axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1", (1, 0): "2", (0, 1): "3", (2, 1): "0007\nfailed"
    }  # fmt: skip
    boxes = [box for box in axes.patches if isinstance(box, Rectangle)]
    assert [box.get_xy() for box in boxes if box.get_hatch()] == [(-0.5, 0.5), (1.5, 0.5)]
    assert [box.get_xy() for box in boxes if box.get_linewidth() == 2] == [(-0.5, -0.5)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("beta_kl", "beta_rec")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "1"]
    assert bar.get_ylim() == (1, 3)
    filled = {box.get_xy(): sum(box.get_facecolor()[:3]) for box in boxes if box.get_fill()}
    assert filled[-0.5, -0.5] > filled[0.5, -0.5] > filled[-0.5, 0.5] and len(filled) == 3  # better is lighter


def test_the_largest_may_be_the_best() -> None:
    (axes, _) = heat_map_figure(drawn(CELLS, largest=True), "title").axes
    assert [box.get_xy() for box in axes.patches if box.get_linewidth() == 2] == [(-0.5, 0.5)]


def test_panels_share_colours_and_one_frame() -> None:
    figure = heat_map_figure(drawn({(0, 0): Cell(5.0)}, {(0, 0): Cell(2.0)}, {(0, 0): Cell(5.0)}), "title")
    *panels, bar = figure.axes
    assert [axes.get_title() for axes in panels] == ["m = 0", "m = 1", "m = 2"] and bar.get_ylim() == (2, 5)
    assert [len(axes.patches) for axes in panels] == [1, 2, 1]
    first, second, third = (axes.patches[0].get_facecolor() for axes in panels)
    assert first == third != second


def test_colours_of_values_that_differ_widely_are_logarithmic() -> None:
    def norm(*values: float) -> object:
        figure = heat_map_figure(drawn({(0, at): Cell(value) for at, value in enumerate(values)}), "title")
        return figure.axes[-1].get_yscale()

    assert norm(1, 1000) == "log" and norm(1, 50) == norm(-1, 1000) == norm(0, 1000) == "linear"
    assert norm(3, 3) == "linear"


def test_files(tmp_path: Path) -> None:
    heat_map(drawn(CELLS), tmp_path / "a.png", "title")
    assert Image.open(tmp_path / "a.png").size[0] > 200
    with pytest.raises(ValueError, match="no value"):
        heat_map(drawn({(0, 0): Cell(None)}), tmp_path / "b.png", "title")
    assert not (tmp_path / "b.png").exists()
