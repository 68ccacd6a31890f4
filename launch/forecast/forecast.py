"""What a run will take on a number of GPUs: time, memory, communication, money and energy of every phase."""

import math
from dataclasses import dataclass

from data_pipelines.stages import pixels
from launch.forecast.machine import Machine
from launch.forecast.roofline import time_of_step
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.forms import Form
from sivae_dist.process import startup
from sivae_dist.step.schedule import Phase, Schedule, Segment
from sivae_dist.train.communication import Communication, communication
from sivae_dist.train.counts import trace_step
from sivae_dist.train.memory import Estimate, estimate, form_on

_BUCKET = 25 << 20
"""Bytes of the last gradients that DDP sends, behind which no backward is left to hide them."""

_HIDES = 0.05
"""Share of the last backward that is still to come when gradients are sent, which are whole only after the backward of
a network's first pass: 2 to 7% of an update (docs/performance.md)."""

HOUR = 3600.0


@dataclass(frozen=True)
class PhaseForecast:
    """A phase on all GPUs."""

    resolution: int
    images: int
    steps: int
    batch: int
    """Images that one GPU takes at once."""
    parts: int
    """Micro-batches of a step."""
    seconds: float
    sent: int
    """Bytes that each GPU sends in the phase."""
    waited: float
    """Seconds of all that are spent on communication alone."""
    memory: int
    """Bytes of a GPU, or of a process on a CPU."""
    fits: bool

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Forecast:
    """A run on `gpus` GPUs, or processes of a CPU. Without the start, evaluations, checkpoints and waits for data."""

    gpus: int
    phases: list[PhaseForecast]
    price: float | None
    """Of a GPU-hour."""
    watts: float | None
    """Of a GPU."""

    def hours(self, phase: PhaseForecast | None = None) -> float:
        return sum(one.seconds for one in self._of(phase)) / HOUR

    def gpu_hours(self, phase: PhaseForecast | None = None) -> float:
        return self.gpus * self.hours(phase)

    def cost(self, phase: PhaseForecast | None = None) -> float | None:
        return None if self.price is None else self.price * self.gpu_hours(phase)

    def kilowatt_hours(self, phase: PhaseForecast | None = None) -> float | None:
        """What the boards take at their full power; hosts, networks and cooling come on top."""
        return None if self.watts is None else self.watts / 1000 * self.gpu_hours(phase)

    def _of(self, phase: PhaseForecast | None) -> list[PhaseForecast]:
        return self.phases if phase is None else [phase]


def forecast(
    settings: RunSettings, schedule: Schedule, machine: Machine, gpus: int, price: float | None = None
) -> Forecast:
    """ValueError when a batch cannot be divided among so many GPUs, or the machine has no constants for the run."""
    schedule.check_world_size(gpus)
    if settings.engine.precision == "fp64" and not any(one.precision == "fp64" for one in machine.rates):
        raise ValueError(f"engine.precision=fp64: there are no constants of {machine.name} for it")
    with forms.using(form_of(settings, machine)):
        phases = [_phase(settings, schedule, machine, gpus, *span) for span in schedule.begun(schedule.end)]
    return Forecast(gpus, phases, price, machine.watts)


def form_of(settings: RunSettings, machine: Machine) -> Form:
    """How layers are computed there. What torch.compile makes is not known: it is counted as `fused`."""
    kernels = settings.engine.kernels
    if kernels == "auto":
        return "fused" if settings.engine.compile else form_on(machine.device)
    return "fused" if kernels == "native" and machine.device == "cuda" else kernels


def _phase(
    settings: RunSettings, schedule: Schedule, machine: Machine, gpus: int, phase: Phase, first: int, end: int
) -> PhaseForecast:
    share = phase.batch // gpus
    room = machine.memory if machine.device == "cuda" else machine.memory // gpus
    batch, memory = _fitted(settings, schedule, phase, machine, gpus, room)
    parts = share // batch
    seconds = waited = 0.0
    sent = 0
    for segment, steps in segments(schedule, phase, first, end).items():
        startup.doing(f"tracing a step{pixels(segment.resolution, ' at ')}")
        traced = trace_step(
            settings, segment.resolution, batch, parts, blending=segment.blending, warming_up=segment.warming_up
        )
        time = time_of_step(traced.work, machine, settings.engine.precision)
        exchange = communication(
            settings,
            segment.resolution,
            gpus,
            blending=segment.blending,
            warming_up=segment.warming_up,
            parts=parts,
        )
        alone = exposed(exchange, time.backward / parts, machine)
        seconds += steps * (time.total + alone)
        waited += steps * alone
        sent += steps * exchange.sent
    steps = (end - first) // phase.batch
    return PhaseForecast(
        phase.resolution, end - first, steps, batch, parts, seconds, sent, waited, memory, memory <= room
    )


def segments(schedule: Schedule, phase: Phase, first: int, end: int) -> dict[Segment, int]:
    """How many steps of a phase, which take the images from `first` to `end`, belong to each of its segments."""

    def steps_before(position: int) -> int:
        return min(max(0, math.ceil((position - first) / phase.batch)), (end - first) // phase.batch)

    warm, blended = steps_before(schedule.warmup), steps_before(phase.start + phase.blend_images)
    ends = sorted({warm, blended, (end - first) // phase.batch} - {0})
    starts = [0, *ends[:-1]]
    return {
        Segment(phase.resolution, start < blended, start < warm): stop - start
        for start, stop in zip(starts, ends, strict=True)
    }


def exposed(exchange: Communication, backward: float, machine: Machine) -> float:
    """Seconds of a step in which a GPU only communicates: the end of the last backward hides some of the gradients'
    sums, but not of the last ones; weights that are gathered come after the step, and sums of batch statistics are
    waited for, one by one. 0 where links are unknown."""
    reduced, gathered, gpus, statistics, sums = exchange
    link = machine.within_node if gpus <= machine.per_node else machine.between_nodes
    if gpus == 1 or link is None:
        return 0.0
    others = (gpus - 1) / gpus
    gradients, gathers = 2 * reduced * others / link, gathered * others / link
    last = 2 * min(_BUCKET, reduced) * others / link
    waited = sums * machine.sum_seconds + 2 * statistics * others / link
    return max(gradients - _HIDES * backward, last) + gathers + waited


def _fitted(
    settings: RunSettings, schedule: Schedule, phase: Phase, machine: Machine, gpus: int, room: int
) -> tuple[int, int]:
    """Images at once, and bytes at the peak; with engine.max_batch_per_rank=auto the most that fit."""
    share = phase.batch // gpus
    if settings.engine.max_batch_per_rank != "auto":
        batch = share // settings.engine.parts(share, phase.resolution)
        return batch, peak_of(estimated(settings, schedule, phase, gpus, batch, machine), machine)
    for batch in (share // parts for parts in range(1, share + 1) if share % parts == 0):
        memory = peak_of(estimated(settings, schedule, phase, gpus, batch, machine), machine)
        if memory <= room:
            break
    return batch, memory


def estimated(
    settings: RunSettings, schedule: Schedule, phase: Phase, gpus: int, batch: int, machine: Machine
) -> Estimate:
    """Memory of the phase's largest step (train/memory.py)."""
    startup.doing(f"tracing a step{pixels(phase.resolution, ' at ')} for its memory")
    return estimate(
        settings,
        phase.resolution,
        phase.blend_images > 0,
        batch,
        gpus,
        share=phase.batch // gpus,
        warming_up=phase.end <= schedule.warmup,
        device=machine.device,
    )


def peak_of(found: Estimate, machine: Machine) -> int:
    """Bytes at the peak, with what a process of this machine takes besides tensors."""
    return found.peak - found.overhead + machine.process_bytes
