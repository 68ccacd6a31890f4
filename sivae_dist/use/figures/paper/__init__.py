"""The paper's figures of points in the plane, made from runs: a file for each."""

from sivae_dist.use.figures.paper.base import FIGURES, Shown
from sivae_dist.use.figures.paper.figure9 import densities, deviation
from sivae_dist.use.figures.paper.figure21 import collapse

__all__ = ["FIGURES", "Shown", "collapse", "densities", "deviation"]
