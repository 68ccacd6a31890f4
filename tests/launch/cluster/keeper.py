"""Owns every process of one cluster: starts the daemons it is told to, and ends all of it when its starter goes.

cluster.py runs it as a program. A line of its input is a daemon to start, a JSON list [log, arguments]; the answer is a
process id. When the input ends, or the starter is gone for whatever reason, it kills everything and removes the
cluster's folder.

Nothing can slip away from it. SLURM's daemons leave their children to the next ancestor that has asked for orphans
(PR_SET_CHILD_SUBREAPER), so each daemon gets a parent that has: the init of its own small machine. All that ever ran on
a node is found below the node's init, and every init below the keeper.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY = 0.5
"""Seconds between looks at whether the starter still lives."""
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""By the keeper and the inits: the starter's end alone decides. A daemon does with them what it likes."""


def descendants(*ancestors: int) -> list[int]:
    """Ids of the living processes below these, parents before their children."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                # The name stands in parentheses and may hold anything.
                state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry))
    found = list(ancestors)
    for pid in found:
        found += children.get(pid, [])
    return found[len(ancestors) :]


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main(starter: int, folder: str) -> None:
    for number in _IGNORED:
        signal.signal(number, lambda *_: None)
    _adopt_orphans()
    read = b""
    try:
        while os.getppid() == starter:
            if select.select([0], [], [], _LOOK_EVERY)[0]:
                if not (more := os.read(0, 65536)):
                    break
                *lines, read = (read + more).split(b"\n")
                for line in lines:
                    os.write(1, b"%d\n" % _start(*json.loads(line)))
            _bury()
    finally:
        _end()
        shutil.rmtree(folder, ignore_errors=True)


def _adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _start(log: str, arguments: list[str]) -> int:
    """The id of a process that starts a daemon, and ends when nothing that came of it is left."""
    if init := os.fork():
        return init
    try:
        _adopt_orphans()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # a copy of the keeper's pipes would hide an end of theirs
        os.dup2(output, 1)
        os.dup2(output, 2)
        defaults = (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores the last two, and children inherit that
        os.posix_spawnp(arguments[0], arguments, os.environ, setsid=True, setsigdef=defaults)
        while True:
            os.wait()
    except ChildProcessError:
        pass
    except BaseException as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(0)


def _bury() -> bool:
    """Takes note of the children that have ended; False when there are no others."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def _end(limit: float = 30) -> None:
    """Kills all there is. What they have started meanwhile comes to us, and is next."""
    deadline = time.monotonic() + limit
    while _bury() and time.monotonic() < deadline:
        kill(*descendants(os.getpid()))
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
