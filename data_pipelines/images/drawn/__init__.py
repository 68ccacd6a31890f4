"""Drawn sets: images computed from (seed, index) alone, for demos and tests that need no download."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from data_pipelines.images.drawn.faces import draw_face

DRAWN: dict[str, Callable[[int, int], npt.NDArray[np.uint8]]] = {"faces": draw_face}
"""Name -> generator; a generator maps (seed, index) to uint8 [height, width, 3]."""

__all__ = ["DRAWN", "draw_face"]
