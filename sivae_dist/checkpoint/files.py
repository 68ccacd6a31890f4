"""One checkpoint on disk: what it holds, whether it is whole, and its tensors."""

import errno
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sivae_dist.checkpoint.meta import Meta

MANIFEST = "manifest.json"
FORMAT = 1
_GONE = (errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.EISDIR)
"""Error numbers of a file that is lost; others (permissions, say) are no damage."""


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Reads the manifest alone. DamagedError when it is not valid, ValueError when another version wrote it."""
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            version = manifest["format"]
            signed, sound = "sha256" in manifest, manifest.get("sha256") == digest_of(manifest)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise DamagedError(f"checkpoint {path}: {MANIFEST} cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedError(f"checkpoint {path}: {MANIFEST} cannot be read ({error})") from None
        if version != FORMAT and (sound or not signed):
            raise ValueError(f"checkpoint {path} has format {version}, this version reads {FORMAT}")
        if not sound:
            raise DamagedError(f"checkpoint {path}: {MANIFEST} is damaged")
        return cls(path, manifest)

    @property
    def images(self) -> int:
        """Images that the run had seen."""
        return int(self.manifest["images"])

    @property
    def meta(self) -> Meta:
        """The metadata saved with the tensors. ValueError when they were not saved by a run."""
        try:
            return Meta.from_manifest(self.manifest["meta"])
        except ValueError as error:
            raise ValueError(f"checkpoint {self.path}: {error}") from None

    @property
    def bytes(self) -> int:
        """Size of its files together."""
        return sum(record["bytes"] for record in self.manifest["files"].values())

    def score(self, metric: str) -> float | None:
        """The value of a metric (CheckpointSettings.best_metric), if it has one."""
        value = self.meta.metrics.get(metric)
        return value if value is not None and math.isfinite(value) else None

    def names(self) -> list[str]:
        """Canonical names of its tensors."""
        return list(self.manifest["tensors"])

    def verify(self, part: int = 0, parts: int = 1) -> None:
        """DamagedError naming the file when the files are not exactly those that were written.

        With `parts`, this process hashes its part of the files only; all parts together are the whole.
        """
        recorded = self.manifest["files"]
        try:
            present = {entry.name for entry in self.path.iterdir()} - {MANIFEST}
            if odd := sorted(present ^ recorded.keys()):
                raise DamagedError(f"checkpoint {self.path}: {odd[0]} is {_odd(odd[0] in present)}")
            for name in sorted(recorded)[part::parts]:
                if record_of(self.path / name) != recorded[name]:
                    raise DamagedError(f"checkpoint {self.path}: {name} is damaged")
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise DamagedError(f"checkpoint {self.path}: {error.filename} cannot be read ({error.strerror})") from None

    def load(self, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
        """The tensors whose names start with one of `prefixes`, on the CPU; every process reads for itself.

        They lie in the files, which are mapped into memory: whoever keeps them copies them. ValueError when a file
        cannot be read or does not hold what the manifest says.
        """
        specs = {name: spec for name, spec in self.manifest["tensors"].items() if name.startswith(prefixes)}
        tensors: dict[str, Tensor] = {}
        try:
            for file in sorted(self.manifest["files"]):
                with safe_open(self.path / file, framework="pt") as content:
                    names = specs.keys() & set(content.keys())
                    tensors |= {name: content.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"checkpoint {self.path} cannot be read: {' '.join(str(error).split())}") from error
        if odd := [name for name, spec in specs.items() if name not in tensors or spec_of(tensors[name]) != spec]:
            raise ValueError(f"checkpoint {self.path} cannot be read: {odd[0]} is not as {MANIFEST} has it")
        return {name: tensors[name] for name in specs}


def spec_of(tensor: Tensor) -> dict[str, Any]:
    """Shape and type, as the manifest has them."""
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _odd(present: bool) -> str:
    return "unknown" if present else "missing"


def record_of(path: Path) -> dict[str, Any]:
    """The manifest's record of a file."""
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def digest_of(manifest: dict[str, Any]) -> str:
    """Checksum of all that a manifest holds beside it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
