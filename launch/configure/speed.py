"""Time per image at each resolution, measured on this machine or derived from a traced step for another."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from launch.configure.hardware import Hardware
from launch.configure.recipes import Recipe
from launch.steps import Stepper
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.train.memory import estimate

_INTROSPECTIVE = 3.4
"""Time of a Soft-IntroVAE step relative to a plain VAE's (passes: docs/training.md; 3.0 to 3.6 measured)."""
_PER_DOUBLING = 3.5
"""Time of a step at twice the resolution relative to a measured one."""
_TOGETHER = 0.9
"""Speed of a process among others relative to its speed alone."""
_HOST = {4: 0.016, 8: 0.022, 16: 0.033, 32: 0.041, 64: 0.055}
"""Seconds in which the host issues the kernels of a step (traced); 0.09 at larger resolutions."""

_FILLED = 0.9
"""Share of a GPU's memory that a step may use."""


@dataclass(frozen=True)
class Speed:
    """Seconds per image for the whole machine."""

    plain: dict[int, float]
    """In the warm-up, by resolution."""
    introspective: dict[int, float]

    def seconds(self, recipe: Recipe, images: dict[int, int], warmup: int) -> float:
        """Duration of a run with these images at each resolution."""
        total, position = 0.0, 0
        for resolution in recipe.resolutions:
            warm = min(max(warmup - position, 0), images[resolution])
            total += warm * self.plain[resolution] + (images[resolution] - warm) * self.introspective[resolution]
            position += images[resolution]
        return total


def measure(
    recipe: Recipe, settings: RunSettings, hardware: Hardware, budget: float, say: Callable[[str], None]
) -> Speed:
    """Measures steps of the warm-up at each resolution on this machine, until `budget` seconds have passed."""
    device = torch.device(hardware.kind)
    threads, batches, plain = torch.get_num_threads(), recipe.batches(), dict[int, float]()
    start = time.perf_counter()
    torch.set_num_threads(1 if hardware.kind == "cpu" else threads)
    try:
        for resolution in recipe.resolutions:
            if plain and time.perf_counter() - start > budget:
                plain[resolution] = plain[resolution // 2] * _PER_DOUBLING
                continue
            share = max(1, min(batches[resolution] // hardware.processes, 16))
            alone = _seconds(settings, device, resolution, share) / share
            plain[resolution] = alone / hardware.processes / (_TOGETHER if hardware.processes > 1 else 1)
            say(f"measured for a run to {recipe.resolution} px: {resolution} px, {1 / plain[resolution]:,.0f} images/s")
    finally:
        torch.set_num_threads(threads)
    return Speed(plain, {resolution: seconds * _INTROSPECTIVE for resolution, seconds in plain.items()})


def _seconds(settings: RunSettings, device: torch.device, resolution: int, share: int) -> float:
    """Seconds of one process's second step."""
    stepper = Stepper(settings, device, resolution, warming_up=True)
    x, draws = stepper.images(share), stepper.draws(share)
    took = 0.0
    for _ in range(2):
        start = time.perf_counter()
        taken = stepper.step(x, draws)["taken"]
        bool(taken)  # waits for the device
        took = time.perf_counter() - start
    return took


@dataclass(frozen=True)
class Traced:
    """Work and memory of a step, traced without a GPU."""

    flops: dict[int, float]
    """Operations per image, by resolution."""
    largest: dict[int, int]
    """Number of images that fit into a GPU at once, by resolution."""


def trace(recipe: Recipe, settings: RunSettings, hardware: Hardware, say: Callable[[str], None]) -> Traced:
    """Traces steps after the warm-up. ValueError when not even one image fits."""
    flops, largest = {}, {}
    for resolution in recipe.resolutions:
        share = recipe.batches()[resolution] // hardware.processes
        one = estimate(settings, resolution, resolution > 4, 1, hardware.processes, share=share)
        flops[resolution] = one.flops / share
        room = _FILLED * hardware.memory - (one.peak - one.activations)
        largest[resolution] = int(room // one.activations)
        if largest[resolution] < 1:
            raise ValueError(
                f"not even one image of {resolution} px fits into {hardware.memory / 1e9:.0f} GB "
                f"({one.peak / 1e9:.1f} GB are needed): choose a smaller --resolution"
            )
        say(
            f"traced for a run to {recipe.resolution} px: {resolution} px, {flops[resolution] / 1e12:.3g} TFLOP and "
            f"{one.activations / 1e9:.2g} GB per image"
        )
    return Traced(flops, largest)


def expect(recipe: Recipe, hardware: Hardware, traced: Traced) -> Speed:
    """The expected speed on other hardware."""
    assert hardware.speed is not None
    seconds = {}
    for resolution, flops in traced.flops.items():
        share = recipe.batches()[resolution] // hardware.processes
        parts = -(-share // traced.largest[resolution])
        host = _HOST.get(resolution, 0.09) * parts
        seconds[resolution] = max(host, share * flops / hardware.speed) / recipe.batches()[resolution]
    return Speed({r: each / _INTROSPECTIVE for r, each in seconds.items()}, seconds)
