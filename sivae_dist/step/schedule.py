"""The schedule: a pure function from images seen to resolution, blend, batch and learning rates."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from data_pipelines.stages import pixels
from sivae_dist.settings import (
    Images,
    ImagesPerResolution,
    IntPerResolution,
    PerResolution,
    Settings,
    SharePerResolution,
    at,
)


class ScheduleSettings(Settings):
    """Every value is one number for all resolutions or a mapping from resolution to number."""

    images: ImagesPerResolution | None = None
    """Images to train at each resolution, the transition included. Either this or `epochs`."""
    epochs: PerResolution | None = None
    """The same in epochs, passes over the training samples."""
    blend: SharePerResolution = 0.5
    """Share of a phase over which its resolution is blended in; the first phase has no transition."""
    blend_of: dict[int, Images] = {}
    """Number of images that `blend` is a share of, if not of the whole phase. It is set automatically when a run is
    extended in the middle of a phase, so that the transition stays as it was."""
    blend_curve: Literal["linear", "cosine"] = "cosine"
    """`cosine`: half a cosine, as in the authors' code; `linear`: as in StyleGAN."""
    batch: IntPerResolution = 32
    """Images per step, over all processes."""
    lr_encoder: PerResolution = 0.0015
    """Learning rate of the encoder."""
    lr_decoder: PerResolution = 0.0015
    """Learning rate of the decoder."""
    milestones: tuple[Images, ...] = ()
    """Images seen, in rising order, from each of which on both learning rates are multiplied by `gamma`."""
    gamma: float = Field(0.1, ge=0, le=1)
    """Factor on both learning rates at every milestone."""
    final_decay: float = Field(0.0, ge=0, le=1)
    """Share of the last phase, at its end, over which both learning rates fall linearly."""
    final_lr: float = Field(0.05, ge=0, le=1)
    """Learning rate at the end of that decay, as a share of the original one."""
    reset_optimizer: bool = False
    """Forget the optimizer's state when the resolution changes, as the authors do."""

    @model_validator(mode="after")
    def _one_length(self) -> "ScheduleSettings":
        if (self.images is None) == (self.epochs is None):
            raise ValueError("give either schedule.images or schedule.epochs, and null for the other")
        if any(before >= after for before, after in pairwise(self.milestones)):
            raise ValueError(f"schedule.milestones must rise: {', '.join(map(str, self.milestones))}")
        return self


@dataclass(frozen=True)
class Phase:
    """Training at one resolution: positions [start, start + images), the first `blend_images` of them in transition."""

    index: int
    resolution: int
    start: int
    images: int
    blend_images: int
    batch: int
    lr_encoder: float
    lr_decoder: float

    @property
    def end(self) -> int:
        return self.start + self.images


@dataclass(frozen=True)
class Segment:
    """The static part of a step. Networks are prepared (wrapped, compiled) anew whenever it changes."""

    resolution: int
    blending: bool
    warming_up: bool

    def __str__(self) -> str:
        states = ["in transition"] * self.blending + ["warming up"] * self.warming_up
        return ", ".join([*filter(None, [pixels(self.resolution)]), *states]) or "every step"


@dataclass(frozen=True)
class Step:
    """One step of training: the images at positions [position, position + batch) of the run."""

    position: int
    batch: int
    phase: Phase
    segment: Segment
    blend: float
    lr_encoder: float
    lr_decoder: float

    @property
    def end(self) -> int:
        """Images seen after the step."""
        return self.position + self.batch


_RATES = ("lr_encoder", "lr_decoder")


class Schedule:
    """The plan of a run. A step belongs to the phase of its first image."""

    def __init__(self, settings: ScheduleSettings, resolutions: list[int], train_samples: int, warmup: int = 0) -> None:
        """ValueError when a resolution has no value, an epoch no length or a batch no image."""
        self.settings = settings
        self.train_samples = train_samples
        self.warmup = warmup
        self.phases: list[Phase] = []
        start = 0
        for index, resolution in enumerate(resolutions):
            images = self._images(resolution, train_samples)
            batch = at(settings.batch, resolution, "schedule.batch")
            if batch < 1:
                raise ValueError(f"schedule.batch is {batch}{pixels(resolution, ' at ')}; it must be at least 1")
            first = not any(phase.images for phase in self.phases)
            blend = 0.0 if first else at(settings.blend, resolution, "schedule.blend")
            if not 0 <= blend <= 1:
                raise ValueError(f"schedule.blend is {blend}{pixels(resolution, ' at ')}; it is a share, from 0 to 1")
            blend_images = round(blend * settings.blend_of.get(resolution, images))
            if blend_images > images:
                raise ValueError(
                    f"the {images:,} images{pixels(resolution, ' at ')} are fewer than its transition of "
                    f"{blend_images:,} (schedule.blend of schedule.blend_of.{resolution})"
                )
            rates = {key: at(getattr(settings, key), resolution, f"schedule.{key}") for key in _RATES}
            for key, rate in rates.items():
                if not 0 <= rate < math.inf:
                    raise ValueError(f"schedule.{key} is {rate}{pixels(resolution, ' at ')}; it must be 0 or more")
            self.phases.append(
                Phase(
                    index=index,
                    resolution=resolution,
                    start=start,
                    images=images,
                    blend_images=blend_images,
                    batch=batch,
                    **rates,
                )
            )
            start += images
        self.phases = [phase for phase in self.phases if phase.images]
        if not self.phases:
            raise ValueError("the schedule holds no image: every phase is empty")
        self.total = start
        self.end = self._spans()[-1][2]
        """Images seen when the run is over: `total`, or a little more, as the last batch of a phase is always whole."""

    def _images(self, resolution: int, train_samples: int) -> int:
        if self.settings.images is not None:
            return at(self.settings.images, resolution, "schedule.images")
        assert self.settings.epochs is not None
        epochs = at(self.settings.epochs, resolution, "schedule.epochs")
        if not 0 <= epochs < math.inf:
            raise ValueError(f"schedule.epochs is {epochs}{pixels(resolution, ' at ')}; it must be 0 or more")
        return round(epochs * train_samples)

    def _spans(self) -> list[tuple[Phase, int, int]]:
        """Each phase with the positions [first, end) of its steps; one that another's last step covers is left out."""
        spans, position = [], 0
        for phase in self.phases:
            first = position
            position += max(0, math.ceil((phase.end - position) / phase.batch)) * phase.batch
            spans.append((phase, first, position))
        return spans

    def begun(self, images: int) -> list[tuple[Phase, int, int]]:
        """The phases of the first `images` images, each with the positions [first, end) of its steps up to there."""
        spans = [(phase, first, min(end, images)) for phase, first, end in self._spans()]
        return [(phase, first, end) for phase, first, end in spans if first < end]

    def past(self, images: int) -> dict[str, object]:
        """Everything that determines a run's first `images` images, by setting.

        Schedules with the same past take the same steps up to there. `images` is the end of a step.
        """
        begun = self.begun(images)
        facts: dict[str, object] = {}
        for phase, first, end in begun:
            blended = first - phase.start < phase.blend_images
            facts |= {
                f"images.{phase.resolution}": (first, end),
                f"batch.{phase.resolution}": phase.batch,
                f"lr_encoder.{phase.resolution}": phase.lr_encoder,
                f"lr_decoder.{phase.resolution}": phase.lr_decoder,
                f"blend.{phase.resolution}": (phase.start, phase.blend_images) if blended else None,
            }
            if blended:
                facts["blend_curve"] = self.settings.blend_curve
        last_step = images - begun[-1][0].batch if begun else 0
        if passed := self._milestones_passed(last_step):
            facts["milestones"] = (self.settings.milestones[:passed], self.settings.gamma)
        if begun and self._final_decay_at(last_step) < 1:
            last = self.phases[-1]
            facts["final_decay"] = (last.end, self.settings.final_decay * last.images, self.settings.final_lr)
        if len(begun) > 1:
            facts["reset_optimizer"] = self.settings.reset_optimizer
        return facts

    def phase_at(self, position: int) -> Phase:
        for phase in self.phases:
            if position < phase.end:
                return phase
        return self.phases[-1]

    def blend_at(self, position: int) -> float | None:
        """The weight of the newest blocks, or None outside a transition."""
        phase = self.phase_at(position)
        done = position - phase.start
        if done >= phase.blend_images:
            return None
        share = done / phase.blend_images
        return share if self.settings.blend_curve == "linear" else 0.5 - 0.5 * math.cos(math.pi * share)

    def decay_at(self, position: int) -> float:
        """The factor on both learning rates."""
        factor: float = self.settings.gamma ** self._milestones_passed(position)
        return factor * self._final_decay_at(position)

    def _milestones_passed(self, position: int) -> int:
        return sum(milestone <= position for milestone in self.settings.milestones)

    def _final_decay_at(self, position: int) -> float:
        last = self.phases[-1]
        length = self.settings.final_decay * last.images
        done = position - (last.end - length)
        if done <= 0 or length == 0:
            return 1.0
        return 1.0 - (1.0 - self.settings.final_lr) * min(done / length, 1.0)

    def step_at(self, position: int) -> Step:
        phase = self.phase_at(position)
        blend = self.blend_at(position)
        decay = self.decay_at(position)
        return Step(
            position=position,
            batch=phase.batch,
            phase=phase,
            segment=Segment(phase.resolution, blend is not None, position < self.warmup),
            blend=1.0 if blend is None else blend,
            lr_encoder=phase.lr_encoder * decay,
            lr_decoder=phase.lr_decoder * decay,
        )

    def steps(self, position: int) -> Iterator[Step]:
        """All steps from `position` to the end of the run."""
        while position < self.total:
            step = self.step_at(position)
            yield step
            position = step.end

    def following(self, step: Step) -> Step | None:
        """The first step of the next segment; None when the run ends before."""
        phase = step.phase
        for position in sorted({phase.start + phase.blend_images, phase.end, self.warmup}):
            if position > step.position:
                steps = math.ceil((position - step.position) / step.batch)
                next_step = self.step_at(step.position + steps * step.batch)
                if next_step.position < self.total and next_step.segment != step.segment:
                    return next_step
        return None

    def check_world_size(self, world_size: int) -> None:
        """ValueError naming the nearest batch sizes when one cannot be divided among the processes."""
        for phase in self.phases:
            if phase.batch % world_size:
                below = phase.batch // world_size * world_size
                nearest = below if below and phase.batch - below <= world_size / 2 else below + world_size
                where = pixels(phase.resolution, " at ")
                key = f"schedule.batch.{phase.resolution}" if where else "schedule.batch"
                raise ValueError(
                    f"the batch of {phase.batch}{where} cannot be divided among {world_size} processes; the nearest "
                    f"that can is {key}={nearest}"
                )


def crosses(step: Step, every: int) -> bool:
    """Whether the step's end passes a multiple of `every` images; never when `every` is 0."""
    return bool(every) and step.end // every > step.position // every
