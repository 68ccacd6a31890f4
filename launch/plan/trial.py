"""The room that checkpoints take, and one that is written for trial."""

import shutil
from pathlib import Path

import torch

from sivae_dist.checkpoint import CheckpointFolder, CheckpointSaver
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Schedule
from sivae_dist.train.memory import meta_networks


def checkpoint_bytes(settings: RunSettings) -> int:
    """Of a checkpoint at the end of the run."""
    values = sum(tensor.numel() for network in meta_networks(settings) for tensor in network.state_dict().values())
    return 4 * values * settings.engine.dtype.itemsize  # weights, their average, and Adam's two moments


def kept_checkpoints(settings: RunSettings, schedule: Schedule) -> int:
    """The most that lie on disk at once, one that is being written included."""
    kept = settings.checkpoint
    for_good = schedule.end // kept.keep_every if kept.keep_every else 0
    saves = schedule.end // kept.every if kept.every else 0
    return min(kept.keep + kept.keep_best + for_good, saves + kept.keep_best + 1) + 1


def check_space(settings: RunSettings, schedule: Schedule, run: Path) -> str:
    """The room that checkpoints take and find. ValueError when it is not there."""
    size, kept, place = checkpoint_bytes(settings), kept_checkpoints(settings, schedule), existing(run)
    free = shutil.disk_usage(place).free
    if free < kept * size:
        raise ValueError(
            f"{kept} checkpoints of {size / 1e9:.2f} GB need {kept * size / 1e9:.1f} GB, and only "
            f"{free / 1e9:.1f} GB are free in {place}: make room, or choose another --run-dir"
        )
    return f"{kept} checkpoints of {size / 1e9:.2f} GB, and {free / 1e9:,.0f} GB are free in {place}"


def try_checkpoint(settings: RunSettings, run: Path) -> int:
    """Writes one of full size as training would, verifies it, and removes it; returns its bytes.

    Raises OSError or ValueError when that is not possible.
    """
    place = RunDirectory(run).checkpoints / ".trial"
    part = 1 << 26
    size = checkpoint_bytes(settings)
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
            raise OSError(f"what was written to {place} is not there")
        return written.bytes
    finally:
        shutil.rmtree(run if made else place, ignore_errors=True)


def existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())
