"""Starting and continuing a run: the settings that its directory has, accepts, and refuses."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sivae_dist.config.prolonging import continued
from sivae_dist.config.run_settings import RunSettings, read_settings
from sivae_dist.run.atomic import write_text
from sivae_dist.run.directory import FORERUNNERS, RunDirectory
from sivae_dist.run.ownership import owner_of
from sivae_dist.run.progress import saved_images


def settings_of(run: RunDirectory, overrides: Sequence[str] = ()) -> RunSettings:
    """The settings of a run, with `key=value` overrides applied. ValueError when there is no run."""
    if not run.exists:
        raise ValueError(f"{run.path} is not a run: it has no {run.config.name}")
    return read_settings(run.config, overrides)


def resolve_settings(
    run: RunDirectory, settings: RunSettings, train_samples: int | None = None
) -> tuple[RunSettings, list[str]]:
    """The settings with which a run is started or continued when these are asked for, and notes about them.

    `train_samples` is the length of an epoch, for a schedule in epochs. ValueError naming the keys when a change
    would contradict what the run has already done, or the directory is not fit for a run. Nothing is written.
    """
    settings = settings.located()
    if not run.config.exists():
        _check_place(run.path, settings)
        return settings, []
    return continued(run.path, settings_of(run).located(), settings, saved_images(run.path), train_samples)


def prepare_run(run: RunDirectory, settings: RunSettings, train_samples: int | None = None) -> list[str]:
    """Starts or continues a run with these settings and records them; returns notes about changes.

    Opens the data set where something follows from it (ModelSettings.fitted) that the settings do not say yet.
    ValueError as `resolve_settings`, when the run is being trained, and as `fitted`.
    """
    if owner := owner_of(run.path):
        raise ValueError(f"{run.path} is being trained by {owner}")
    if not settings.model.is_fitted:
        with settings.data.open(settings.seed, torch.device("cpu")) as data:
            settings = settings.fitted(data)
    settings, notes = resolve_settings(run, settings, train_samples)
    write_text(run.config, settings.to_yaml())
    return notes


def _check_place(path: Path, settings: RunSettings) -> None:
    """ValueError for a directory that holds other things than a run, or is part of the data set."""
    for place in (path, *path.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise ValueError(f"{place} is a file, but a run needs a directory: choose another --run-dir")
            break
    folder = settings.data.folder
    if folder is not None and path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is inside the data set {folder.resolve()}: choose another --run-dir")
    if path.is_dir():
        foreign = [entry.name for entry in path.iterdir() if entry.name not in FORERUNNERS]
        foreign = [name for name in sorted(foreign) if not name.startswith(".")]
        if foreign:
            raise ValueError(
                f"{path} is not empty and not a run: it holds {', '.join(foreign[:3])}"
                f"{', ...' if len(foreign) > 3 else ''}; choose another --run-dir"
            )
