"""What can be found out about a run before it queues for hours."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sivae_dist.config import RunSettings


class Check(NamedTuple):
    name: str
    fine: bool
    detail: str
    """What was found, or what is wrong and what to do."""


def checks(settings: RunSettings, run: Path, processes: int) -> Iterator[Check]:
    """One after another; those that need what failed before them are left out."""
    from data_pipelines.store import open_store
    from sivae_dist.trainer import check_data, make_schedule

    found: dict[str, object] = {}

    def data() -> str:
        with open_store(settings.data.path, settings.data.remote) as store:
            manifest = store.manifest()
        check_data(settings, manifest)
        found["manifest"] = manifest
        return f"{settings.data.path}: {manifest.train:,} training and {manifest.test:,} test samples"

    def batches() -> str:
        make_schedule(settings, found["manifest"]).check_world_size(processes)  # type: ignore[arg-type]
        return f"every batch divides among {processes} processes"

    def space() -> str:
        size = checkpoint_bytes(settings)
        kept = settings.checkpoint.keep + settings.checkpoint.keep_best + 1
        free = shutil.disk_usage(_existing(run)).free
        if free < kept * size:
            raise ValueError(
                f"{kept} checkpoints of {size / 1e9:.2f} GB need {kept * size / 1e9:.1f} GB, and only "
                f"{free / 1e9:.1f} GB are free in {_existing(run)}: make room, or choose another --run-dir"
            )
        return f"{kept} checkpoints of {size / 1e9:.2f} GB fit into the {free / 1e9:.0f} GB that are free"

    def checkpoint() -> str:
        size = try_checkpoint(settings, run)
        return f"one of {size / 1e9:.2f} GB was written, read back and removed"

    yield Check("config", True, "all settings are valid")
    for name, look in {"data": data, "batches": batches, "disk space": space, "checkpoint": checkpoint}.items():
        check = _looked(name, look)
        yield check
        if not check.fine:
            return


def _looked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (ValueError, OSError) as error:
        return Check(name, False, str(error))


def checkpoint_bytes(settings: RunSettings) -> int:
    """Of a checkpoint at the end of the run."""
    import torch

    from sivae_dist.models import StyleDecoder, StyleEncoder

    with torch.device("meta"):
        networks = StyleEncoder(settings.model), StyleDecoder(settings.model)
    values = sum(tensor.numel() for network in networks for tensor in network.state_dict().values())
    return 4 * values * settings.engine.dtype.itemsize  # weights, their average, and Adam's two moments


def try_checkpoint(settings: RunSettings, run: Path) -> int:
    """Writes one of full size as training would, verifies it, and removes it; returns its bytes.

    Raises OSError or ValueError when that is not possible.
    """
    import torch

    from sivae_dist.checkpoint import CheckpointFolder, CheckpointSaver

    place = run / "checkpoints" / ".trial"
    part = 1 << 26
    size = checkpoint_bytes(settings)
    tensors = {f"padding.{at}": torch.zeros(min(part, size - at), dtype=torch.uint8) for at in range(0, size, part)}
    folder = CheckpointFolder(place)
    made = not run.exists()
    try:
        place.mkdir(parents=True)
        saver = CheckpointSaver(folder, settings.checkpoint, torch.device("cpu"))
        try:
            saver.save(0, tensors, {})
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


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())
