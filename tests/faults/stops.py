"""Signals that ask a run to stop: it must save at that step and say so by its exit code."""

import random
import signal
import time
from collections.abc import Callable

from sivae_dist.process.signals import SIGNALS
from sivae_dist.run.ends import INTERRUPTED, STOPPED
from tests.faults.attempts import ALL, LAUNCHER, ONE, Attempt
from tests.faults.results import Event, line_told, tracebacks
from tests.faults.subjects import BATCH, EVERY, TOTAL, Progress, Reference, Subject, wait_for, wait_into_start

ASKED, ASKED_AT_START, SECOND_INTERRUPT = "a signal", "a signal during a start", "a second Ctrl-C"
_TRIES = 4
"""How often a signal is sent anew that came too late, to a run that had ended."""
_SOON_SECONDS = 20.0


def requests(count: int, processes: int, rng: random.Random) -> list[tuple[int, str]]:
    """Which signal to whom: every signal as often as every other, recipients drawn."""
    targets = (LAUNCHER, ONE, ALL) if processes > 1 else (LAUNCHER,)
    numbers = [SIGNALS[i % len(SIGNALS)] for i in range(count)]
    rng.shuffle(numbers)
    return [(number, rng.choice(targets)) for number in numbers]


def stop_repeatedly(
    kind: str,
    new_subject: Callable[[], Subject],
    wanted: list[tuple[int, str]],
    reference: Reference,
    rng: random.Random,
) -> list[Event]:
    """Stops runs as `kind` says, starts them again, finishes and compares each; an event a signal."""
    events: list[Event] = []
    left, tries = list(wanted), len(wanted) * _TRIES
    while left and tries:
        subject = new_subject()
        done: list[Event] = []
        try:
            while left and tries and subject.newest() < TOTAL - 3 * EVERY:
                tries -= 1
                number, target = left[0]
                last = TOTAL - 2 * EVERY
                images = rng.randint(1, max(1, 2 * (last - subject.newest() - BATCH) // (1 + len(left))))
                event = _stop(kind, subject, number, target, subject.newest() + BATCH + images, reference, rng)
                if event is not None:
                    done.append(event)
                    del left[0]
            problems = subject.finish(reference)
        except AssertionError as error:
            problems = [str(error)]
            done = done or [subject.event(kind)]
            del left[:1]
        for event in done:
            event.problems += problems
        events += done
    return events


def _stop(
    kind: str, subject: Subject, number: int, target: str, images: int, reference: Reference, rng: random.Random
) -> Event | None:
    """Starts the run and sends one signal (or two); None when it had come to its end, or to its stop, before."""
    resumed = subject.newest()
    with subject.attempt() as (attempt, progress):
        if not _await_moment(kind, target, attempt, progress, images, reference.start_seconds, rng):
            return None
        seen = progress.images() or resumed
        begin = time.monotonic()
        attempt.send(number, target, rng, attempt.ranks())
        if kind == SECOND_INTERRUPT:
            time.sleep(rng.uniform(0.01, 0.05))
            attempt.send(number, target, rng, attempt.ranks())
        code = attempt.end()
        seconds = time.monotonic() - begin
        problems = subject.left(attempt)
        told = line_told(attempt.text(), subject.path, ("error:", "warning:", "stopped", "interrupted")) or "nothing"
    if code == 0 or (kind == SECOND_INTERRUPT and code == STOPPED):
        return None
    name = signal.Signals(number).name
    event = subject.event(kind if kind == SECOND_INTERRUPT else f"{name.removeprefix('SIG')} to {target}")
    event.images = max(progress.images() or resumed, resumed)
    event.lost = max(0, event.images - subject.newest())
    event.told = f"{told} (exit code {code})"
    event.problems = problems + subject.problems(resumed) + tracebacks(attempt.text())
    if kind == ASKED_AT_START:
        event.fault += " during a start"
        return event
    expected = INTERRUPTED if kind == SECOND_INTERRUPT else STOPPED
    if code != expected:
        event.problems.append(f"it ended with {code} instead of {expected}:\n{attempt.text()[-500:]}")
    if kind == SECOND_INTERRUPT and seconds > _SOON_SECONDS:
        event.problems.append(f"it took {seconds:.0f} s to end")
    if kind == ASKED and (event.lost or event.images < seen):
        event.problems.append(f"saved at {subject.newest()} images, had seen {event.images}")
    if kind == ASKED and (subject.path / "logs" / "failure.txt").exists():
        event.problems.append("a process noted a failure")
    return event


def _await_moment(
    kind: str,
    target: str,
    attempt: Attempt,
    progress: Progress,
    images: int,
    start_seconds: float,
    rng: random.Random,
) -> bool:
    if kind == ASKED_AT_START:
        return wait_into_start(attempt, target, rng.uniform(0, start_seconds))
    if not wait_for(lambda: (progress.images() or 0) >= images, attempt, f"{images} images"):
        return False
    time.sleep(rng.uniform(0, 0.1))
    return True
