"""The parameters shared by all points: the device, the intended run, and the amount of work."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from launch.doctor.selftest import SelfTest
from launch.steps import Stepper
from sivae_dist.config.run_settings import RunSettings, validate
from sivae_dist.train.kernels import choose_kernels


@dataclass(frozen=True)
class Course:
    device: torch.device
    processes: int
    """One per GPU."""
    config: RunSettings
    """Settings of the intended run."""
    batch: int
    """Images per process at the final resolution."""
    test: SelfTest
    """Tiny runs, and the folder for all files."""
    sizes: tuple[tuple[int, int], ...]
    """Resolutions and batch sizes of the timed steps."""
    modes: tuple[str, ...] = ("fp32", "tf32", "bf16", "compile")
    """Modes of the timed steps: a precision, or `compile`, which is tf32 compiled."""
    steps: int = 20
    """Number of consecutive steps that are timed or repeated."""
    tiny: tuple[str, ...] = ()
    """Overrides of `sivae train tiny`."""
    images: int = 512
    """Number of images that each loader decodes."""
    side: int = 128
    """Their resolution in pixels."""

    @classmethod
    def of(cls, config: RunSettings, batch: int | None, test: SelfTest) -> "Course":
        """For all GPUs of this machine. `batch`: the configuration's own share when None."""
        top, count = config.model.final_resolution, torch.cuda.device_count()
        if batch is None:
            given = config.schedule.batch
            whole = given[top] if isinstance(given, dict) else given
            batch = max(1, whole // count)
        sizes = dict.fromkeys(((top, 4), (min(64, top), 4), (4, 64)))
        return cls(torch.device("cuda", 0), count, config, batch, test, tuple(sizes))

    def settings(self, *assignments: str) -> RunSettings:
        """The settings of the intended run, with changes."""
        return validate(self.config.plain(), "config", assignments)

    def stepper(self, resolution: int, *assignments: str, blending: bool = False) -> Stepper:
        """Steps with the form of the layers that training would choose."""
        return stepper(self.settings(*assignments), self.device, resolution, blending=blending)

    def forget(self) -> None:
        """Frees cached memory and resets its peak."""
        import gc

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """Peak bytes of tensors on the GPU since `forget`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def wait(self) -> None:
        """Waits until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Timing:
    """Duration of a step in seconds."""

    host: float
    """Until the host has issued it."""
    total: float
    """Until the device has completed it."""


def stepper(settings: RunSettings, device: torch.device, resolution: int, *, blending: bool = False) -> Stepper:
    choose_kernels(settings.engine, device, None)
    return Stepper(settings, device, resolution, blending=blending)


def timed(course: Course, stepper: Stepper, images: int) -> Timing:
    """The mean over the course's steps, after two that do not count."""
    x, draws = stepper.images(images), stepper.draws(images)
    for _ in range(2):
        stepper.step(x, draws)
    return clocked(lambda: stepper.step(x, draws), course.steps, course.wait)


def clocked(take: Callable[[], object], steps: int, wait: Callable[[], None]) -> Timing:
    """The mean over consecutive steps. `wait` returns when the device has finished all its work."""
    wait()
    start = perf_counter()
    for _ in range(steps):
        take()
    host = perf_counter() - start
    wait()
    return Timing(host / steps, (perf_counter() - start) / steps)
