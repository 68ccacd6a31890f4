"""Figures of the paper from runs: `sivae figure NAME RUN...`.

A figure is a function from runs to a plot, added to the list of `sivae_dist.use.figures.paper` under its name:

    @FIGURES.add("fig9")
    def densities(runs: Sequence[Shown], seed: int, count: int) -> Figure: ...

It raises ValueError, in one line, for runs that it cannot show together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_pipelines.choices import Registry
from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.use.figures.metrics import Rows
from sivae_dist.use.figures.points import Square
from sivae_dist.use.figures.real import from_test_split
from sivae_dist.use.loading import load_run
from sivae_dist.use.pretrained import Pretrained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Shown:
    """A run as figures see it."""

    name: str
    settings: RunSettings
    model: Pretrained
    metrics: Rows

    @classmethod
    def of(cls, path: Path, *, checkpoint: str | int, live: bool, device: torch.device | None) -> "Shown":
        """ValueError when there is no run with such a checkpoint, or its samples are no points."""
        run = RunDirectory(path)
        settings = settings_of(run)
        if settings.model.of_images:
            raise ValueError(f"{path} was trained on images; this figure shows points in the plane")
        model = load_run(path, checkpoint=checkpoint, live=live, device=device)
        return cls(path.name, settings, model, read_rows(run.metrics))

    def real(self, count: int) -> tuple[Tensor, Square]:
        """Points [N, D] of the test split, and the square in which they are drawn. Raises as from_test_split."""
        x, _ = from_test_split(self.model, self.settings.data, count)
        with self.settings.data.open(0, torch.device("cpu")) as data:
            return x, Square.of(x, data.scale)


Drawing = Callable[[Sequence[Shown], int, int], "Figure"]
"""Runs, the seed of samples, and their number."""

FIGURES: Registry[Drawing] = Registry("figure")
