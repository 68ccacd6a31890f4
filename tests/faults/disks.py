"""A disk that is full, too small or read-only, made of memory so that no real one is touched."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sivae_dist.run.ends import STOPPED
from tests.disks import MountError, mount, small_disk
from tests.faults.attempts import LAUNCHER, PATIENCE, Attempt, wait_until
from tests.faults.results import Event, line_told, tracebacks
from tests.faults.subjects import BATCH, EVERY, TOTAL, Progress, Reference, Subject, wait_for

SAVE_FAILS, SAVES_FAIL, NO_BYTE_FREE = "disk full, one save fails", "disk full, all saves fail", "no byte free"
TOO_SMALL, READ_ONLY = "disk too small for a checkpoint", "read-only directory"
DISK = "disk"
CAUSE = "No space left on device"
_KILOBYTES, _FEW_KILOBYTES = 8192, 96
_ROOM_FOR_ROWS = 96 << 10
"""Bytes left free where saves shall fail and nothing else: less than a checkpoint, more than many rows."""

NewSubject = Callable[[Path, tuple[str, ...]], Subject]
"""Makes the run that lives at a path, with overrides."""


@contextmanager
def filled(disk: Path, leave: int = 0) -> Iterator[Callable[[], None]]:
    """All but `leave` bytes of the disk taken by another file, as by another program; gives what takes more again."""
    other = disk / "other"

    def take() -> None:
        with open(other, "ab", buffering=0) as file:
            try:
                while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave) > 0:
                    file.write(bytes(min(free, 1 << 16)))
            except OSError:
                pass

    try:
        take()
        yield take
    finally:
        other.unlink()


def try_disk(fault: str, folder: Path, new_subject: NewSubject, reference: Reference, rng: random.Random) -> Event:
    """Does one of these faults to a run in `folder`, finishes the run and compares it."""
    few = fault == TOO_SMALL
    try:
        with small_disk(folder / DISK, _FEW_KILOBYTES if few else _KILOBYTES) as disk:
            # Only where one save shall fail is the number of failures no reason to end.
            subject = new_subject(disk / "run", ("checkpoint.max_failures=1000",) if fault == SAVE_FAILS else ())
            event = subject.event(fault)
            try:
                _FAULTS[fault](subject, disk, event, rng)
            except AssertionError as error:
                event.problems.append(str(error))
            event.problems += subject.problems(0)
            if not few:
                event.problems += subject.finish(reference, all_events=fault == READ_ONLY)
            return event
    except MountError as error:
        return Event(fault, 0, skipped=True, told=f"not tried: mounting is not permitted here ({error})")


def _save_fails(subject: Subject, disk: Path, event: Event, rng: random.Random) -> None:
    with subject.attempt() as (attempt, progress):
        _train_a_while(attempt, progress, rng)
        before = subject.newest()
        try:
            with filled(disk, _ROOM_FOR_ROWS):
                wait_for(lambda: "cannot write checkpoint" in attempt.text(), attempt, "a failed save")
                seen = progress.images() or 0
                assert wait_for(lambda: (progress.images() or 0) > seen + BATCH, attempt, "another step")
            # What is on disk when the fault is over may be newer than before it: a save can have been under way.
            failed = max(before, subject.newest())
            assert wait_for(lambda: subject.newest() > failed, attempt, "a save"), "no save came after the failed one"
            assert attempt.end() == 0, attempt.explanation()
        finally:
            _note(event, subject, attempt, progress)
    _must_tell(event, "RUN/checkpoints", CAUSE)


def _saves_fail(subject: Subject, disk: Path, event: Event, rng: random.Random) -> None:
    with subject.attempt() as (attempt, progress):
        _train_a_while(attempt, progress, rng)
        with filled(disk, _ROOM_FOR_ROWS):
            _ends(subject, attempt, progress, event, lambda: None)


def _no_byte_free(subject: Subject, disk: Path, event: Event, rng: random.Random) -> None:
    with subject.attempt() as (attempt, progress):
        _train_a_while(attempt, progress, rng)
        with filled(disk) as take:  # and what a failed save gives back is taken again
            _ends(subject, attempt, progress, event, take)


def _ends(subject: Subject, attempt: Attempt, progress: Progress, event: Event, meanwhile: Callable[[], None]) -> None:
    """The run must end by itself, say why, and leave what it had saved."""
    before = subject.newest()

    def ended() -> bool:
        meanwhile()
        return attempt.code() is not None

    wait_until(ended, PATIENCE, attempt.explanation)
    event.problems += subject.left(attempt) + subject.problems(before)
    _note(event, subject, attempt, progress)
    assert attempt.code() == 1, f"it ended with {attempt.code()}:\n{attempt.explanation()}"
    _must_tell(event, CAUSE)


def _too_small(subject: Subject, disk: Path, event: Event, rng: random.Random) -> None:
    with subject.attempt() as (attempt, progress):
        code = attempt.end()
        event.problems += subject.left(attempt)
        _note(event, subject, attempt, progress)
    assert code == 1 and not progress.images(), f"it ended with {code} after {progress.images()} images"
    _must_tell(event, "RUN/checkpoints", " MB ", CAUSE)


def _read_only(subject: Subject, disk: Path, event: Event, rng: random.Random) -> None:
    with subject.attempt() as (attempt, progress):
        _train_a_while(attempt, progress, rng)
        attempt.send(signal.SIGTERM, LAUNCHER, rng, [])
        assert attempt.end() == STOPPED, attempt.explanation()
    before = subject.newest()
    mount("-o", "remount,ro", str(disk))
    try:
        with subject.attempt() as (attempt, progress):
            code = attempt.end()
            event.problems += subject.left(attempt) + subject.problems(before)
            _note(event, subject, attempt, progress)
    finally:
        mount("-o", "remount,rw", str(disk))
    event.images, event.lost = before, 0
    assert code == 1, f"it ended with {code}"
    _must_tell(event, "RUN", "Read-only file system")


_FAULTS = {
    SAVE_FAILS: _save_fails,
    SAVES_FAIL: _saves_fail,
    NO_BYTE_FREE: _no_byte_free,
    TOO_SMALL: _too_small,
    READ_ONLY: _read_only,
}


def _train_a_while(attempt: Attempt, progress: Progress, rng: random.Random) -> None:
    """Until some checkpoints are there and enough is left to do."""
    images = rng.randint(3 * EVERY, TOTAL // 2)
    assert wait_for(lambda: (progress.images() or 0) >= images, attempt, f"{images} images")


def _note(event: Event, subject: Subject, attempt: Attempt, progress: Progress) -> None:
    event.images = progress.images() or 0
    event.lost = max(0, event.images - subject.newest())
    event.told = line_told(attempt.text(), subject.path, ("error:", "warning: cannot write checkpoint", "warning:"))
    event.problems += tracebacks(attempt.text())
    if (code := attempt.code()) is not None:
        event.told += f" (exit code {code})"


def _must_tell(event: Event, *words: str) -> None:
    missing = [word for word in words if word not in event.told]
    assert not missing, f"the user is not told {missing}: {event.told}"
