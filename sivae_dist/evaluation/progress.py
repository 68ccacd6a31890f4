"""Progress of an evaluation: it feeds the watchdog, heeds requests to stop, and prints a line now and then."""

from collections.abc import Callable
from time import monotonic

from sivae_dist.process import watchdog
from sivae_dist.process.stopping import Stop

_SECONDS = 30.0
"""Seconds between two lines."""


class StoppedError(Exception):
    """All processes were asked to stop."""


class Progress:
    def __init__(self, stop: Stop, say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._next = monotonic() + _SECONDS

    def tick(self, what: str, done: int, total: int) -> None:
        """After every batch, on all processes. StoppedError on all of them when any was asked to stop."""
        watchdog.expect(slow=done == total)  # what follows may be one long computation
        self._stop.vote()
        if self._stop.decided():
            raise StoppedError
        if monotonic() >= self._next:
            self._next = monotonic() + _SECONDS
            self._say(f"evaluation: {done:,} of {total:,} {what}")
