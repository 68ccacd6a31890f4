"""What a run has measured of itself, by phase: speed.jsonl."""

from statistics import median
from typing import NamedTuple

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.step.schedule import Schedule


class Actual(NamedTuple):
    """One phase."""

    images_per_second: float
    """The median of its rows, so that evaluations, saves and the first steps of a start do not count."""
    memory: float
    """Most bytes of the first process so far: of tensors on a GPU, resident on a CPU."""


def actual(run: RunDirectory, schedule: Schedule) -> dict[int, Actual]:
    """By resolution, of the phases that have been logged. ValueError when there is none."""
    speeds: dict[int, list[float]] = {}
    memory: dict[int, float] = {}
    for row in read_rows(run.speed):
        if "speed/images_per_second" in row:
            resolution = schedule.phase_at(row["images"] - 1).resolution
            speeds.setdefault(resolution, []).append(row["speed/images_per_second"])
            used: float = row["memory/gpu_peak_gb" if "memory/gpu_peak_gb" in row else "memory/resident_gb"]
            memory[resolution] = max(used * 2**30, memory.get(resolution, 0.0))
    if not speeds:
        raise ValueError(f"{run.path} has logged no speed yet")
    return {resolution: Actual(median(rows), memory[resolution]) for resolution, rows in speeds.items()}


def processes_of(run: RunDirectory) -> int:
    """Processes that have written its newest checkpoint. ValueError when there is none."""
    if found := CheckpointFolder(run.checkpoints).readable():
        return int(found[-1].manifest["world_size"])
    raise ValueError(f"{run.path} has no checkpoint, which says on how many processes it is trained: give --gpus")
