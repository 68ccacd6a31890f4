"""Ownership of a run: only one command at a time trains it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sivae_dist.run.directory import RunDirectory

_PATIENCE = 1.0
"""Seconds that a command waits for one that only looks (owner_of), which holds the lock for an instant."""


@contextmanager
def owned(run: Path) -> Iterator[str | None]:
    """Keeps other commands from training this run; gives a line to report if the last owner exited without release.

    ValueError naming host and process when the run has a living owner.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(RunDirectory(run).lock, timeout=_PATIENCE), RunDirectory(run).owner
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{run} is being trained by {_name(run)}") from None
    try:
        dead = owner.read_text() if owner.exists() else None
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield f"note: {dead}, which trained this run, is gone; taking over" if dead else None
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def owner_of(run: Path) -> str | None:
    """Host and process that train a run now; None when none does, whatever a process that was killed has left."""
    if not RunDirectory(run).owner.exists():
        return None
    try:
        FileLock(RunDirectory(run).lock, timeout=0).acquire().lock.release()
    except Timeout:
        return _name(run)
    except PermissionError:  # of another user: as far as can be seen
        return _name(run)
    return None


def _name(run: Path) -> str:
    try:
        return RunDirectory(run).owner.read_text() or "another command"
    except FileNotFoundError:
        return "another command"
