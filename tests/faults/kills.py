"""kill -9 of a run's processes: at moments that are waited for, and proved by what is found afterwards."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.attempts import ONE, Attempt
from tests.faults.results import Event, line_told, tracebacks
from tests.faults.subjects import BATCH, CHANGES, EVERY, TOTAL, Progress, Reference, Subject, wait_for, wait_into_start

ANYWHERE, IN_SAVE, AT_CHANGE, AT_START = "at a random moment", "inside a save", "at a phase change", "during a start"
IN_REMOVAL = "while an old checkpoint was removed"
MOST_TRIES = 4
"""How often a moment is aimed at before the aim is given up."""
_DELAY = {ANYWHERE: 0.1, IN_SAVE: 0.06, AT_CHANGE: 0.03}
_LATE_SAVE = 0.005
"""Seconds within which, after what was waited for, the signal is sent: about a step or two, half a save, a step; and
from the tensors on disk to the name."""


@dataclass(frozen=True)
class Aim:
    moment: str
    target: str
    late: bool = False
    """Of a save: when the tensors are written and the name is to be given, rather than while they are written."""


def kill_repeatedly(
    new_subject: Callable[[], Subject], aims: list[Aim], reference: Reference, rng: random.Random
) -> list[Event]:
    """Kills one run after the other, finishes each and compares it; an event a kill.

    One run bears as many kills as fit in before its end. Each aim is repeated until what is found shows that it was
    met; kills that hit another moment count as what they were, and those that came too late count as nothing.
    """
    events: list[Event] = []
    tries = dict.fromkeys(range(len(aims)), 0)
    while tries:
        subject = new_subject()
        done: list[Event] = []
        index = next(iter(tries))
        try:
            while (found := _next(tries, aims, subject.newest())) is not None:
                index = found
                aim, others = aims[index], [aims[i] for i in tries]
                event = _kill(subject, aim, _room(subject.newest(), others, aim), reference, rng)
                tries[index] += 1
                met = event is not None and (aim.moment == ANYWHERE or aim.moment in event.evidence)
                if met or tries[index] >= MOST_TRIES:
                    del tries[index]
                if event is None:
                    break
                done.append(event)
            problems = subject.finish(reference)
        except AssertionError as error:
            problems = [str(error)]
            tries.pop(index, None)
            done = done or [subject.event(f"kill -9 of {aims[index].target}")]
        for event in done:
            event.problems += problems
        events += done
    return events


def _next(tries: dict[int, int], aims: list[Aim], resumed: int) -> int | None:
    """The first aim left that a run can meet that resumes from there."""
    for index in tries:
        moment = aims[index].moment
        latest = {AT_CHANGE: CHANGES[-1] - 2 * BATCH, AT_START: TOTAL - 1}.get(moment, TOTAL - 3 * EVERY)
        if resumed <= latest:
            return index
    return None


def _room(resumed: int, left: list[Aim], aim: Aim) -> tuple[int, int]:
    """Images between which a kill may fall so that the other aims still find their place behind it."""
    if aim.moment == AT_CHANGE:
        change = next(change for change in CHANGES if resumed <= change - 2 * BATCH)
        return change - BATCH, change
    changes = any(other.moment == AT_CHANGE for other in left) and resumed < CHANGES[-1] - 4 * BATCH
    last = CHANGES[-1] - 2 * BATCH if changes else TOTAL - 2 * EVERY
    return resumed + BATCH, resumed + BATCH + max(1, 2 * (last - resumed - BATCH) // (1 + len(left)))


def _kill(subject: Subject, aim: Aim, room: tuple[int, int], reference: Reference, rng: random.Random) -> Event | None:
    """Starts the run and kills it as aimed; None when it came to its end before."""
    resumed = subject.newest()
    with subject.attempt() as (attempt, progress):
        known = _await_moment(attempt, progress, aim, room, reference.start_seconds, rng)
        if known is None:
            return None
        before = subject.newest()
        attempt.send(signal.SIGKILL, aim.target, rng, known)
        seen = progress.images() or resumed
        problems = subject.left(attempt)
        if attempt.code() == 0:
            return None
        told = line_told(attempt.text(), subject.path)
    event = subject.event(f"kill -9 of {aim.target}")
    if aim.target == ONE:
        event.told = told
    else:
        subject.untold = event
    images = progress.images()
    event.images = resumed if images is None else images
    event.lost = max(0, event.images - subject.newest())
    event.evidence = _evidence(progress, event.images, resumed)
    event.problems = problems + subject.problems(before) + tracebacks(attempt.text())
    if event.images > seen + 2 * EVERY:  # a few steps may go by until all have ended
        event.problems.append(f"it trained on for {event.images - seen} images")
    if event.lost > 2 * EVERY:  # a save that is under way is waited for before the next begins
        event.problems.append(f"{event.lost} images lost with a checkpoint every {EVERY}")
    return event


def _await_moment(
    attempt: Attempt,
    progress: Progress,
    aim: Aim,
    room: tuple[int, int],
    start_seconds: float,
    rng: random.Random,
) -> list[int] | None:
    """Returns the ids of the processes, or some, when the moment has come; None when the run came to its end first."""
    if aim.moment == AT_START:
        here = wait_into_start(attempt, aim.target, rng.uniform(0, start_seconds))
        return attempt.ranks() if here else None
    if not wait_for(lambda: progress.images() is not None, attempt, "the first step"):
        return None
    known = attempt.ranks()
    images = room[0] if aim.moment == AT_CHANGE else rng.randint(*room)
    if not wait_for(lambda: (progress.images() or 0) >= images, attempt, f"{images} images"):
        return None
    if aim.moment == IN_SAVE and aim.late:
        names = progress.names()
        if not wait_for(lambda: progress.committing(names), attempt, "the end of a save"):
            return None
        time.sleep(rng.uniform(0, _LATE_SAVE))
        return known
    if aim.moment == IN_SAVE and not wait_for(progress.saving, attempt, "a save"):
        return None
    time.sleep(rng.uniform(0, _DELAY[aim.moment]))
    return known


def _evidence(progress: Progress, images: int, resumed: int) -> list[str]:
    found = []
    if images <= resumed:
        found.append(AT_START)
    if progress.saving():
        found.append(IN_SAVE)
    if progress.removing():
        found.append(IN_REMOVAL)
    if images in (place for change in CHANGES for place in (change - BATCH, change)):
        found.append(AT_CHANGE)
    return found
