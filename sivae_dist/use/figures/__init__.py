"""Pictures: grids for TensorBoard, labelled sheets of what a model does, animations, points, and curves of a run."""

from sivae_dist.use.figures.animation import animate
from sivae_dist.use.figures.files import check_out, save_picture
from sivae_dist.use.figures.grids import grid, in_rows
from sivae_dist.use.figures.metrics import curves
from sivae_dist.use.figures.pictures import (
    growth,
    interpolation,
    reconstructions,
    samples,
    style_mixing,
    translated,
)
from sivae_dist.use.figures.plots import plotted, save_plot
from sivae_dist.use.figures.points import reconstruct_points, sample_points, scatter
from sivae_dist.use.figures.sheet import Sheet

__all__ = [
    "Sheet",
    "animate",
    "check_out",
    "curves",
    "grid",
    "growth",
    "in_rows",
    "interpolation",
    "plotted",
    "reconstruct_points",
    "reconstructions",
    "sample_points",
    "samples",
    "save_picture",
    "save_plot",
    "scatter",
    "style_mixing",
    "translated",
]
