"""Progress of a command that has nothing to show yet: lines on stderr that say what it is doing, every few seconds."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from sivae_dist.process.durations import duration

SECONDS = 4.0
"""Seconds before the first line about something; each further wait is twice as long."""

_LOOK = 0.25
"""Seconds between two looks at the clock."""


class _Speaker:
    def __init__(self, what: str) -> None:
        self._now = (what, monotonic())
        self._over = Event()
        self._thread = Thread(target=self._speak, name="startup", daemon=True)
        self._thread.start()

    def doing(self, what: str) -> None:
        self._now = (what, monotonic())

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _speak(self) -> None:
        shown, last, pause = "", monotonic(), SECONDS
        while not self._over.wait(_LOOK):
            what, since = self._now
            if what != shown:
                pause = SECONDS
            if monotonic() - last < pause:
                continue
            lasted = monotonic() - since
            print(f"{what} ..." + (f" {duration(lasted)}" if what == shown else ""), file=sys.stderr, flush=True)
            shown, last, pause = what, monotonic(), 2 * pause


_speaker: _Speaker | None = None


@contextmanager
def speaking(what: str) -> Iterator[None]:
    """Prints what is being done, `what` at first, whenever nothing has been printed for SECONDS; until `done`."""
    global _speaker
    before, _speaker = _speaker, _Speaker(what)
    mine = _speaker
    try:
        yield
    finally:
        mine.end()
        _speaker = before


_collector_rests = False


@contextmanager
def importing() -> Iterator[None]:
    """Python's collector rests until something else is being done. Modules leave no garbage behind, and it would look
    at every object again and again for a tenth of the time. Those that are there when it wakes it never looks at."""
    global _collector_rests
    _collector_rests = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _wake_collector()


@contextmanager
def loading(what: str) -> Iterator[None]:
    """`importing`, and `speaking` of it."""
    with importing(), speaking(f"loading {what}"):
        yield


def _wake_collector() -> None:
    global _collector_rests
    if _collector_rests:
        _collector_rests = False
        gc.freeze()
        gc.enable()


def doing(what: str) -> None:
    """Sets what is being done from now on. Outside of `speaking`, or after `done`, nothing is printed."""
    if _speaker is not None:
        _wake_collector()
        _speaker.doing(what)


def done() -> None:
    """Stops the lines: the command has something to show now."""
    if _speaker is not None:
        _wake_collector()
        _speaker.end()
