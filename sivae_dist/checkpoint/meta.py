"""Metadata that a run saves with its tensors: its progress, settings that matter, data set and hardware."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from sivae_dist.models.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Meta:
    """`meta` of a checkpoint's manifest. The number of images seen stands beside it, for every checkpoint has one.

    Fields with a default are not in checkpoints of all releases.
    """

    phase: int
    """Index of the schedule's phase that the last step belonged to, from 0."""
    resolution: int
    """Pixels per side, in that phase."""
    blending: bool
    """Whether the resolution was being blended in."""
    blend: float
    """Weight of the newest blocks in the last step, in [0, 1]; of no meaning without `blending`."""
    seed: int
    """Seed of the run."""
    hardware: dict[str, Any] | None = None
    """`type` of the devices (cpu, cuda) and `models`, the names of all kinds of them (process/devices.hardware)."""
    precision: str | None = None
    """engine.precision."""
    kernels: str | None = None
    """How layers were computed: engine.kernels, chosen where that is auto."""
    data: str
    """Digest of the data set's manifest."""
    objective: str | None = None
    """Checksum of the objective's files, such as the weights of a perceptual distance; None without any."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last row of metrics.jsonl by name, and values of an evaluation there, as `evaluation/NAME`."""
    evaluation_due: bool = False
    """Whether an evaluation was put off here, since the run was asked to stop."""
    skipped_steps: int = 0
    """Steps so far that the guard has kept from the weights."""
    quarantine: dict[str, int] = field(default_factory=dict)
    """Counts of damaged samples (step/quarantine.py)."""

    @classmethod
    def from_manifest(cls, content: Mapping[str, Any]) -> "Meta":
        """The metadata of a manifest, without fields of later releases. ValueError naming what is missing."""
        known = {entry.name: content[entry.name] for entry in fields(cls) if entry.name in content}
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(f"its meta is not that of a run: {error}") from None

    def to_manifest(self) -> dict[str, Any]:
        """For JSON, with the fields' names as keys. A run whose objective has no files saves what it ever did."""
        return {name: value for name, value in asdict(self).items() if name != "objective" or value is not None}

    @property
    def training_metrics(self) -> dict[str, float]:
        """Those of metrics.jsonl, without what was measured by an evaluation alone."""
        return {name: value for name, value in self.metrics.items() if not name.startswith("evaluation/")}

    def stage(self, device: torch.device) -> Stage:
        """The stage of growth that the networks had reached."""
        return Stage(self.resolution, torch.tensor(self.blend, device=device) if self.blending else None)
