"""Files of weights with seeded values, as torchvision would have them."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sivae_dist.perceptual import weights
from sivae_dist.perceptual.weights import random_weights


def write(path: Path, scale: float = 1.0, **changes: Tensor) -> str:
    """A state dict of a whole vgg16, scaled; returns its SHA-256."""
    state = {f"features.{name}": scale * value for name, value in random_weights().state.items()}
    torch.save(state | {"classifier.6.bias": torch.full((1000,), torch.nan)} | changes, path)
    return sha256(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Weights are kept in this folder. Another $XDG_CACHE_HOME would be one for all that is compiled as well."""
    monkeypatch.setattr(weights, "folder", lambda: folder)
    return folder


def publish(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The genuine weights are to be had at `url`, whose name has their checksum."""
    monkeypatch.setattr(weights, "VGG16", replace(weights.VGG16, url=url))
