"""TensorBoard events. Steps are images seen."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class Events:
    """Writes scalars and image grids. On resume, whatever was written past the checkpoint is taken back."""

    def __init__(self, folder: Path, images: int) -> None:
        # purge_step makes readers drop events from that step on that earlier processes of this run left.
        self._writer = SummaryWriter(str(folder), purge_step=images + 1 if images else 0, flush_secs=30)

    def scalars(self, images: int, values: dict[str, Any]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, images)

    def image(self, images: int, tag: str, grid: Tensor) -> None:
        """A grid [C, H, W] in [0, 1]."""
        self._writer.add_image(tag, grid, images)

    def text(self, tag: str, text: str, images: int) -> None:
        self._writer.add_text(tag, text, images)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
