"""TensorBoard events. Steps are images seen."""

import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class Events:
    """Writes scalars and image grids. On resume, whatever was written past the checkpoint is taken back.

    A run does not end because its curves cannot be written (metrics.jsonl has the numbers): that is reported once, and
    retried with a new file, not twice in a second: readers take files in the order of the seconds in their names.
    """

    def __init__(self, folder: Path, images: int, warn: Callable[[str], object] = warnings.warn) -> None:
        self.folder = folder
        self._warn = warn
        self._warned = False
        self._again = 0.0
        # purge_step makes readers drop events from that step on that earlier processes of this run left.
        self._writer: SummaryWriter | None = None
        self._attempt(lambda writer: None, purge_step=images + 1 if images else 0)

    def _attempt(self, action: Callable[[SummaryWriter], object], purge_step: int | None = None) -> None:
        if self._writer is None and monotonic() < self._again:
            return
        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self.folder), purge_step=purge_step, flush_secs=30)
            action(self._writer)
        except OSError as error:
            self._writer = None  # it does not recover
            self._again = monotonic() + 1.5
            if not self._warned:
                self._warned = True
                self._warn(f"warning: TensorBoard's events in {self.folder} cannot be written for now: {error}")

    def scalars(self, images: int, values: dict[str, Any]) -> None:
        def action(writer: SummaryWriter) -> None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, images)

        self._attempt(action)

    def image(self, images: int, tag: str, grid: Tensor) -> None:
        """A grid [C, H, W] in [0, 1]."""
        self._attempt(lambda writer: writer.add_image(tag, grid, images))

    def text(self, tag: str, text: str, images: int) -> None:
        self._attempt(lambda writer: writer.add_text(tag, text, images))

    def flush(self) -> None:
        self._attempt(lambda writer: writer.flush())

    def close(self) -> None:
        if self._writer is not None:
            self._attempt(lambda writer: writer.close())
