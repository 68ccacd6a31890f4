"""Logs a run to files, TensorBoard and the terminal; silent on all processes but the first."""

import resource
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from data_pipelines.stages import pixels
from sivae_dist.checkpoint.saver import Saved
from sivae_dist.evaluation.rows import Row, describe, tag
from sivae_dist.monitoring.console import Reporter
from sivae_dist.monitoring.events import Events
from sivae_dist.monitoring.grids import GridFiles
from sivae_dist.objectives import Objective
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import Rows, read_rows
from sivae_dist.step.schedule import Schedule, Step

_WATCHED = 20
"""Rows that must have the same fault before a warning."""


class Monitor:
    def __init__(
        self,
        run: RunDirectory,
        objective: Objective,
        schedule: Schedule,
        images: int,
        metrics: dict[str, float],
        *,
        speaks: bool,
    ) -> None:
        """`images`: where the run begins; everything written past it is taken back. `metrics`: the last row there."""
        self.run = run
        self.objective = objective
        self.speaks = speaks
        self.schedule = schedule
        self.reporter = Reporter(schedule.end, images, enabled=speaks)
        self._waited = 0.0
        self._details: list[Sequence[str]] = []
        self._warned: set[str] = set()
        self._open(images, metrics)

    def _open(self, images: int, metrics: dict[str, float]) -> None:
        self._began = self._last = (perf_counter(), images)
        self._rate: float | None = None
        self._faults: deque[str | None] = deque(maxlen=_WATCHED)
        self.metrics = metrics
        """The last row of metrics.jsonl."""
        if self.speaks:
            self._metrics = Rows(self.run.metrics, images)
            self._speed = Rows(self.run.speed, images, self.say)
            self._evaluation = Rows(self.run.evaluation, images)
            self._events = Events(self.run.tensorboard, images, self.say)
            self._grids = GridFiles(self.run.grids, images, self.say)

    def rewind(self, images: int, metrics: dict[str, float]) -> None:
        """Takes back everything written past `images`."""
        self._close_files()
        self._open(images, metrics)

    def say(self, message: str) -> None:
        self.reporter.say(message)

    def step(self, step: Step) -> None:
        """After every step; costs next to nothing."""
        if self.speaks:
            resolution = pixels(step.phase.resolution)
            states = ["warm-up"] * step.segment.warming_up
            if step.segment.blending:
                states.append(f"blend {step.blend:.2f}")
            phase = [text for text in (", ".join(filter(None, [resolution, *states])), resolution) if text]
            began, start = self._began
            elapsed = perf_counter() - began
            rate = self._rate or ((step.end - start) / elapsed if elapsed > 1 else None)
            self.reporter.progress(step.end, phase, rate, self._details)

    def scalars(self, step: Step, terms: dict[str, float], data: Dataset, replaced: int, device: torch.device) -> None:
        """Logs a row of metrics and one of speed. `replaced`: damaged samples so far, of all processes."""
        if not self.speaks:
            return
        metrics = terms | {
            "schedule/resolution": step.phase.resolution,
            "schedule/blend": step.blend,
            "schedule/batch": step.batch,
            "schedule/lr_encoder": step.lr_encoder,
            "schedule/lr_decoder": step.lr_decoder,
        }
        now = perf_counter()
        elapsed = max(now - self._last[0], 1e-9)
        self._rate = (step.end - self._last[1]) / elapsed
        speed = {
            "speed/images_per_second": self._rate,
            "data/wait_share": (data.wait_seconds - self._waited) / elapsed,
            **data.speed(),
            "data/quarantined": replaced,
            "memory/resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        if device.type == "cuda":
            speed["memory/gpu_peak_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        self.metrics = metrics
        self._last, self._waited = (now, step.end), data.wait_seconds
        self._metrics.write(step.end, metrics)
        self._speed.write(step.end, speed)
        self._events.scalars(step.end, metrics | speed)
        self._details = self.objective.brief(terms)
        self._watch(terms)

    def _watch(self, terms: dict[str, float]) -> None:
        """Warns, once of each kind, of a fault that the objective has found in many rows."""
        fault = self.objective.fault(terms)
        self._faults.append(fault)
        if fault is not None and fault not in self._warned and self._faults.count(fault) == _WATCHED:
            self._warned.add(fault)
            self.say(f"warning: {fault.format_map(terms)}")

    def images(self, step: Step, grids: dict[str, Tensor]) -> None:
        if self.speaks:
            for name, picture in grids.items():
                self._events.image(step.end, name, picture)
                self._grids.write(step.end, name.rpartition("/")[2], picture)

    def is_evaluated(self) -> bool:
        """Whether there are values for the point where the run started or resumed."""
        return any(row["images"] == self._began[1] for row in read_rows(self.run.evaluation))

    def evaluated(self, images: int, rows: list[Row], seconds: float) -> None:
        """Logs the values of an evaluation after `images` images."""
        if self.speaks:
            for row in rows:
                self._evaluation.write(images, {key: value for key, value in row.items() if key != "images"})
                self.say(describe(row))
            speed = {"evaluation/seconds": seconds}
            self._speed.write(images, speed)
            self._events.scalars(images, {tag(row): row["value"] for row in rows} | speed)

    def text(self, name: str, text: str, images: int) -> None:
        if self.speaks:
            self._events.text(name, text, images)

    def saved(self, images: int, saved: Saved) -> None:
        """Logs that a checkpoint is on disk, or could not be written."""
        if saved.error is not None:
            self.say(f"warning: {saved.error}; the next checkpoint tries again")
        elif self.speaks:
            row: dict[str, Any] = {
                "checkpoint/seconds": saved.seconds,
                "checkpoint/blocked_seconds": saved.blocked,
                "checkpoint/gb": saved.bytes / 1e9,
            }
            self._speed.write(images, row)
            self._events.scalars(images, row)

    def draw_curves(self) -> None:
        """Draws RUN/figures/curves.png from all rows of metrics."""
        if not self.speaks:
            return
        from sivae_dist.use import figures

        try:
            if rows := read_rows(self.run.metrics):
                figures.curves(rows, self.run.curves, self.run.path.name, self.objective)
        except OSError as error:
            self.say(f"warning: {self.run.curves} cannot be written: {error}")

    def sync(self) -> None:
        """Before a checkpoint: every row that it will count as logged must be on disk. Safe from any thread."""
        if self.speaks:
            self._metrics.sync()
            self._evaluation.sync()
            self._events.flush()

    def close(self) -> None:
        self.reporter.close()
        self._close_files()

    def _close_files(self) -> None:
        if self.speaks:
            self._metrics.close()
            self._speed.close()
            self._evaluation.close()
            self._events.close()
