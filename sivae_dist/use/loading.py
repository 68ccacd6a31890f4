"""How trained networks are read from a run."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder, DamagedError
from sivae_dist.checkpoint.folder import best_first
from sivae_dist.checkpoint.state import fill_network
from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Stage
from sivae_dist.run.directory import RunDirectory
from sivae_dist.use.pretrained import Pretrained


def load_run(
    path: Path, *, checkpoint: str | int = "latest", live: bool = False, device: torch.device | None = None
) -> Pretrained:
    """The networks at a checkpoint of a run (`choose`): averaged (EMA) weights, or the `live` ones.

    ValueError when there is no run or no such whole checkpoint.
    """
    run = RunDirectory(path)
    settings = settings_of(run)
    return from_checkpoint(settings, choose(run, settings, checkpoint), live=live, device=device)


def choose(run: RunDirectory, settings: RunSettings, which: str | int = "latest") -> Checkpoint:
    """A whole checkpoint: the `latest`, the `best` by checkpoint.best_metric, or that after so many images.

    A damaged one is skipped with a warning where the latest is asked for. ValueError, with the list of checkpoints,
    when there is no such checkpoint.
    """
    folder = CheckpointFolder(run.checkpoints)
    if which == "latest":
        found, notes = folder.newest_valid(move_aside=False)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        if found is None:
            raise ValueError(f"{run.path} has no checkpoint yet")
        return found
    there = folder.readable()
    if not there:
        raise ValueError(f"{run.path} has no checkpoint yet")
    if which == "best":
        found = _best(run, settings, there)
    else:
        by_images = {str(candidate.images): candidate for candidate in there}
        if str(which) not in by_images:
            known = ", ".join(["latest", "best", *by_images])
            raise ValueError(f"{run.path} has no checkpoint {which}; choose one of: {known}")
        found = by_images[str(which)]
    found.verify()
    return found


def _best(run: RunDirectory, settings: RunSettings, there: list[Checkpoint]) -> Checkpoint:
    """The newest of those with the best value."""
    ranked = best_first(there, settings.checkpoint)
    if not ranked:
        known = sorted({name for candidate in there for name in candidate.meta.metrics})
        metric = settings.checkpoint.best_metric
        raise ValueError(
            f"no checkpoint of {run.path} has a value of {metric}; they have: {', '.join(known) or 'none'}"
        )
    return ranked[0]


def from_checkpoint(
    settings: RunSettings, checkpoint: Checkpoint, *, live: bool = False, device: torch.device | None = None
) -> Pretrained:
    """The networks that a checkpoint of a run with these settings holds."""
    kind = "" if live else "_ema"
    tensors = checkpoint.load((f"encoder{kind}.", f"decoder{kind}."))
    networks = settings.model.blank()
    for name, network in zip(("encoder", "decoder"), networks, strict=True):
        network.to(settings.engine.dtype)
        fill_network(f"{name}{kind}", network, tensors, device)
        network.eval().requires_grad_(False)
    meta = checkpoint.meta
    stage = meta.stage(device or torch.device("cpu"))
    return Pretrained(settings.model, *networks, stage, checkpoint.images, live, meta.data)


def load_growth(
    path: Path, *, checkpoint: str | int = "latest", live: bool = False, device: torch.device | None = None
) -> list[Pretrained]:
    """The model at 4, 8, ... px up to what a checkpoint of a run had reached, whose own networks come last.

    Each is from the newest checkpoint still there that stood at this resolution; where there is none, it is the last
    network cut off at this resolution. Such a one has the last one's `images`: its layers went on training at higher
    resolutions, but its output layer only as long as this resolution was the highest. A damaged checkpoint is
    skipped with a warning. ValueError as `load_run`.
    """
    run = RunDirectory(path)
    settings = settings_of(run)
    chosen = choose(run, settings, checkpoint)
    last = from_checkpoint(settings, chosen, live=live, device=device)
    newest_first = CheckpointFolder(run.checkpoints).readable()[::-1]
    grown = []
    for resolution in settings.model.resolutions:
        if resolution >= last.stage.resolution:
            break
        own = _first_whole([c for c in newest_first if c.meta.resolution == resolution])
        grown.append(
            replace(last, stage=Stage(resolution))
            if own is None
            else from_checkpoint(settings, own, live=live, device=device)
        )
    return [*grown, last]


def _first_whole(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    for checkpoint in checkpoints:
        try:
            checkpoint.verify()
        except DamagedError as error:
            warnings.warn(str(error), stacklevel=3)
            continue
        return checkpoint
    return None
