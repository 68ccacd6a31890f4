"""Drawn sets: images computed from (seed, index) alone, for demos and tests that need no download."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipelines.images.drawn import cars, faces
from data_pipelines.images.drawn.cars import draw_car
from data_pipelines.images.drawn.faces import draw_face
from data_pipelines.images.sources.cars3d import MODELS, VIEWS


@dataclass(frozen=True)
class DrawnSet:
    """One kind of drawn image."""

    draw: Callable[[int, int], npt.NDArray[np.uint8]]
    """From seed and index to uint8 [height, width, 3], RGB; a pure function."""
    count: int
    """Usual number of images."""
    names: Callable[[int], Callable[[int], str]]
    """From the number of images to a function from an index to its name in the set, with folders and without an ending.
    Raises ValueError, in one line, for a number that makes no set."""


DRAWN: dict[str, DrawnSet] = {
    "faces": DrawnSet(draw_face, 6000, faces.name_faces),
    "cars": DrawnSet(draw_car, MODELS * VIEWS, cars.name_cars),
}
"""By name."""

__all__ = ["DRAWN", "DrawnSet", "draw_car", "draw_face"]
