"""A source of images to a pyramid of levels, each made from the one above by 2x2 means.

The work is cut into shards, each made by one worker from one decode of every image, in DEST.partial beside
DEST. A finished shard leaves a record there, so that running the same preparation again continues it. The
bytes depend on the source and the settings alone: not on the number of workers, nor on interruptions.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from data_pipelines.images.arrays import write_array
from data_pipelines.images.circumstances import explained, is_circumstance
from data_pipelines.images.decode import halve, round_pixels
from data_pipelines.images.manifest import (
    Level,
    Manifest,
    OutputFile,
    RemarkedImages,
    Shard,
    is_power_of_two,
    write_file,
)
from data_pipelines.images.planning import Plan, plan_shards
from data_pipelines.images.shards import ArrayWriter, ShardRecord, TarWriter
from data_pipelines.images.sources import ImageError, Labels, Source, SourceError
from data_pipelines.images.sources.findings import EXAMPLES, shown_name
from data_pipelines.images.sources.image import to_square
from data_pipelines.images.sources.opening import open_source
from data_pipelines.images.sources.remarks import Remark
from data_pipelines.images.sources.splits import SHARE
from data_pipelines.images.survey import FIX, NO_LABEL, report, survey
from data_pipelines.images.transport import shown
from data_pipelines.pool import Tick, WorkerKilledError, run_tasks
from data_pipelines.settings import Settings

_DAMAGED = "work/damaged.json"
"""Positions of files that had been chosen for the test split before they were found to be damaged."""

Progress = Callable[[int, int], None]
"""Called with the number of images done, those of earlier runs included, and the number of all."""


class PrepareError(ValueError):
    """A preparation cannot continue; the message is one line that says why and what to do."""


class PrepareSettings(Settings):
    """Settings of the preparation of a source."""

    resolution: int = 256
    """Side of the largest level in pixels, a power of two in 4..1024."""
    channels: Literal[1, 3] = 3
    """3 for RGB, 1 for greyscale."""
    format: Literal["png", "jpeg"] = "png"
    """How the larger levels are stored: PNG keeps every pixel, JPEG is smaller and can be decoded by a
    GPU."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality; colour is kept at full size (4:4:4)."""
    array_max_resolution: Annotated[int, Field(ge=0)] = 32
    """Levels up to this resolution are stored as plain arrays, larger ones as tars of images."""
    shard_size: Annotated[int, Field(ge=1)] = 1000
    """Files of the source per shard."""
    test: Annotated[int, Field(ge=0)] | Literal["source"] | Annotated[str, Field(pattern=SHARE)] | tuple[str, ...] = (
        "source"
    )
    """How many images are kept for testing, or a share of them as `10%`, or their names, or those that the source
    itself keeps, which are none in most sources. A number or share is spread over the classes, or over the folders
    where there are no classes; in a single folder it means the last ones in the source's order, as FFHQ's split has
    it."""
    member: str | None = None
    """Which member of a WebDataset sample is the image, by its ending; needed where a sample has several."""
    labels: Labels = "auto"
    """Whether labels are looked for, taken from the first-level sub-folders, or ignored."""
    skip_unreadable: bool = False
    """Leave out files that are no usable images instead of stopping at the first one."""

    @field_validator("resolution")
    @classmethod
    def _check_resolution(cls, resolution: int) -> int:
        if not (is_power_of_two(resolution) and 4 <= resolution <= 1024):
            raise ValueError(f"{resolution} is not a power of two in 4..1024")
        return resolution

    @property
    def levels(self) -> list[int]:
        """All resolutions, largest first."""
        return [1 << k for k in range(self.resolution.bit_length() - 1, 1, -1)]


@dataclass(frozen=True)
class _Job:
    """Everything a worker needs to know."""

    source: Source
    settings: PrepareSettings
    where: str
    root: Path

    def finished(self, plan: Plan) -> ShardRecord | None:
        record = ShardRecord.find(self.root, plan.record_name)
        if record is None or sorted((*record.positions, *record.skipped)) != plan.positions.tolist():
            return None
        # A run that must not skip does not accept what was skipped before.
        return record if self.settings.skip_unreadable or not record.skipped else None

    def make_shard(self, plan: Plan, tick: Tick) -> None:
        """Write all levels of a shard and then its record; `tick` is called after every image."""
        kept: list[int] = []
        skipped: dict[int, str] = {}
        remarks: dict[Remark, list[int]] = {}
        with ExitStack() as stack:
            tars: list[OutputFile] = []
            stack.enter_context(_explain_circumstances(self.root, lambda: self._estimate(plan, tars, len(kept))))
            levels = {r: self._open_level(plan, r, stack, tars) for r in self.settings.levels}
            for position in plan.positions.tolist():
                try:
                    pixels, label, said = self._load(position)
                except ImageError as error:
                    if not self.settings.skip_unreadable:
                        raise PrepareError(f"{self._name(position)} {error}: {FIX}") from None
                    skipped[position] = str(error)
                else:
                    kept.append(position)
                    for remark in said:
                        remarks.setdefault(remark, []).append(position)
                    for resolution, level in levels.items():
                        if len(pixels) > resolution:
                            pixels = halve(pixels)
                        level.add(round_pixels(pixels), position, label)
                tick()
            done = {r: level.finish() for r, level in levels.items()} if kept else {}
            record = ShardRecord(
                split=plan.split,
                positions=tuple(kept),
                skipped=skipped,
                remarks={remark: tuple(remarks[remark]) for remark in Remark if remark in remarks},
                files={r: file for r, (file, _) in done.items()},
                indexes={r: index for r, (_, index) in done.items() if index},
            )
            write_file(self.root, plan.record_name, record.model_dump_json().encode())

    def _open_level(
        self, plan: Plan, resolution: int, stack: ExitStack, tars: list[OutputFile]
    ) -> ArrayWriter | TarWriter:
        name = f"{resolution:04d}/shard-{plan.number:05d}"
        if resolution <= self.settings.array_max_resolution:
            return ArrayWriter(self.root, name, len(plan.positions), resolution, self.settings.channels)
        tars.append(stack.enter_context(OutputFile(self.root, f"{name}.tar")))
        return TarWriter(self.root, name, tars[-1], self.settings.format, self.settings.quality)

    def _load(self, position: int) -> tuple[NDArray[np.float32], int | None, set[Remark]]:
        """The largest level of an image, its label, and remarks about it."""
        if reason := self.source.found.problems.get(position):
            raise ImageError(reason)
        label = self.source.listing.label(position)
        if self.source.listing.classes and label is None:
            raise ImageError(NO_LABEL)
        said: set[Remark] = set()
        try:
            content = self.source.read(position)
            return to_square(content, self.settings.channels, self.settings.resolution, said.add), label, said
        except ImageError:
            raise
        except FileNotFoundError:
            raise PrepareError(
                f"{self._name(position)} was there and is now gone: check whether the file system is still mounted; "
                "if the file was removed, start anew in another destination"
            ) from None
        except (OSError, MemoryError) as error:
            if not is_circumstance(error):
                raise PrepareError(f"{self._name(position)} cannot be read ({error}): fix that first") from None
            raise PrepareError(str(explained(self._name(position), error))) from None

    def _name(self, position: int) -> str:
        return f"{shown_name(self.source.listing.names[position])} in {self.where}"

    def _estimate(self, plan: Plan, tars: list[OutputFile], done: int) -> int:
        """Bytes of a whole shard: its arrays, and its tars estimated from its images so far."""
        arrays = [r * r for r in self.settings.levels if r <= self.settings.array_max_resolution]
        written = sum(tar.bytes for tar in tars)
        return (sum(arrays) * self.settings.channels + written // max(done, 1)) * len(plan.positions)


@contextmanager
def _explain_circumstances(root: Path, needed: Callable[[], int]) -> Iterator[None]:
    """A context for writing; `needed` gives the bytes for the next shard."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if not is_circumstance(error):
            raise
        if isinstance(error, MemoryError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise PrepareError(str(explained(str(root), error, "written"))) from None
        free = shutil.disk_usage(root).free
        raise PrepareError(
            f"no space left in {root}: about {needed():,} bytes are needed for the next shard and {free:,} "
            "are free; free some space and run the same command again to continue"
        ) from None


def prepare(
    source: Path | str,
    dest: Path | str,
    settings: PrepareSettings | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    follow_links: bool = False,
) -> Manifest:
    """Make the data set DEST from the images at `source`, a path or URL, and return its manifest.

    The whole source is looked through first; `say` gets a line for each thing found, and before each file that is
    copied because it is packed or lies elsewhere. `follow_links`: take what symbolic links of a folder lead to outside
    of it.

    Raises PrepareError with one line for everything that a user can fix. After that, or after an
    interruption, the same call continues where it ended.
    """
    where, dest, settings = os.path.expanduser(str(source)), Path(dest).expanduser(), settings or PrepareSettings()
    if dest.exists():
        raise PrepareError(f"{dest} exists already: give another destination or remove it")
    if dest.resolve().is_relative_to(Path(where).resolve()):
        raise PrepareError(f"{dest} lies inside the source {where}: give a destination outside it")
    root = dest.with_name(f"{dest.name}.partial")
    with _explain_circumstances(root, lambda: 1 << 20):
        with _hold(root):
            try:
                opened = open_source(where, settings.labels, settings.member, root / "work/source", say, follow_links)
                survey(opened, shown(where), settings.test, settings.skip_unreadable, say)
                plans = plan_shards(opened, settings.test, settings.shard_size)
                # A run that stopped at a damaged file may continue without such files: its finished shards are the
                # same.
                same = settings.model_dump(mode="json", exclude={"skip_unreadable"})
                _continue(root, json.dumps({"listing": opened.listing.digest(), "settings": same}, indent=1))
                job = _Job(opened, settings, shown(where), root)
                records = _make_all(job, plans, workers, progress or (lambda done, total: None), say)
            except SourceError as error:
                raise PrepareError(str(error)) from None
            manifest = _finish(job, records)
        shutil.rmtree(root / "work")
        root.rename(dest)
    return manifest


def _make_all(
    job: _Job, plans: list[Plan], workers: int, progress: Progress, say: Callable[[str], None]
) -> list[ShardRecord]:
    """Records of all shards. Where damage took images from a test split of a given size, others take their place: the
    shards that this changes are made anew."""
    if (known := job.root / _DAMAGED).exists():
        plans = plan_shards(job.source, job.settings.test, job.settings.shard_size, json.loads(known.read_bytes()))
    _make_shards(job, plans, workers, progress)
    records = _records(job, plans)
    lost = sum(len(record.skipped) for record in records if record.split == "test")
    if lost and not isinstance(job.settings.test, tuple) and job.settings.test != "source":
        say(f"{lost} of the test images are damaged: others take their place")
        damaged = sorted(position for record in records for position in record.skipped)
        write_file(job.root, _DAMAGED, json.dumps(damaged).encode())
        plans = plan_shards(job.source, job.settings.test, job.settings.shard_size, damaged)
        for plan in plans:
            if job.finished(plan) is None:
                for file in job.root.glob(f"[0-9]*/shard-{plan.number:05d}.*"):
                    file.unlink()
        _make_shards(job, plans, workers, progress)
        records = _records(job, plans)
    return records


def _records(job: _Job, plans: list[Plan]) -> list[ShardRecord]:
    records = [record for plan in plans if (record := job.finished(plan)) is not None]
    assert len(records) == len(plans)
    return records


@contextmanager
def _hold(root: Path) -> Iterator[None]:
    """Keep the work directory, new or left by an earlier run, for this process alone."""
    work = root / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrepareError(f"{work} cannot be made ({error.strerror}): give another destination") from None
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(f"another process is at work in {root}: wait for it or stop it") from None
        except OSError:  # some cluster file systems have no locks
            pass
        for leftover in root.rglob("*.tmp"):
            leftover.unlink(missing_ok=True)
        try:
            yield
        finally:
            if [path for path in root.rglob("*")] == [work, work / "lock"]:  # nothing was begun
                shutil.rmtree(root)


def _continue(root: Path, fingerprint: str) -> None:
    """Continue where an earlier run of the same preparation ended, if there was one. PrepareError if it was another."""
    known = root / "work/fingerprint.json"
    if not known.exists() or known.read_text(encoding="utf-8") != fingerprint:
        if any(known.parent.glob("shard-*.json")):
            raise PrepareError(
                f"{root} holds an unfinished preparation with other settings or another source: "
                "run that one again to continue it, or remove the directory"
            )
        for folder in root.glob("[0-9]*"):  # no shard was finished: nothing to keep
            shutil.rmtree(folder)
        write_file(root, "work/fingerprint.json", fingerprint.encode())


def _make_shards(job: _Job, plans: list[Plan], workers: int, progress: Progress) -> None:
    total = sum(len(plan.positions) for plan in plans)
    missing = [plan for plan in plans if job.finished(plan) is None]
    done = total - sum(len(plan.positions) for plan in missing)
    progress(done, total)
    try:
        run_tasks(_Job.make_shard, job, missing, workers, lambda count: progress(done + count, total))
    except WorkerKilledError as error:
        raise PrepareError(str(error)) from None


def _finish(job: _Job, records: list[ShardRecord]) -> Manifest:
    """Write names, labels and the manifest of finished shards."""
    skipped = {position: reason for record in records for position, reason in record.skipped.items()}
    records = [record for record in records if record.positions]
    counts = {split: sum(len(r.positions) for r in records if r.split == split) for split in ("train", "test")}
    if counts["train"] == 0:
        raise PrepareError(f"no training image in {job.where} could be read, all were skipped")
    positions = [position for record in records for position in record.positions]
    settings, listing = job.settings, job.source.listing
    names = "".join(f"{shown_name(listing.names[position])}\n" for position in positions)
    labels = None if listing.labels is None else listing.labels[positions].astype(np.int64)
    levels = {}
    for resolution in reversed(settings.levels):
        array = resolution <= settings.array_max_resolution
        levels[resolution] = Level(
            kind="array" if array else "tar",
            format="npy" if array else settings.format,
            files=tuple(record.files[resolution] for record in records),
            indexes=() if array else tuple(record.indexes[resolution] for record in records),
        )
    manifest = Manifest(
        resolution=settings.resolution,
        channels=settings.channels,
        samples=len(positions),
        train=counts["train"],
        test=counts["test"],
        classes=listing.classes,
        shards=tuple(Shard(samples=len(record.positions), split=record.split) for record in records),
        levels=levels,
        names=write_file(job.root, "names.txt", names.encode()),
        labels=None if labels is None else write_array(job.root, "labels.npy", labels),
        source=job.where,
        settings=settings.model_dump(mode="json"),
        skipped=tuple(shown_name(listing.names[position]) for position in skipped),
        remarks=_remarks(job, records),
        found=report(job.source, skipped),
    )
    manifest.write(job.root)
    return manifest


def _remarks(job: _Job, records: list[ShardRecord]) -> dict[str, RemarkedImages]:
    found = {}
    for remark in Remark:
        positions = sorted(position for record in records for position in record.remarks.get(remark, ()))
        if positions:
            names = (shown_name(job.source.listing.names[position]) for position in positions[:EXAMPLES])
            found[str(remark)] = RemarkedImages(images=len(positions), examples=tuple(names))
    return found
