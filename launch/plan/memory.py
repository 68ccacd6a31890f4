"""Memory of each phase from a traced model, compared with this machine's if the run is to be here."""

from dataclasses import dataclass
from typing import Self

import torch

from data_pipelines.stages import pixels
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.process import startup
from sivae_dist.process.host import host_memory
from sivae_dist.step.schedule import Phase, Schedule
from sivae_dist.train.memory import Estimate, estimate, feature_values, remedy


@dataclass(frozen=True)
class Place:
    """The place where a run is to be trained."""

    device: str
    """cuda or cpu."""
    name: str
    """Name of the GPU or machine, for messages; empty for another machine."""
    bytes: int | None
    """Memory of all processes together (cpu) or of each (cuda); None for another machine."""

    @classmethod
    def of(cls, settings: RunSettings, *, here: bool) -> Self:
        gpu = settings.device != "cpu" and torch.cuda.is_available()
        if not here:
            return cls("cpu" if settings.device == "cpu" else "cuda", "", None)
        if gpu:
            return cls("cuda", torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory)
        return cls("cpu", "this machine", host_memory().total)

    def of_process(self, processes: int) -> int | None:
        """Bytes that each process may use."""
        return self.bytes // processes if self.bytes is not None and self.device == "cpu" else self.bytes


def images_at_once(settings: RunSettings, phase: Phase, processes: int) -> int:
    """Images that one process handles at once; 1 with engine.max_batch_per_rank=auto, which may go down to that."""
    share = phase.batch // processes
    if settings.engine.max_batch_per_rank == "auto":
        return 1
    return share // settings.engine.parts(share, phase.resolution)


def estimate_phase(settings: RunSettings, schedule: Schedule, phase: Phase, processes: int, device: str) -> Estimate:
    """The estimate for the phase's largest step."""
    startup.doing(f"tracing a step{pixels(phase.resolution, ' at ')} for its memory")
    return estimate(
        settings,
        phase.resolution,
        phase.blend_images > 0,
        images_at_once(settings, phase, processes),
        processes,
        share=phase.batch // processes,
        warming_up=phase.end <= schedule.warmup,
        device=device,
    )


def check_memory(settings: RunSettings, schedule: Schedule, processes: int, place: Place) -> tuple[str, str | None]:
    """The needs of the largest step, and a warning if they are too large. On a CPU this is a ValueError instead.

    On a GPU the run itself tries the step, so an estimate is no reason to refuse it.
    """

    def load(phase: Phase) -> int:
        return images_at_once(settings, phase, processes) * feature_values(settings, phase.resolution)

    phase = max(schedule.phases, key=load)
    found = estimate_phase(settings, schedule, phase, processes, place.device)
    batch = images_at_once(settings, phase, processes)
    step = f"{batch} image{'s' if batch > 1 else ''} at once{pixels(phase.resolution, ' at ')}"
    what = f"{step} take about {found.peak / 1e9:.1f} GB per process"
    room = place.of_process(processes)
    if room is None or found.peak <= room:
        return what, None
    short = f"{what}, and {place.name} has {room / 1e9:.1f}: set {remedy(settings)}"
    if place.device == "cpu":
        raise ValueError(short)
    return what, short
