"""The image grids of a run as files beside its curves: RUN/figures/training/sample-000000050000.png."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from sivae_dist.use import figures

_NAME = re.compile(r"[a-z_]+-(\d{12})\.png")


class GridFiles:
    """Writes grids under their names and the number of images seen. On resume, those past the checkpoint are removed.

    A run does not end because a grid cannot be written: the reason is reported once.
    """

    def __init__(self, folder: Path, images: int, warn: Callable[[str], object]) -> None:
        self.folder = folder
        self._warn = warn
        self._warned = False
        self._attempt(lambda: self._cut_back(images))

    def write(self, images: int, name: str, grid: Tensor) -> None:
        """A grid [C, H, W] in [0, 1]."""
        path = self.folder / f"{name}-{images:012d}.png"
        self._attempt(lambda: figures.save_picture(path, grid))

    def _cut_back(self, images: int) -> None:
        for path in self.folder.glob("*.png"):
            if (match := _NAME.fullmatch(path.name)) and int(match[1]) > images:
                path.unlink()

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"warning: image grids in {self.folder} cannot be written for now: {error}")
