"""Writing one checkpoint, by all processes together, so that nothing has its final name before it is whole."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from sivae_dist.checkpoint.files import FORMAT, MANIFEST, digest_of, record_of, spec_of
from sivae_dist.process.processes import everyone, on_first, rank, world_size
from sivae_dist.run.atomic import sync

# On purpose: a process alone saves. Filters are the whole process's, so that a thread cannot set them for a while.
warnings.filterwarnings("ignore", "torch.distributed is disabled")


def share(tensors: Mapping[str, Tensor], parts: int) -> list[list[str]]:
    """The names divided among `parts` processes, the largest first to the one with the fewest bytes yet."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    load = [0] * parts
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        part = load.index(min(load))
        shares[part].append(name)
        load[part] += tensors[name].nbytes
    return shares


@dataclass(frozen=True)
class Snapshot:
    """A copy to be written: this process's share of the tensors, and the shapes and types of all."""

    images: int
    mine: dict[str, Tensor]
    specs: dict[str, dict[str, Any]]
    meta: dict[str, Any]


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Shape and type of each, as the manifest has them. TypeError for anything but a tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # the storage would write a file that nobody can read
            raise TypeError(f"{name} is not a tensor")
    return {name: spec_of(tensor) for name, tensor in tensors.items()}


def write(final: Path, snapshot: Snapshot, group: Any, before_commit: Callable[[], None]) -> int:
    """Writes a checkpoint to `final` and returns its bytes; called by all processes, in the same order in `group`.

    `before_commit` runs on the first process when the tensors are on disk. OSError when something cannot be written,
    ValueError when `final` exists, both on all processes; nothing is left behind then.
    """
    partial = final.with_name(f".tmp-{final.name}")
    try:
        files = write_files(partial, final, snapshot, group)
        manifest = {
            "format": FORMAT,
            "images": snapshot.images,
            "meta": snapshot.meta,
            "world_size": world_size(),
            "torch": torch.__version__,
            "files": files,
            "tensors": snapshot.specs,
        }
        on_first(lambda: _commit(partial, final, manifest, before_commit), group)
    except (OSError, RuntimeError) as error:
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"cannot write checkpoint {final}: {one_line(error)}") from error
    return sum(record["bytes"] for record in files.values())


def write_files(partial: Path, final: Path, snapshot: Snapshot, group: Any) -> dict[str, dict[str, Any]]:
    """Writes all tensors into the new folder `partial`; returns the manifest's record of every file."""

    def clear() -> bool:
        partial.parent.mkdir(parents=True, exist_ok=True)
        for leftover in [*partial.parent.glob(".tmp-*"), *partial.parent.glob(".trash-*")]:
            shutil.rmtree(leftover)
        if final.exists():
            return True
        partial.mkdir()
        return False

    if on_first(clear, group):
        raise ValueError(f"{final} exists already; a checkpoint is never written over")
    everyone(lambda: _save(partial, snapshot.mine, group), group)
    mine = everyone(lambda: {path.name: record_of(path) for path in partial.glob(f"shard-{rank() + 1:05d}-*")}, group)
    return {name: record for part in mine for name, record in part.items()}


def _save(folder: Path, tensors: dict[str, Tensor], group: Any) -> None:
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    writer.per_thread_copy_ahead = 0  # what is written is on the host; copying ahead would go through a GPU's stream
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        state_dict_saver.save(contiguous, storage_writer=writer, process_group=group, no_dist=world_size() == 1)
    except CheckpointException as error:  # a BaseException, which no handler further up would see
        raise OSError("; ".join(f"process {k}: {one_line(e[0])}" for k, e in error.failures.items())) from error


def _commit(partial: Path, final: Path, manifest: dict[str, Any], before_commit: Callable[[], None]) -> None:
    with open(partial / MANIFEST, "w") as file:
        json.dump(manifest | {"sha256": digest_of(manifest)}, file, indent=1)
    sync(partial / MANIFEST)
    sync(partial)
    before_commit()
    partial.rename(final)
    sync(final.parent)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
