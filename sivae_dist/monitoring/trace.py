"""For debugging: a record of every position of the run, to compare runs byte for byte."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from data_pipelines.dataset import SampleOrder
from sivae_dist.objectives import Draws
from sivae_dist.process.processes import everyone, rank
from sivae_dist.run.jsonl import Rows


class Trace:
    """RUN/trace.jsonl: a row for each position with its sample number, flip, and SHA-256 of pixels, further inputs
    (by their names) and draws."""

    def __init__(self, path: Path, images: int, order: SampleOrder) -> None:
        """`images`: where the run stands; rows past it are removed."""
        self.path = path
        self.order = order
        self._begin(images)

    def _begin(self, images: int) -> None:
        self._rows = Rows(self.path, images) if rank() == 0 else None
        self._next = images
        self._early: dict[int, dict[str, object]] = {}  # rows of positions past `_next`

    def write(self, first: int, x: Tensor, draws: Draws, extra: Mapping[str, Tensor]) -> None:
        """Records what this process trains on at the positions from `first` on; called by all processes together.

        Rows are written in the order of positions, whichever process or micro-batch comes first; those of positions
        to which the run has gone back take the place of the old ones.
        """
        rows = dict(row for part in everyone(lambda: self._describe(first, x, draws, extra)) for row in part)
        if min(rows) < self._next:
            self.close()
            self._begin(min(rows))
        self._early |= rows
        while self._next in self._early:
            row = self._early.pop(self._next)
            self._next += 1
            if self._rows is not None:
                self._rows.write(self._next, row)

    def _describe(
        self, first: int, x: Tensor, draws: Draws, extra: Mapping[str, Tensor]
    ) -> list[tuple[int, dict[str, object]]]:
        samples, flips = self.order.at(first, x.shape[0])
        tensors = {"pixels": x, **extra, "latent": draws.z, "reparameterization": draws.eps}
        if draws.noise is not None:
            tensors["noise"] = draws.noise
        if draws.mixing is not None:
            tensors |= {"mixing_latent": draws.mixing.z, "mixing_cutoff": draws.mixing.cutoff}
        rows: list[tuple[int, dict[str, object]]] = []
        for i in range(x.shape[0]):
            row: dict[str, object] = {"position": first + i, "sample": int(samples[i]), "flip": bool(flips[i])}
            rows.append((first + i, row | {name: _sha256(tensor[i]) for name, tensor in tensors.items()}))
        return rows

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
