"""Features of the real images, kept under the digests of all that they depend on, so that they cannot go stale."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from sivae_dist.evaluation.statistics import FeatureSet, Statistics
from sivae_dist.process.processes import on_first, rank
from sivae_dist.run.atomic import replacing
from sivae_dist.use.tensor_files import write_tensors

_FORMAT = 1


class References:
    """Feature sets of real images: the last one in memory, all of them in a folder that runs share.

    Made and called by all processes together.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """`say` gets a warning when nothing can be kept in the folder."""
        self._folder = folder
        self._say = say
        self._last: tuple[dict[str, Any], FeatureSet | None] | None = None

    def get(self, key: dict[str, Any], make: Callable[[], FeatureSet], *, features: bool) -> FeatureSet | None:
        """The feature set kept under exactly this key; if there is none, `make()` by all processes, which is then kept.

        `features`: whether the features themselves are needed. Processes other than the first may get None.
        """
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        found: list[FeatureSet | None] = [None]

        def look() -> bool:
            found[0] = load(self._folder, key, features=features)
            return found[0] is not None

        if not on_first(look):
            found[0] = made = make()
            self._keep(key, made)
        self._last = (key, found[0])
        return found[0]

    def _keep(self, key: dict[str, Any], made: FeatureSet) -> None:
        if rank() > 0:
            return
        try:
            save(self._folder, key, made)
        except (OSError, SafetensorError) as error:
            self._say(f"warning: statistics of the real images cannot be kept in {self._folder}: {error}")


def load(folder: Path, key: dict[str, Any], *, features: bool) -> FeatureSet | None:
    """The feature set kept under exactly this key; None when there is none, or it is unusable or lacks `features`."""
    try:
        with safe_open(_path(folder, key), "pt") as file:
            if json.loads((file.metadata() or {})["key"]) != _full(key):
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it has no iterator)
        mean, covariance, kept = tensors["mean"], tensors["covariance"], tensors.get("features")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    d = len(mean)
    if covariance.shape != (d, d) or {mean.dtype, covariance.dtype} != {torch.float64}:
        return None
    if features and (kept is None or kept.shape[1:] != (d,)):
        return None
    count = int(tensors["count"])
    return FeatureSet(Statistics(count, mean.numpy(), covariance.numpy()), kept if features else None)


def save(folder: Path, key: dict[str, Any], reference: FeatureSet) -> None:
    """Keeps it for others; complete or not at all. OSError or SafetensorError when that is not possible."""
    statistics = reference.statistics
    tensors = {
        "count": torch.tensor(statistics.count),
        "mean": torch.from_numpy(np.ascontiguousarray(statistics.mean)),
        "covariance": torch.from_numpy(np.ascontiguousarray(statistics.covariance)),
    }
    if reference.features is not None:
        tensors["features"] = reference.features.contiguous()
    with replacing(_path(folder, key), shared=True) as partial:
        write_tensors(partial, tensors, {"key": json.dumps(_full(key))})


def _full(key: dict[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, **key}


def _path(folder: Path, key: dict[str, Any]) -> Path:
    text = json.dumps(_full(key), sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
