"""Finds a process that hangs: when a step takes too long, the stacks of all threads are written and the process ends.

It is the interpreter's own timer (faulthandler), which fires whatever the threads are doing. There is one a process, so
this is a module and not a class.
"""

import faulthandler
import sys
from pathlib import Path
from typing import TextIO

from pydantic import Field

from sivae_dist.settings import Settings


class WatchdogSettings(Settings):
    step_seconds: float = Field(600.0, gt=0)
    """Maximum time of a step, with its data, before the process ends itself."""
    slow_seconds: float = Field(3600.0, gt=0)
    """The same for the start, the first step at a new resolution (which may compile code), and the last save."""


_settings: WatchdogSettings | None = None
_file: TextIO | None = None


def start(settings: WatchdogSettings, path: Path | None) -> None:
    """Watches this process from now on. Stacks go to `path` or to stderr, and the process then ends with code 1."""
    global _settings, _file
    if path is None:
        _settings, _file = settings, sys.__stderr__
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _settings, _file = settings, open(path, "w")  # noqa: SIM115 (open while it watches)
    expect(slow=True)


def expect(*, slow: bool = False) -> None:
    """A sign of life: the time allowed counts anew from now. Without `start` it does nothing."""
    if _settings is not None and _file is not None:
        seconds = _settings.slow_seconds if slow else _settings.step_seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=_file)


def stop() -> None:
    """Watches no more, and leaves no empty file."""
    global _settings, _file
    faulthandler.cancel_dump_traceback_later()
    if _file not in (None, sys.__stderr__):
        _file.close()
        path = Path(_file.name)
        if path.exists() and not path.stat().st_size:
            path.unlink()
    _settings = _file = None
