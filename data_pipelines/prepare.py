"""A source of images to a pyramid of levels, each made from the one above by 2x2 means.

The work is cut into shards, each made by one worker from one decode of every image, in DEST.partial beside
DEST. A finished shard leaves a record there, so that running the same preparation again continues it. The
bytes depend on the source and the settings alone: not on the number of workers, nor on interruptions.
"""

import errno
import fcntl
import json
import multiprocessing as mp
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_process
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from data_pipelines.decode import halve, resize_square, round_pixels
from data_pipelines.manifest import (
    Level,
    Manifest,
    OutputFile,
    Shard,
    Split,
    is_power_of_two,
    write_file,
)
from data_pipelines.settings import Settings
from data_pipelines.shards import ArrayWriter, ShardRecord, TarWriter, write_array
from data_pipelines.sources import (
    ImageError,
    Labels,
    Source,
    SourceError,
    centre_square,
    choose_test,
    open_source,
    to_float,
)

Progress = Callable[[int, int], None]
"""Called with the number of images done, those of earlier runs included, and the number of all."""


_MEND = "mend or remove it, or leave such files out with --skip-unreadable"


class PrepareError(ValueError):
    """A preparation cannot go on; the message is one line that says why and what to do."""


class PrepareSettings(Settings):
    """How a source becomes a data set."""

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
    """Files of the source a shard."""
    test: Annotated[int, Field(ge=0)] | tuple[str, ...] = 0
    """How many files are kept for testing, or their names. A number means the last ones in sorted order, as
    FFHQ's split has it, or evenly spread ones when there are labels."""
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
class _Plan:
    """What a shard is to be made of: positions in the source."""

    number: int
    split: Split
    positions: tuple[int, ...]

    @property
    def record_name(self) -> str:
        return f"work/shard-{self.number:05d}.json"


@dataclass(frozen=True)
class _Job:
    """Everything a worker needs to know."""

    source: Source
    settings: PrepareSettings
    source_path: Path
    root: Path

    def finished(self, plan: _Plan) -> ShardRecord | None:
        record = ShardRecord.find(self.root, plan.record_name)
        # What was skipped before is not accepted by a run that shall not skip.
        return record if record and (self.settings.skip_unreadable or not record.skipped) else None

    def make_shard(self, plan: _Plan, tick: Callable[[], None]) -> None:
        """Write all levels of a shard and then its record; `tick` is called after every image."""
        kept: list[int] = []
        skipped: list[str] = []
        with ExitStack() as stack:
            tars: list[OutputFile] = []
            stack.enter_context(_explain_full_disk(self.root, lambda: self._estimate(plan, tars, len(kept))))
            levels = {r: self._open_level(plan, r, stack, tars) for r in self.settings.levels}
            for position in plan.positions:
                try:
                    pixels, label = self._load(position)
                except ImageError as error:
                    if not self.settings.skip_unreadable:
                        raise PrepareError(f"{self._name(position)} {error}: {_MEND}") from None
                    skipped.append(self.source.name(position))
                else:
                    kept.append(position)
                    for resolution, level in levels.items():
                        if len(pixels) > resolution:
                            pixels = halve(pixels)
                        level.add(round_pixels(pixels), position, label)
                tick()
            done = {r: level.finish() for r, level in levels.items()} if kept else {}
            record = ShardRecord(
                split=plan.split,
                positions=tuple(kept),
                skipped=tuple(skipped),
                files={r: file for r, (file, _) in done.items()},
                indexes={r: index for r, (_, index) in done.items() if index},
            )
            write_file(self.root, plan.record_name, record.model_dump_json().encode())

    def _open_level(
        self, plan: _Plan, resolution: int, stack: ExitStack, tars: list[OutputFile]
    ) -> ArrayWriter | TarWriter:
        name = f"{resolution:04d}/shard-{plan.number:05d}"
        if resolution <= self.settings.array_max_resolution:
            return ArrayWriter(self.root, name, len(plan.positions), resolution, self.settings.channels)
        tars.append(stack.enter_context(OutputFile(self.root, f"{name}.tar")))
        return TarWriter(self.root, name, tars[-1], self.settings.format, self.settings.quality)

    def _load(self, position: int) -> tuple[NDArray[np.float32], int | None]:
        """The largest level of an image, and its label."""
        label = self.source.label(position)
        if self.source.classes and label is None:
            raise ImageError("has no label")
        try:
            image = self.source.image(position)
        except OSError as error:
            reason = error.strerror or error
            raise PrepareError(f"{self._name(position)} cannot be read ({reason}): mend that first") from None
        square = to_float(centre_square(image), self.settings.channels)
        return resize_square(square, self.settings.resolution), label

    def _name(self, position: int) -> str:
        return f"{self.source.name(position)} in {self.source_path}"

    def _estimate(self, plan: _Plan, tars: list[OutputFile], done: int) -> int:
        """Bytes of a whole shard: its arrays, and its tars as far as its images so far tell."""
        arrays = [r * r for r in self.settings.levels if r <= self.settings.array_max_resolution]
        written = sum(tar.bytes for tar in tars)
        return (sum(arrays) * self.settings.channels + written // max(done, 1)) * len(plan.positions)


@contextmanager
def _explain_full_disk(root: Path, needed: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(root).free
        raise PrepareError(
            f"no space left in {root}: about {needed():,} bytes are needed for the next shard and {free:,} "
            "are free; free some space and run the same command again to continue"
        ) from None


def prepare(
    source_path: Path | str,
    dest: Path | str,
    settings: PrepareSettings | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Make the data set DEST from the images at source_path, and return its manifest.

    Raises PrepareError with one line for everything that a user can mend. After that, or after an
    interruption, the same call continues where it ended.
    """
    source_path, dest, settings = Path(source_path), Path(dest), settings or PrepareSettings()
    if dest.exists():
        raise PrepareError(f"{dest} exists already: give another destination or remove it")
    root = dest.with_name(f"{dest.name}.partial")
    if dest.resolve().is_relative_to(source_path.resolve()):
        raise PrepareError(f"{dest} lies inside the source {source_path}: give a destination outside it")
    try:
        source = open_source(source_path, settings.labels)
        plans = _plan(source, settings)
    except SourceError as error:
        raise PrepareError(str(error)) from None
    # A run that stopped at a damaged file may go on without such files: its finished shards are the same.
    same = settings.model_dump(mode="json", exclude={"skip_unreadable"})
    fingerprint = {"listing": source.digest(), "settings": same}
    with _explain_full_disk(root, lambda: 1 << 20):
        with _claim(root, json.dumps(fingerprint, indent=1)):
            job = _Job(source, settings, source_path, root)
            _make_shards(job, plans, workers, progress or (lambda done, total: None))
            manifest = _finish(job, plans)
        shutil.rmtree(root / "work")
        root.rename(dest)
    return manifest


def _plan(source: Source, settings: PrepareSettings) -> list[_Plan]:
    """Which positions of the source go to which shard: training shards, then test shards."""
    count = len(source)
    if source.classes and not settings.skip_unreadable:
        for position in range(count):
            if source.label(position) is None:
                raise PrepareError(f"{source.name(position)} has no label though others have: {_MEND}")
    test = choose_test(source, settings.test)
    train = [position for position in range(count) if position not in test]
    if not train:
        raise PrepareError(f"the test split takes all {count} files: leave some for training")
    splits: tuple[tuple[Split, list[int]], ...] = (("train", train), ("test", sorted(test)))
    plans: list[_Plan] = []
    for split, positions in splits:
        for start in range(0, len(positions), settings.shard_size):
            plans.append(_Plan(len(plans), split, tuple(positions[start : start + settings.shard_size])))
    return plans


@contextmanager
def _claim(root: Path, fingerprint: str) -> Iterator[None]:
    """Hold the work directory for this process alone, new or left by the same preparation."""
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
        known = work / "fingerprint.json"
        if not known.exists() or known.read_text(encoding="utf-8") != fingerprint:
            if any(work.glob("shard-*.json")):
                raise PrepareError(
                    f"{root} holds an unfinished preparation with other settings or another source: "
                    "run that one again to continue it, or remove the directory"
                )
            for folder in root.glob("[0-9]*"):  # no shard was finished: nothing to keep
                shutil.rmtree(folder)
            write_file(root, "work/fingerprint.json", fingerprint.encode())
        yield


def _make_shards(job: _Job, plans: list[_Plan], workers: int, progress: Progress) -> None:
    total = sum(len(plan.positions) for plan in plans)
    missing = [plan for plan in plans if job.finished(plan) is None]
    done = total - sum(len(plan.positions) for plan in missing)
    progress(done, total)
    if workers <= 1:
        for plan in missing:

            def tick() -> None:
                nonlocal done
                done += 1
                progress(done, total)

            job.make_shard(plan, tick)
    elif missing:
        _run_pool(job, missing, min(workers, len(missing)), lambda count: progress(done + count, total))


def _run_pool(job: _Job, plans: list[_Plan], workers: int, report: Callable[[int], None]) -> None:
    context = mp.get_context("spawn")
    done, stop = context.Value("q", 0), context.Value("b", 0, lock=False)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job, done, stop))
    try:
        # Workers inherit the blocked signal: Ctrl-C is for this process, which then tells them to stop.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pending = {pool.submit(_run_plan, plan) for plan in plans}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            report(done.value)
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise PrepareError(
            "a worker process was killed, perhaps for lack of memory: run again with fewer workers"
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(cancel_futures=True)


_worker: tuple[_Job, Any, Any]


def _start_worker(job: _Job, done: Any, stop: Any) -> None:
    global _worker
    _worker = (job, done, stop)
    cv2.setNumThreads(1)
    parent = mp.parent_process()
    assert parent is not None
    # A pool's workers would otherwise wait for ever for a parent that was killed.
    threading.Thread(target=lambda: (wait_for_process([parent.sentinel]), os._exit(1)), daemon=True).start()


def _run_plan(plan: _Plan) -> None:
    job, done, stop = _worker

    def tick() -> None:
        with done.get_lock():
            done.value += 1
        if stop.value:
            raise PrepareError("stopped")

    job.make_shard(plan, tick)


def _finish(job: _Job, plans: list[_Plan]) -> Manifest:
    """Write names, labels and the manifest of finished shards."""
    records = [record for plan in plans if (record := job.finished(plan)) is not None]
    assert len(records) == len(plans)
    skipped = tuple(name for record in records for name in record.skipped)
    records = [record for record in records if record.positions]
    counts = {split: sum(len(r.positions) for r in records if r.split == split) for split in ("train", "test")}
    if counts["train"] == 0:
        raise PrepareError(f"no training image in {job.source_path} could be read, all were skipped")
    positions = [position for record in records for position in record.positions]
    names = "".join(f"{job.source.name(position)}\n" for position in positions)
    labels = [job.source.label(position) for position in positions] if job.source.classes else None
    settings = job.settings
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
        classes=job.source.classes,
        shards=tuple(Shard(samples=len(record.positions), split=record.split) for record in records),
        levels=levels,
        names=write_file(job.root, "names.txt", names.encode()),
        labels=None if labels is None else write_array(job.root, "labels.npy", np.array(labels, np.int64)),
        source=str(job.source_path),
        settings=settings.model_dump(mode="json"),
        skipped=skipped,
    )
    manifest.write(job.root)
    return manifest
