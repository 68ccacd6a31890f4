"""Files of the newest checkpoint that are no longer what was written."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from sivae_dist.checkpoint.files import MANIFEST
from tests.faults.attempts import ALL
from tests.faults.results import Event, tracebacks
from tests.faults.subjects import BATCH, EVERY, TOTAL, Reference, Subject, wait_for

WAYS = ("truncated", "a bit flipped", "emptied", "deleted")


def damage(path: Path, way: str, rng: random.Random) -> None:
    size = path.stat().st_size
    if way == "deleted":
        path.unlink()
    elif way == "a bit flipped":
        with open(path, "r+b") as file:
            file.seek(rng.randrange(size))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    else:
        os.truncate(path, rng.randrange(1, size) if way == "truncated" else 0)


def damage_repeatedly(
    new_subject: Callable[[], Subject],
    wanted: list[tuple[int, str]],
    reference: Reference,
    rng: random.Random,
) -> list[Event]:
    """Damages a file of the newest checkpoint, by number and way, and resumes; an event each.

    Number 0 is the manifest, the others are the processes' shares.
    """
    events: list[Event] = []
    left = list(wanted)
    while left:
        subject = new_subject()
        done: list[Event] = []
        try:
            _train_on(subject, 3 * EVERY, rng)
            while left and subject.newest() <= TOTAL - 4 * EVERY:
                number, way = left.pop(0)
                done.append(subject.event(f"{'manifest' if number == 0 else 'shard'} {way}"))
                _damage_once(subject, number, way, done[-1], rng)
            problems = subject.finish(reference)
            for event in done:
                event.problems += problems
        except AssertionError as error:  # the others of this run are not to blame
            if not done:
                done.append(subject.event(f"nothing yet, before {left.pop(0)}"))
            done[-1].problems.append(str(error))
        events += done
    return events


def _damage_once(subject: Subject, number: int, way: str, event: Event, rng: random.Random) -> None:
    """Damages, then trains until two checkpoints are newer than what was left, for the next to come."""
    newest, previous = (checkpoint.path for checkpoint in subject.checkpoints()[:-3:-1])
    names = [MANIFEST, *sorted(path.name for path in newest.glob("shard-*"))]
    damage(newest / names[number], way, rng)
    event.images = int(newest.name.split("-")[1])
    event.lost = event.images - int(previous.name.split("-")[1])
    text = _train_on(subject, event.images + EVERY + BATCH, rng)
    lines = [line.replace(str(subject.path), "RUN") for line in text.splitlines()]
    event.told = next((line for line in lines if f"checkpoint RUN/checkpoints/{newest.name}" in line), "")
    event.problems += tracebacks(text)
    if "it is now RUN/checkpoints/damaged/" not in event.told:
        event.problems.append("the user is not told that it was moved aside")
    if f"continuing from RUN/checkpoints/{previous.name}" not in lines:
        event.problems.append("it was not continued from the one before")
    if not list(subject.folder.damaged.glob(f"{newest.name}*")):
        event.problems.append("it was not moved aside")


def _train_on(subject: Subject, images: int, rng: random.Random) -> str:
    """Until the newest checkpoint has that many images, and one more is there; what was printed."""
    with subject.attempt() as (attempt, _):
        wait_for(lambda: subject.newest() >= images, attempt, f"a checkpoint of {images} images")
        attempt.send(signal.SIGKILL, ALL, rng, attempt.ranks())
        problems = subject.left(attempt) + subject.problems(images)
        assert not problems, problems
        return attempt.text()
