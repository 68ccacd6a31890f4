"""What a command is doing while it has nothing to show yet: a line on stderr when that takes seconds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from sivae_dist.process.durations import duration

SECONDS = 4.0
"""Longest silence; while one thing lasts, each is twice as long as the one before."""

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
        told, last, pause = "", monotonic(), SECONDS
        while not self._over.wait(_LOOK):
            what, since = self._now
            if what != told:
                pause = SECONDS
            if monotonic() - last < pause:
                continue
            lasted = monotonic() - since
            print(f"{what} ..." + (f" {duration(lasted)}" if what == told else ""), file=sys.stderr, flush=True)
            told, last, pause = what, monotonic(), 2 * pause


_speaker: _Speaker | None = None


@contextmanager
def speaking(what: str) -> Iterator[None]:
    """Says what is being done, `what` at first, whenever nothing else has been said for SECONDS; until `done`."""
    global _speaker
    before, _speaker = _speaker, _Speaker(what)
    mine = _speaker
    try:
        yield
    finally:
        mine.end()
        _speaker = before


def doing(what: str) -> None:
    """Names what is being done from now on. Outside of `speaking`, or after `done`, nothing is said."""
    if _speaker is not None:
        _speaker.doing(what)


def done() -> None:
    """There is something to show."""
    if _speaker is not None:
        _speaker.end()
