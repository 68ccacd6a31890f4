"""Where the weights of a new run come from: another run, exported weights, or the seed."""

from pathlib import Path

from pydantic import field_validator, model_validator
from safetensors.torch import load_file
from torch import Tensor

from data_pipelines.settings import expand
from sivae_dist.checkpoint import Checkpoint, CheckpointFolder
from sivae_dist.checkpoint.files import MANIFEST
from sivae_dist.settings import Settings


class InitSettings(Settings):
    run: Path | None = None
    """Another run, or one of its checkpoints: its networks and their averages. Progress and optimizer begin anew."""
    weights: Path | None = None
    """A safetensors file with `encoder.NAME` and `decoder.NAME`; the averages begin as copies."""

    @field_validator("run", "weights")
    @classmethod
    def _expanded(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(expand(str(path)))

    @model_validator(mode="after")
    def _one(self) -> "InitSettings":
        if self.run is not None and self.weights is not None:
            raise ValueError("init.run and init.weights cannot both be given")
        return self


def initial_tensors(settings: InitSettings) -> tuple[dict[str, Tensor], str] | None:
    """Networks and averages by canonical name, and a line that says where they are from; None for the seed's.

    All processes call it together. ValueError when there is nothing to be had there.
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


def _checkpoint_of(path: Path) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that `path` means, and a line for each newer one that is damaged."""
    from sivae_dist.run import RunDirectory  # which knows all settings, and so these too

    if RunDirectory(path).config.is_file():
        found, notes = CheckpointFolder(RunDirectory(path).checkpoints).newest_valid(move_aside=False)
        if found is None:
            raise ValueError(f"init.run: {path} has no checkpoint")
        return found, notes
    if not path.exists():
        raise ValueError(f"init.run: {path} does not exist")
    if not (path / MANIFEST).exists():
        raise ValueError(f"init.run: {path} is neither a run nor one of its checkpoints")
    checkpoint = Checkpoint.read(path)
    checkpoint.verify()
    return checkpoint, []
