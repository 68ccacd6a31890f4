"""The time of a step on a machine: of each operation the larger of what its arithmetic and its traffic take."""

from collections import Counter
from math import sqrt
from typing import NamedTuple

import torch

from launch.forecast.machine import Machine
from sivae_dist.process.numerics import Precision
from sivae_dist.train.work import Work

_PRECISIONS: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float64: "fp64"}
"""Of maps and weights; all other types move bytes as fp32 does."""


class StepTime(NamedTuple):
    """Seconds of one process's step, without communication."""

    forward: float
    """Of everything but backward passes: forward passes, optimizers, averages."""
    backward: float
    host: float
    """In which the host issues all operations, while a GPU computes."""

    @property
    def total(self) -> float:
        return max(self.forward + self.backward, self.host)


def time_of_step(work: Counter[Work], machine: Machine, precision: Precision) -> StepTime:
    """`precision`: of the run, which decides whether fp32 is tf32. ValueError when the machine has no constants."""
    forward = backward = 0.0
    operations = sum(work.values())
    for each, times in work.items():
        seconds = times * seconds_of(each, machine, precision)
        if machine.waits:
            seconds += times * machine.operation_seconds
        if each.backward:
            backward += seconds
        else:
            forward += seconds
    return StepTime(forward, backward, 0.0 if machine.waits else operations * machine.operation_seconds)


def seconds_of(work: Work, machine: Machine, precision: Precision) -> float:
    """Of a single operation."""
    stored = _PRECISIONS.get(work.dtype, "fp32")
    if not work.positions:
        return machine.stream_seconds(work.kind, stored, work.bytes)
    computed = "tf32" if (stored, precision, machine.device) == ("fp32", "tf32", "cuda") else stored
    channels = max(1.0, sqrt(work.inputs * work.outputs))
    arithmetic = work.flops / machine.flops_per_second(work.kind, computed, channels, work.positions)
    return max(arithmetic, machine.stream_seconds("elementwise", stored, work.bytes))
