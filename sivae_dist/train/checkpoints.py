"""The checkpoints of a run in training: where it starts or goes back to, and what it saves."""

from typing import NamedTuple

import torch

from data_pipelines.dataset import Dataset
from sivae_dist.checkpoint import Checkpoint, CheckpointFolder, Meta
from sivae_dist.checkpoint.initial import initial_tensors
from sivae_dist.checkpoint.saver import CheckpointSaver
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Stage
from sivae_dist.models.layers import forms
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.process import startup
from sivae_dist.process.devices import describe, device_model, hardware, moved, start_lines
from sivae_dist.process.processes import everyone
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.guard import Guard
from sivae_dist.step.quarantine import Quarantine
from sivae_dist.step.schedule import Step
from sivae_dist.train.kernels import choose_kernels
from sivae_dist.train.players import Players


class Standing(NamedTuple):
    """The state of a run before its next step."""

    origin: str
    """A line for the terminal that says where the run starts from."""
    images: int = 0
    phase: int | None = None
    """Index of the phase of the last step."""
    metrics: dict[str, float] = {}
    """The last row of metrics.jsonl by name."""
    owed: Stage | None = None
    """The stage of an evaluation that was put off here."""


class Checkpoints:
    """Restores and saves players, guard and quarantine. All processes call all methods together."""

    def __init__(
        self,
        settings: RunSettings,
        run: RunDirectory,
        data: Dataset,
        players: Players,
        guard: Guard,
        quarantine: Quarantine,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.run = run
        self.data = data
        self.players = players
        self.guard = guard
        self.quarantine = quarantine
        self.device = device
        self.folder = CheckpointFolder(run.checkpoints)
        self.saver = CheckpointSaver(self.folder, settings.checkpoint, device)
        self._devices = everyone(lambda: (device_model(device), describe(device)))
        self._hardware = hardware((name for name, _ in self._devices), device)

    @property
    def start_lines(self) -> tuple[str, str]:
        """Two lines: the devices of the run, and how it computes."""
        described = [description for _, description in self._devices]
        where, how = start_lines(described, self.settings.engine.precision, torch.get_num_threads())
        return where, f"{how}, {forms.current()} kernels"

    def begin(self) -> tuple[Standing, list[str]]:
        """Resumes the run, else starts from what `init` names, else from the seed. Also returns warnings."""
        startup.doing("checking the newest checkpoint")
        found, notes = self.folder.newest_valid()
        notes += choose_kernels(self.settings.engine, self.device, None if found is None else found.meta)
        if found is not None:
            startup.doing(f"restoring {found.path}")
            notes += self._moved(found)
            return self._restore(found, f"continuing from {found.path}"), notes
        if (initial := initial_tensors(self.settings.init)) is not None:
            self.players.restore_networks(initial[0])
            return Standing(f"starting {self.run.path}, {initial[1]}"), notes
        return Standing(f"starting {self.run.path}"), notes

    def go_back(self) -> tuple[Standing | None, list[str]]:
        """Returns to the newest checkpoint, if there is one. Also returns warnings."""
        self.saver.wait()
        found, notes = self.folder.newest_valid()
        return (None if found is None else self._restore(found, f"back to {found.path}")), notes

    def save(self, step: Step, values: dict[str, float] | None, monitor: Monitor) -> None:
        """Saves after a step. `values`: those of an evaluation here; None when one was due and had to be put off."""
        meta = Meta(
            phase=step.phase.index,
            resolution=step.phase.resolution,
            blending=step.segment.blending,
            blend=step.blend,
            seed=self.settings.seed,
            hardware=self._hardware,
            precision=self.settings.engine.precision,
            kernels=forms.current(),
            data=self.data.digest,
            objective=self.players.digest,
            metrics=monitor.metrics | (values or {}),
            evaluation_due=values is None,
            skipped_steps=int(self.guard.skipped),
            quarantine=self.quarantine.state(),
        )
        self.saver.save(step.end, self.players.tensors(), meta, monitor.sync)

    def _moved(self, found: Checkpoint) -> list[str]:
        """Notes on a change of hardware. ValueError if it would change the draws and `device` does not ask for it."""
        before = found.meta.hardware
        note = moved(before, self._hardware)
        if before is None or note is None:
            return []
        if before["type"] != self._hardware["type"] and self.settings.device == "auto":
            raise ValueError(f"{note}; set device={self._hardware['type']} to continue anyway")
        return [note]

    def _restore(self, found: Checkpoint, origin: str) -> Standing:
        meta = found.meta
        if meta.data != self.data.digest:
            raise ValueError(f"{self.data.where} is not the data set that this run was started with")
        if meta.objective != self.players.digest:
            raise ValueError(
                "the weights of objective.reconstruction are not those that this run was started with: their checksum "
                f"was {meta.objective} and is {self.players.digest}"
            )
        self.players.restore(found.load())
        self.guard.reset(meta.skipped_steps)
        self.quarantine.restore(meta.quarantine)
        owed = meta.stage(self.device) if meta.evaluation_due and self.settings.evaluation.every else None
        return Standing(origin, found.images, meta.phase, meta.training_metrics, owed)
