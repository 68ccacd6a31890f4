"""Points 3, 4 and 8: a step's synchronizations, time and memory."""

import warnings
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch

from launch.doctor.gpu.course import Course, timed
from launch.doctor.report import Finding
from launch.steps import Stepper
from sivae_dist.engines.settings import USUAL_ENGINE
from sivae_dist.process.stopping import Stop
from sivae_dist.train.memory import estimate

_SLACK = 1.3
"""Maximum ratio of a step's memory to its traced estimate."""


class _Watched(Stop):
    """Records, in a single step of a run, the places where the host waits for the GPU."""

    def __init__(self, device: torch.device, step: int) -> None:
        super().__init__()
        self._device = device
        self._left = step
        self.found: list[str] = []
        self._catching: Any = None
        self._caught: list[warnings.WarningMessage] = []

    def vote(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._catching = warnings.catch_warnings(record=True)
            self._caught = self._catching.__enter__()
            warnings.simplefilter("always")
            self._mode("warn")
        super().vote()

    def decided(self) -> bool:
        if self._catching is not None:
            self._mode("default")
            self._catching.__exit__(None, None, None)
            self._catching = None
            self.found = [
                f"{caught.filename.rpartition('/')[2]}:{caught.lineno}"
                for caught in self._caught
                if "synchroniz" in str(caught.message)
            ]
        return super().decided()

    def _mode(self, mode: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_sync_debug_mode(mode)


def waits(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Watches a step that does not log; torch's own warnings show where the host waits."""
    watched = _Watched(course.device, step=6)
    course.test.train(course.test.begin("waits", "monitoring.scalars_every=1M", "checkpoint.every=0"), watched)
    facts["places"] = watched.found
    if watched.found:
        places = ", ".join(f"{n} x {place}" for place, n in _counted(watched.found).items())
        yield Finding(
            "warn", "3 waits", f"a step waits for the GPU {len(watched.found)} times: {places}", "send the JSON"
        )
    else:
        yield Finding("ok", "3 waits", "a step that does not log does not wait for the GPU")


def _counted(words: list[str]) -> dict[str, int]:
    return {word: words.count(word) for word in dict.fromkeys(words)}


def speed(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Times steps after the warm-up, in each precision and compiled."""
    rows = facts.setdefault("rows", [])
    for resolution, images in course.sizes:
        for mode in course.modes:
            course.forget()
            row: dict[str, Any] = {"resolution": resolution, "images": images, "mode": mode}
            rows.append(row)
            name, what = "4 speed", f"{resolution} px x {images}, {mode}"
            assignments = (
                ["engine.precision=tf32", "engine.compile=true"] if mode == "compile" else [f"engine.precision={mode}"]
            )
            try:
                start = perf_counter()
                stepper = course.stepper(resolution, f"engine.name={USUAL_ENGINE}", *assignments)
                took = timed(course, stepper, images)
            except torch.OutOfMemoryError:
                row["error"] = "out of memory"
                yield Finding("warn", name, f"{what}: out of memory", "engine.max_batch_per_rank=auto finds what fits")
                continue
            except Exception as error:  # usually the compiler's; the other modes are still measured
                row["error"] = f"{type(error).__name__}: {error}"[:500]
                first = " ".join(str(error).split())[:120]
                yield Finding(
                    "fail", name, f"{what}: {type(error).__name__}: {first}", "do not use this mode; send the JSON"
                )
                continue
            begun = perf_counter() - start - course.steps * took.total
            row |= {"host": took.host, "total": took.total, "begin": begun, "peak": course.peak()}
            memory = "" if row["peak"] is None else f", {row['peak'] / 1e9:.1f} GB"
            yield Finding(
                "ok",
                name,
                f"{what}: {1000 * took.total:.1f} ms (host {1000 * took.host:.1f}), {images / took.total:,.1f} images/s"
                f"{memory}" + (f", compiled in {begun:.0f} s" if mode == "compile" else ""),
            )
            del stepper


def largest(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Compares the memory of a blending step at the final resolution, with the intended batch, with its estimate."""
    top = course.config.model.final_resolution
    course.forget()
    name, what = "8 largest", f"a blending step at {top} px with {course.batch} images"
    expected = estimate(course.config, top, True, course.batch, 1, device=course.device.type)
    facts |= {"batch": course.batch, "estimate": expected._asdict()}
    stepper: Stepper | None = None
    try:
        stepper = course.stepper(top, f"engine.name={USUAL_ENGINE}", blending=True)
        x, draws = stepper.images(course.batch), stepper.draws(course.batch)
        taken = stepper.step(x, draws)["taken"]
        fine = bool(taken)
    except torch.OutOfMemoryError:
        todo = "engine.max_batch_per_rank=auto, or engine.checkpoint_activations=true"
        yield Finding("fail", name, f"{what} does not fit: {expected.peak / 1e9:.1f} GB were expected", todo)
        return
    peak = course.peak()
    facts |= {"peak": peak, "taken": fine}
    tensors = expected.peak - expected.overhead
    text = f"{what}: " + (
        "was taken" if peak is None else f"{peak / 1e9:.2f} GB of tensors, {tensors / 1e9:.2f} expected"
    )
    if not fine:
        yield Finding("fail", name, f"{what}: was not finite", "try engine.precision=fp32; send the JSON")
    elif peak is not None and peak > _SLACK * tensors:
        yield Finding("warn", name, text, "the estimate is too low here; send the JSON")
    else:
        yield Finding("ok", name, text)
