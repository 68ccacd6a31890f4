"""The run that suffers, the undisturbed one that it must equal in the end, and the checks after every fault."""

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sivae_dist.checkpoint import Checkpoint, CheckpointFolder
from sivae_dist.checkpoint.files import MANIFEST
from tests.events import assert_no_step_twice
from tests.faults.attempts import ONE, PATIENCE, POLL_SECONDS, Attempt, Start, wait_until
from tests.faults.results import Event, line_told
from tests.helpers import assert_same, random_set

BATCH, EVERY = 8, 24
CHANGES = (160, 400)
"""Images after which the resolution changes, from 4 to 8 and from 8 to 16 px."""
TOTAL = 640
LEFT_SECONDS = 60.0
"""A process that lives longer than this after its run was killed is left behind."""
_TAIL = 1 << 14


def make_data(folder: Path) -> Path:
    """Small pictures as arrays, the largest in tar shards, so that both ways of reading are there."""
    return folder if folder.exists() else random_set(folder, samples=40, resolution=16, array_max_resolution=8)


def overrides(data: Path) -> tuple[str, ...]:
    """A narrow model with everything that is drawn at random, a row of metrics a step and a save every third one."""
    return (
        f"data.path={data}", "device=cpu", "model.resolution=16", "model.base_width=4", "model.max_width=8",
        "model.latent=8", "model.noise=true", "objective.warmup=0", "objective.style_mixing=0.5",
        "schedule.images={4: 160, 8: 240, 16: 240}", f"schedule.batch={BATCH}", f"checkpoint.every={EVERY}",
        f"monitoring.scalars_every={BATCH}", "monitoring.images_every=200",
    )  # fmt: skip


class Progress:
    """What one start of a run has done so far, read from its files."""

    def __init__(self, run: Path) -> None:
        self._metrics = run / "metrics.jsonl"
        self._checkpoints = run / "checkpoints"
        self._before = self._inode()
        self._partial_before = self._partial(".tmp-images-*", ".trash-*")

    def _inode(self) -> int | None:
        try:
            return self._metrics.stat().st_ino
        except OSError:
            return None

    def images(self) -> int | None:
        """Of the last complete row; None before this start has cut the file back to where it resumes."""
        if self._inode() in (None, self._before):
            return None
        try:
            with open(self._metrics, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL))
                complete = file.read().rpartition(b"\n")[0]
            return int(json.loads(complete.rpartition(b"\n")[2])["images"]) if complete else 0
        except (OSError, ValueError):
            return None

    def saving(self) -> bool:
        """Whether a save has left something half written since this start began."""
        return bool(self._partial(".tmp-images-*") - self._partial_before)

    def names(self) -> set[str]:
        """Of what has a checkpoint's final name."""
        return {path.name for path in self._checkpoints.glob("images-*")}

    def committing(self, names: set[str]) -> bool:
        """Whether a save is about to get its name, or has just got it, which is none of `names`."""
        return any(self._checkpoints.glob(f".tmp-images-*/{MANIFEST}")) or bool(self.names() - names)

    def removing(self) -> bool:
        """Whether an old checkpoint has been left half removed since this start began."""
        return bool(self._partial(".trash-*") - self._partial_before)

    def _partial(self, *patterns: str) -> set[tuple[str, int, int]]:
        found = set()
        for path in (path for pattern in patterns for path in self._checkpoints.glob(pattern)):
            try:
                status = path.stat()
            except OSError:
                continue
            found.add((path.name, status.st_ino, status.st_mtime_ns))
        return found


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run leaves, and how long it takes to start."""

    tensors: dict[str, Tensor]
    metrics: bytes
    start_seconds: float

    @classmethod
    def of(cls, subject: "Subject") -> "Reference":
        """Of the finished run at the subject's path, which is trained now if it is not there."""
        note = subject.path / "start_seconds"
        if not note.exists():
            shutil.rmtree(subject.path, ignore_errors=True)  # what was ended in the middle is not undisturbed
            begin = time.monotonic()
            with subject.attempt() as (attempt, progress):
                wait_until(lambda: bool(progress.images()) or attempt.code() is not None, PATIENCE, attempt.explanation)
                seconds = time.monotonic() - begin
                assert attempt.end() == 0, attempt.explanation()
            note.write_text(str(seconds))
        last = subject.checkpoints()[-1]
        assert last.images == TOTAL
        return cls(last.load(), (subject.path / "metrics.jsonl").read_bytes(), float(note.read_text()))


class Subject:
    """A run, started again and again."""

    def __init__(
        self,
        path: Path,
        data: Path,
        processes: int,
        start: Start,
        extra: tuple[str, ...] = (),
        logs: Path | None = None,
    ) -> None:
        """`logs`: where what each start prints goes, when not beside the run."""
        self.path = path
        self.logs = logs or path.parent
        self.processes = processes
        self.overrides = overrides(data) + extra
        self.folder = CheckpointFolder(path / "checkpoints")
        self.untold: Event | None = None
        """A fault of which the user hears at the next start only."""
        self._start = start
        self._starts = itertools.count(1)

    @contextmanager
    def attempt(self) -> Iterator[tuple[Attempt, Progress]]:
        """Starts it; nothing of it lives afterwards."""
        log = self.logs / f"{self.path.name}-{next(self._starts):03d}.log"
        log.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        progress = Progress(self.path)
        with self._start(self.path, self.overrides, self.processes, log) as attempt:
            try:
                yield attempt, progress
            finally:
                if self.untold is not None:
                    self.untold.told = line_told(attempt.text(), self.path, ("note: process", "continuing", "starting"))
                    self.untold = None

    def checkpoints(self) -> list[Checkpoint]:
        return self.folder.readable()

    def newest(self) -> int:
        """Images of the newest directory that has a checkpoint's name; 0 when there is none."""
        return max((int(path.name.split("-")[1]) for path in self.folder.paths()), default=0)

    def event(self, fault: str) -> Event:
        return Event(fault, self.processes)

    def problems(self, newest_before: int) -> list[str]:
        """What is wrong with what a fault has left: every directory with a final name must be whole, none lost."""
        found = []
        for path in self.folder.paths():
            try:
                Checkpoint.read(path).verify()
            except ValueError as error:
                found.append(f"a checkpoint is not whole: {error}")
        if self.newest() < newest_before:
            found.append(f"the newest checkpoint fell from {newest_before} to {self.newest()} images")
        return found

    def left(self, attempt: Attempt) -> list[str]:
        """Waits until no process of an attempt lives; what to say when one lives too long."""
        try:
            wait_until(lambda: attempt.code() is not None and not attempt.ranks(), LEFT_SECONDS, lambda: "")
        except AssertionError:
            return [f"processes {attempt.ranks()} live on after {LEFT_SECONDS:g} s"]
        return []

    def finish(self, reference: Reference, *, all_events: bool = True) -> list[str]:
        """Trains the run to its end undisturbed; everything in which it differs from the undisturbed one.

        Without `all_events`, TensorBoard may lack some: those that a full disk could not hold.
        """
        try:
            with self.attempt() as (attempt, _):
                code = attempt.end()
                assert code == 0, f"the last start {attempt.explanation()}"
            assert self.checkpoints()[-1].images == TOTAL, "it ended before its end"
            assert self.problems(TOTAL) == []
            assert (self.path / "metrics.jsonl").read_bytes() == reference.metrics, "metrics.jsonl differs"
            assert_same(self.checkpoints()[-1].load(), reference.tensors)
            assert_no_step_twice(self.path, all_events)
            hidden = [p.name for p in self.folder.path.iterdir() if p.name.startswith(".")]
            assert not hidden, f"left among the checkpoints: {hidden}"
        except AssertionError as error:
            return [f"the finished run differs: {str(error).strip() or 'see the assertion'}"]
        return []


def wait_for(condition: Callable[[], bool], attempt: Attempt, what: str) -> bool:
    """Returns True as soon as the condition holds, False when the run came to its end first.

    AssertionError when it failed, or when nothing of that happened for long.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if attempt.code() is not None:
            assert attempt.code() == 0, f"it ended by itself: {attempt.explanation()}"
            return False
        assert time.monotonic() < end, f"{what} did not come in {PATIENCE:g} s: {attempt.explanation()}"
        time.sleep(POLL_SECONDS)
    return True


def wait_into_start(attempt: Attempt, target: str, seconds: float) -> bool:
    """Returns True some seconds into a start, or when there is somebody to hit; False when it has ended already."""
    time.sleep(seconds)
    if target == ONE and not wait_for(lambda: bool(attempt.ranks()), attempt, "a process"):
        return False
    return attempt.code() is None
