"""Saving, finding and loading checkpoints (see the package's docstring for the layout)."""

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from sivae_dist.processes import everyone, on_first, rank, world_size
from sivae_dist.settings import Images, Settings

MANIFEST = "manifest.json"
FORMAT = 1
_KEYS = ("images", "meta", "files", "tensors")
_PREFIX = "images-"


class CheckpointSettings(Settings):
    every: Images = 100_000
    """Images between two checkpoints; 0 saves at the end of the run only."""
    keep: int = Field(2, ge=2)
    """Newest checkpoints that are kept; at least 2, as the newest may not survive a machine's death."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    manifest: dict[str, Any]

    @property
    def images(self) -> int:
        """Images that the run had seen."""
        return int(self.manifest["images"])

    @property
    def meta(self) -> dict[str, Any]:
        """What was saved beside the tensors."""
        meta: dict[str, Any] = self.manifest["meta"]
        return meta

    def names(self) -> list[str]:
        """Canonical names of its tensors."""
        return list(self.manifest["tensors"])

    def verify(self) -> None:
        """ValueError naming the file when the files are not exactly those that were written."""
        recorded = self.manifest["files"]
        present = {entry.name for entry in self.path.iterdir()} - {MANIFEST}
        if odd := sorted(present ^ recorded.keys()):
            raise ValueError(f"checkpoint {self.path}: {odd[0]} is {'unknown' if odd[0] in present else 'missing'}")
        for name, record in recorded.items():
            if (self.path / name).stat().st_size != record["bytes"] or _sha256(self.path / name) != record["sha256"]:
                raise ValueError(f"checkpoint {self.path}: {name} is damaged")

    def load(self, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
        """The tensors whose names start with one of `prefixes`, on the CPU; every process reads for itself."""
        tensors = {
            name: torch.empty(spec["shape"], dtype=getattr(torch, spec["dtype"]))
            for name, spec in self.manifest["tensors"].items()
            if name.startswith(prefixes)
        }
        try:
            with warnings.catch_warnings():
                # On purpose: every process reads for itself.
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
                state_dict_loader.load(tensors, storage_reader=HuggingFaceStorageReader(str(self.path)), no_dist=True)
        except CheckpointException as error:  # a BaseException, which no handler further up would see
            raise ValueError(f"checkpoint {self.path} cannot be read: {' '.join(str(error).split())}") from error
        return tensors


class CheckpointManager:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, settings: CheckpointSettings) -> None:
        self.folder = folder
        self.settings = settings

    def list(self) -> list[Checkpoint]:
        """Complete checkpoints, oldest first. ValueError when a manifest cannot be read."""
        found = []
        for path in sorted(self.folder.glob(f"{_PREFIX}*")):
            try:
                manifest = json.loads((path / MANIFEST).read_text())
                version = manifest["format"]
                lacking = [key for key in _KEYS if key not in manifest and version == FORMAT]
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise ValueError(f"checkpoint {path}: {MANIFEST} cannot be read ({error}); move it away") from None
            if version != FORMAT:
                raise ValueError(f"checkpoint {path} has format {version}, this version reads {FORMAT}")
            if lacking:
                raise ValueError(f"checkpoint {path}: {MANIFEST} has no {lacking[0]}; move it away")
            found.append(Checkpoint(path, manifest))
        return found

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None when there is none."""
        checkpoints = self.list()
        return checkpoints[-1] if checkpoints else None

    def save(self, images: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
        """Writes a checkpoint, by all processes together, and removes those past keeping.

        Nothing has the final name before every byte of it is on disk. An error on one process is raised on all.
        """
        final = self.folder / f"{_PREFIX}{images:012d}"
        partial = self.folder / f".tmp-{final.name}"

        def clear() -> bool:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in [*self.folder.glob(".tmp-*"), *self.folder.glob(".trash-*")]:
                shutil.rmtree(leftover)
            partial.mkdir()
            return final.exists()

        if on_first(clear):
            raise ValueError(f"{final} exists already; a checkpoint is never written over")
        everyone(lambda: _write(partial, tensors))
        mine = everyone(lambda: {path.name: _record(path) for path in partial.glob(f"shard-{rank() + 1:05d}-*")})
        files = {name: record for part in mine for name, record in part.items()}
        manifest = {
            "format": FORMAT,
            "images": images,
            "meta": meta,
            "world_size": world_size(),
            "torch": torch.__version__,
            "files": files,
            "tensors": {
                name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
                for name, t in tensors.items()
            },
        }
        on_first(lambda: self._commit(partial, final, manifest))
        return final

    def _commit(self, partial: Path, final: Path, manifest: dict[str, Any]) -> None:
        with open(partial / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(partial)
        partial.rename(final)
        sync_folder(self.folder)
        for old in sorted(self.folder.glob(f"{_PREFIX}*"))[: -self.settings.keep]:
            trash = old.with_name(f".trash-{old.name}")
            old.rename(trash)
            shutil.rmtree(trash)


def _write(folder: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # the storage would write a file that nobody can read
            raise TypeError(f"{name} is no tensor")
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # a process alone
            state_dict_saver.save(contiguous, storage_writer=writer, no_dist=not dist.is_initialized())
    except CheckpointException as error:  # a BaseException, which no handler further up would see
        causes = "; ".join(f"process {k}: {e[0]}" for k, e in error.failures.items())
        raise OSError(f"cannot write the checkpoint {folder}: {' '.join(causes.split())}") from error


def _record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Puts a folder's entries (new names, renames) on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
