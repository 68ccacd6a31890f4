"""The checkpoints of a run on disk: found, checked, moved aside when damaged, removed when superseded."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from sivae_dist.checkpoint.files import Checkpoint, DamagedError
from sivae_dist.checkpoint.settings import CheckpointSettings
from sivae_dist.process.processes import everyone, on_first, rank, world_size
from sivae_dist.run.progress import PREFIX


class CheckpointFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def damaged(self) -> Path:
        """The folder to which damaged checkpoints are moved."""
        return self.path / "damaged"

    def final(self, images: int) -> Path:
        """The path of the checkpoint after `images` images."""
        return self.path / f"{PREFIX}{images:012d}"

    def paths(self) -> list[Path]:
        """Paths of complete checkpoints, oldest first."""
        return sorted(self.path.glob(f"{PREFIX}*"))

    def readable(self) -> list[Checkpoint]:
        """Those with a readable manifest, oldest first; what their files hold is not looked at."""
        found = []
        for path in self.paths():
            try:
                found.append(Checkpoint.read(path))
            except ValueError:
                continue
        return found

    def newest_valid(self, *, move_aside: bool = True) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and a line for each newer one that was not.

        All processes of a group call it together: they share the work and agree. Damaged ones are moved aside if
        `move_aside`. DamagedError when there are checkpoints but no whole one.
        """
        notes: list[str] = []
        for path in on_first(lambda: self.paths()[::-1]):
            outcomes = everyone(lambda path=path: _problem(path))  # type: ignore[misc]
            problem = next((problem for problem in outcomes if problem), None)
            if problem is None:
                return Checkpoint.read(path), notes
            if move_aside:
                problem += f"; it is now {on_first(lambda path=path: self._move_aside(path))}"  # type: ignore[misc]
            notes.append(problem)
        damaged_before = on_first(lambda: [path.name for path in self.damaged.glob("*")])
        if notes or damaged_before:
            raise DamagedError(
                "; ".join(notes or [f"all checkpoints in {self.path} were damaged"])
                + f". No checkpoint is left: put a good copy into {self.path}, or delete {self.damaged} to start anew"
            )
        return None, notes

    def _move_aside(self, path: Path) -> Path:
        self.damaged.mkdir(exist_ok=True)
        aside = self.damaged / path.name
        while aside.exists():
            aside = aside.with_name(f"{aside.name}-again")
        return path.rename(aside)

    def tidy(self, settings: CheckpointSettings) -> None:
        """Removes checkpoints that need not stay. The newest one always does."""
        kept = kept_of(self.readable(), settings)
        for path in self.paths()[:-1]:
            if path not in kept:
                trash = path.with_name(f".trash-{path.name}")
                path.rename(trash)
                shutil.rmtree(trash)


def _problem(path: Path) -> str | None:
    """A message about what is wrong with this process's part of a checkpoint, if anything."""
    try:
        Checkpoint.read(path).verify(rank(), world_size())
    except DamagedError as error:
        return str(error)
    return None


def kept_of(checkpoints: Sequence[Checkpoint], settings: CheckpointSettings) -> dict[Path, str]:
    """Those of `checkpoints` (oldest first) that stay, and why."""
    kept = {checkpoint.path: "newest" for checkpoint in checkpoints[-settings.keep :]}
    if settings.keep_every:
        kept |= {c.path: "for good" for c in checkpoints if c.images % settings.keep_every == 0 and c.path not in kept}
    best = best_first(checkpoints, settings)[: settings.keep_best] if settings.keep_best else []
    for checkpoint in best:
        kept[checkpoint.path] = "best" if checkpoint.path not in kept else f"{kept[checkpoint.path]}, best"
    return kept


def best_first(checkpoints: Sequence[Checkpoint], settings: CheckpointSettings) -> list[Checkpoint]:
    """Those that have a value of best_metric, the best one first, of equals the newest.

    Values of different resolutions, and in a transition, mean different things: what stands further comes first.
    """
    sign = 1 if settings.best_mode == "min" else -1
    scored = [(sign * score, c) for c in checkpoints if (score := c.score(settings.best_metric)) is not None]

    def key(entry: tuple[float, Checkpoint]) -> tuple[float, ...]:
        score, checkpoint = entry
        meta = checkpoint.meta
        return -meta.resolution, meta.blending, score, -checkpoint.images

    return [checkpoint for _, checkpoint in sorted(scored, key=key)]
