"""The constants of a machine that decide how fast it trains, tabled (gpus.py) or measured (microbenchmarks.py)."""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from data_pipelines.problems import problems
from data_pipelines.settings import Settings
from sivae_dist.process.numerics import Precision
from sivae_dist.train.work import Kind


class Rate(Settings):
    """How fast products or convolutions of one shape are computed."""

    kind: Kind
    precision: Precision
    channels: int = Field(ge=1)
    """Geometric mean of inputs and outputs (train/work.py)."""
    positions: int = Field(ge=1)
    flops_per_second: float = Field(gt=0)


class Stream(Settings):
    """How long an operation takes that moves so many bytes."""

    kind: Kind
    precision: Precision
    bytes: int = Field(ge=1)
    seconds: float = Field(gt=0)


class Machine(Settings):
    """One GPU, or the cores of one process, and what connects it with others."""

    name: str
    device: Literal["cpu", "cuda"]
    source: list[str]
    """Where the constants are from: what was measured and how, or data sheets and assumptions."""
    measured: bool
    rates: list[Rate]
    streams: list[Stream]
    operation_seconds: float = Field(ge=0)
    """Time that the host needs to issue an operation, forward and backward."""
    memory: int = Field(gt=0)
    """Bytes of a GPU, or of the whole machine."""
    process_bytes: int = Field(ge=0)
    """Of a process besides its tensors."""
    per_node: int = Field(1, ge=1)
    """GPUs, or processes, of a node."""
    within_node: float | None = Field(None, gt=0)
    """Bytes per second that a ring of the GPUs of one node passes on; None if unknown."""
    between_nodes: float | None = Field(None, gt=0)
    """The same of a ring through several nodes."""
    sum_seconds: float = Field(0.0, ge=0)
    """Least time of a sum over several GPUs, however small."""
    watts: float | None = Field(None, gt=0)
    """Of a GPU's board; None if unknown."""

    @property
    def waits(self) -> bool:
        """Whether an operation is over before the next one is issued, as on a CPU."""
        return self.device == "cpu"

    def flops_per_second(self, kind: Kind, precision: Precision, channels: float, positions: float) -> float:
        """Of a product or convolution: interpolated in the logarithms of positions, then of channels; beyond what was
        measured, as at the border. ValueError when there is nothing of the kind in this precision."""
        rows = self._rows.get((kind, precision))
        if rows is None:
            raise ValueError(f"{self.name} has no constants for {kind} in {precision}")
        return math.exp(_interpolate([(size, _interpolate(row, positions)) for size, row in rows], channels))

    def stream_seconds(self, kind: Kind, precision: Precision, moved: int) -> float:
        """Of an operation that moves so many bytes: interpolated in the logarithms of bytes and seconds; below what was
        measured, as long as the smallest; above, in proportion to the largest. ValueError as above."""
        curve = self._curves.get((kind, precision)) or self._curves.get(("elementwise", precision))
        if curve is None:
            raise ValueError(f"{self.name} has no constants for {precision}")
        largest, _ = curve[-1]
        beyond = max(0.0, math.log(max(moved, 1)) - largest)
        return math.exp(_interpolate(curve, max(moved, 1)) + beyond)

    @cached_property
    def _rows(self) -> dict[tuple[Kind, Precision], list[tuple[float, list[tuple[float, float]]]]]:
        """By kind and precision: by the logarithm of channels, points (logarithm of positions, of the rate)."""
        ordered = sorted(self.rates, key=lambda one: (one.kind, one.precision, one.channels, one.positions))
        found: dict[tuple[Kind, Precision], list[tuple[float, list[tuple[float, float]]]]] = {}
        for (kind, precision, channels), ones in groupby(ordered, lambda one: (one.kind, one.precision, one.channels)):
            row = [(math.log(one.positions), math.log(one.flops_per_second)) for one in ones]
            found.setdefault((kind, precision), []).append((math.log(channels), row))
        return found

    @cached_property
    def _curves(self) -> dict[tuple[Kind, Precision], list[tuple[float, float]]]:
        """By kind and precision, points (logarithm of bytes, of seconds)."""
        found: dict[tuple[Kind, Precision], list[tuple[float, float]]] = {}
        for one in sorted(self.streams, key=lambda one: one.bytes):
            found.setdefault((one.kind, one.precision), []).append((math.log(one.bytes), math.log(one.seconds)))
        return found


def _interpolate(points: Sequence[tuple[float, float]], value: float) -> float:
    """Linear between points of ascending x, at the logarithm of `value`; constant beyond them."""
    x = math.log(value)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * max(0.0, x - x0) / (x1 - x0)
    return points[-1][1]


def read_machine(path: Path) -> Machine:
    """What `sivae benchmark` has written. ValueError naming the file when it is something else."""
    try:
        return Machine.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{path} is not written by `sivae benchmark`: {problems(error)[0]}") from None
