"""What matplotlib plots: curves, points and densities, all in one look, as files and for TensorBoard."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sivae_dist.run.atomic import replacing
from sivae_dist.use.figures.files import PICTURES, check_out, save_picture

if TYPE_CHECKING:  # its import takes as long as a picture
    from matplotlib.figure import Figure

_VECTOR = {".pdf": "CreationDate", ".svg": "Date"}
"""Formats that are drawn at any size, and where each would hold the date of writing."""

PLOTS = (*PICTURES, *_VECTOR)
"""Endings of plots."""

PAPER_DPI = 200
"""Dots per inch of the figures of the paper and of the theory, where they are pixels."""

SMALL = 8
"""Size of letters beside the axes, in points."""


def new_figure(width: float, height: float, dpi: int = 110) -> "Figure":
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def save_plot(path: Path, figure: "Figure") -> None:
    """Writes a plot; the ending of `path` decides the format (PLOTS). The same plot makes the same bytes."""
    from matplotlib import rc_context

    ending = check_out(path, PLOTS)
    if ending in _VECTOR:
        with replacing(path, durable=False) as partial, rc_context({"svg.hashsalt": "sivae"}):
            figure.savefig(partial, format=ending[1:], metadata={_VECTOR[ending]: None})
        return
    save_picture(path, Image.fromarray(rendered(figure)))


def rendered(figure: "Figure") -> NDArray[np.uint8]:
    """Its pixels [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))


def plotted(figure: "Figure") -> Tensor:
    """The same as an image [3, H, W] in [0, 1]."""
    return torch.from_numpy(rendered(figure).copy()).permute(2, 0, 1) / 255
