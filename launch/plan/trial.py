"""Disk space for checkpoints, and a trial checkpoint."""

import shutil
from pathlib import Path

import torch

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.checkpoint.saver import CheckpointSaver
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Schedule
from sivae_dist.train.memory import meta_networks
from sivae_dist.train.players import full_size


def check_space(settings: RunSettings, schedule: Schedule, run: Path) -> str:
    """The space that checkpoints need and the space that is free. ValueError when it does not suffice."""
    size, kept, place = full_size(meta_networks(settings)), settings.checkpoint.most_kept(schedule.end), existing(run)
    free = shutil.disk_usage(place).free
    if free < kept * size:
        raise ValueError(
            f"{kept} checkpoints of {size / 1e9:.2f} GB need {kept * size / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free in {place}: free some space, or choose another --run-dir"
        )
    return f"{kept} checkpoints of {size / 1e9:.2f} GB; {free / 1e9:,.0f} GB are free in {place}"


def try_checkpoint(settings: RunSettings, run: Path) -> int:
    """Writes a full-size checkpoint as training would, verifies and removes it; returns its size in bytes.

    Raises OSError or ValueError on failure.
    """
    place = RunDirectory(run).checkpoints / ".trial"
    part = 1 << 26
    size = full_size(meta_networks(settings))
    tensors = {f"padding.{at}": torch.zeros(min(part, size - at), dtype=torch.uint8) for at in range(0, size, part)}
    folder = CheckpointFolder(place)
    made = not run.exists()
    try:
        place.mkdir(parents=True)
        saver = CheckpointSaver(folder, settings.checkpoint, torch.device("cpu"))
        try:
            saver.save(0, tensors, None)
            saver.wait()
            saver.check()
        finally:
            saver.close()
        written, _ = folder.newest_valid(move_aside=False)
        if written is None:
            raise OSError(f"the checkpoint written to {place} is missing")
        return written.bytes
    finally:
        shutil.rmtree(run if made else place, ignore_errors=True)


def existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists as a folder."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())
