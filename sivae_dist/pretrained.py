"""Trained networks out of a run, for pictures and evaluation."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.checkpoint.state import restore_network
from sivae_dist.config import RunSettings
from sivae_dist.models import Stage, StyleDecoder, StyleEncoder, build
from sivae_dist.models.stage import blend_real
from sivae_dist.randomness import normals
from sivae_dist.run import RunDirectory


@dataclass(frozen=True)
class Pretrained:
    """Both networks as they stood at a checkpoint, and the stage of growth they had reached."""

    settings: RunSettings
    encoder: StyleEncoder
    decoder: StyleDecoder
    stage: Stage
    images: int
    """Images seen in training."""

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, batch: int = 64) -> Tensor:
        """Images [count, C, R, R] around [-1, 1]. Each follows from (seed, its number); without layer noise."""
        device = next(self.decoder.parameters()).device
        z = normals(seed, "sample", 0, count, self.settings.model.latent, device).to(self.settings.engine.dtype)
        return torch.cat([self.decoder(part, self.stage) for part in z.split(batch)])

    @torch.no_grad()
    def reconstruct(self, x: Tensor, batch: int = 64) -> Tensor:
        """Images [N, C, R, R] in [-1, 1] through the encoder's mean and the decoder."""
        device, dtype = next(self.decoder.parameters()).device, self.settings.engine.dtype
        parts = [blend_real(part.to(device, dtype), self.stage.blend) for part in x.split(batch)]
        return torch.cat([self.decoder(self.encoder(part, self.stage)[0], self.stage) for part in parts])


def load_run(path: Path, *, live: bool = False, device: torch.device | None = None) -> Pretrained:
    """The newest checkpoint of a run: averaged (EMA) weights, or the `live` ones.

    A damaged checkpoint is passed over with a warning. ValueError when there is no run or no whole checkpoint.
    """
    run = RunDirectory(path)
    settings = run.settings()
    checkpoint, notes = CheckpointFolder(run.checkpoints).newest_valid(move_aside=False)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if checkpoint is None:
        raise ValueError(f"{path} has no checkpoint yet")
    kind = "" if live else "_ema"
    tensors = checkpoint.load((f"encoder{kind}.", f"decoder{kind}."))
    encoder, decoder = build(settings.model, settings.seed)
    device = device or torch.device("cpu")
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        network.to(settings.engine.dtype)
        restore_network(f"{name}{kind}", network, tensors)
        network.to(device).eval().requires_grad_(False)
    blend = torch.tensor(checkpoint.meta["blend"], device=device) if checkpoint.meta["blending"] else None
    return Pretrained(settings, encoder, decoder, Stage(checkpoint.meta["resolution"], blend), checkpoint.images)
