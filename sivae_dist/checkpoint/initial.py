"""The initial weights of a new run: from another run, exported weights, or the seed."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder
from sivae_dist.checkpoint.files import MANIFEST
from sivae_dist.checkpoint.settings import InitSettings
from sivae_dist.checkpoint.state import restore_network
from sivae_dist.run.directory import RunDirectory


def initial_tensors(settings: InitSettings) -> tuple[dict[str, Tensor], str] | None:
    """Networks and averages by canonical name, and a line that says where they are from; None for the seed's.

    All processes call it together. ValueError when there are no weights there.
    """
    if settings.weights is not None:
        try:
            tensors = load_file(settings.weights)
        except Exception as error:  # safetensors raises its own kind for a file that is none
            raise ValueError(f"init.weights: {settings.weights} cannot be read: {error}") from None
        averages = {f"{name.replace('.', '_ema.', 1)}": tensor for name, tensor in tensors.items()}
        return averages | tensors, f"weights from {settings.weights}"
    if settings.run is not None:
        checkpoint, notes = _checkpoint_of(settings.run)
        tensors = checkpoint.load(("encoder.", "encoder_ema.", "decoder.", "decoder_ema."))
        return tensors, "; ".join([f"weights from {checkpoint.path}", *notes])
    return None


def check_initial(settings: InitSettings, networks: Mapping[str, nn.Module]) -> str | None:
    """A line that says where the weights of a new run would come from; None for the seed. Reads no values.

    `networks`: by name, on any device. ValueError as `initial_tensors`, and when they do not fit.
    """
    if settings.weights is not None:
        key, where = "init.weights", settings.weights
        tensors = _shapes_in(settings.weights)
        tensors |= {name.replace(".", "_ema.", 1): tensor for name, tensor in tensors.items()}
    elif settings.run is not None:
        checkpoint, _ = _checkpoint_of(settings.run)
        key, where = "init.run", checkpoint.path
        tensors = {
            name: torch.empty(spec["shape"], dtype=getattr(torch, spec["dtype"]), device="meta")
            for name, spec in checkpoint.manifest["tensors"].items()
        }
    else:
        return None
    for name, network in networks.items():
        for prefix in (name, f"{name}_ema"):
            try:
                restore_network(prefix, deepcopy(network).to("meta"), tensors)
            except ValueError as error:
                raise ValueError(f"{key}: {where} does not fit this model: {error}") from None
    return f"{key}: {where}"


def _shapes_in(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: torch.empty_like(file.get_tensor(name), device="meta") for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kind for a file that is none
        raise ValueError(f"init.weights: {path} cannot be read: {error}") from None


def _checkpoint_of(path: Path) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that `path` means, and a line for each newer one that is damaged."""
    run = RunDirectory(path)
    if run.exists:
        found, notes = CheckpointFolder(run.checkpoints).newest_valid(move_aside=False)
        if found is None:
            raise ValueError(f"init.run: {path} has no checkpoint")
        return found, notes
    if not path.exists():
        raise ValueError(f"init.run: {path} does not exist")
    if not (path / MANIFEST).exists():
        raise ValueError(f"init.run: {path} is neither a run nor one of its checkpoints")
    try:
        checkpoint = Checkpoint.read(path)
        checkpoint.verify()
    except ValueError as error:
        raise ValueError(f"init.run: {error}") from None
    return checkpoint, []
