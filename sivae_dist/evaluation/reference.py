"""Statistics of real images, kept under the digests of all that they follow from, so that they cannot go stale."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sivae_dist.evaluation.statistics import Statistics
from sivae_dist.run.atomic import replacing
from sivae_dist.use.tensor_files import write_tensors

_FORMAT = 1


@dataclass(frozen=True)
class Reference:
    """What samples are compared with."""

    statistics: Statistics
    features: Tensor | None
    """fp32 [n, D], when a kernel distance needs them."""


def load(folder: Path, key: dict[str, Any], *, features: bool) -> Reference | None:
    """What is kept under exactly this key; None when there is nothing, or nothing usable, or no wanted features."""
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
    return Reference(Statistics(count, mean.numpy(), covariance.numpy()), kept if features else None)


def save(folder: Path, key: dict[str, Any], reference: Reference) -> None:
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
