"""Ending a run on request: a signal sets a flag, and all processes act on it after the same step."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from sivae_dist.process.processes import host_group
from sivae_dist.process.signals import handling
from sivae_dist.run.ends import INTERRUPTED


class Stop:
    """Whether this process has been asked to end, and whether any has."""

    def __init__(self) -> None:
        self.requested = False
        self._interrupts = 0
        self._anyone = torch.zeros((), dtype=torch.int32)
        self._group: dist.ProcessGroup | None = None
        self._vote: dist.Work | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """TERM, HUP, USR1, USR2 and Ctrl-C request the end; a second Ctrl-C ends the process at once."""
        with handling(self._on_signal):
            yield

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os._exit(INTERRUPTED)
        self.requested = True

    def join(self) -> None:
        """Once, by all processes of a group together, before the first vote."""
        if self._group is None:
            self._group = host_group()

    def leave(self) -> None:
        """Forgets the group, which has ended; another may be joined."""
        self._group = self._vote = None

    def vote(self) -> None:
        """Starts to ask all processes. A step asks before its work and reads the answer after it, without waiting."""
        if self._group is not None:
            self._anyone.fill_(int(self.requested))
            self._vote = dist.all_reduce(self._anyone, dist.ReduceOp.MAX, self._group, async_op=True)

    def decided(self) -> bool:
        """The answer, the same on all processes."""
        if self._vote is None:
            return self.requested
        self._vote.wait()
        return bool(self._anyone)
