"""One process of a command, started by any launcher that sets RANK and WORLD_SIZE.

    python -m launch.worker RUN            trains it
    python -m launch.worker RUN REQUEST    evaluates it (sivae_dist/evaluation/command.py)

Exit codes: 0, the run has finished; 75, it was asked to stop, saved, and can be resumed; 1, it failed for the reason in
RUN/logs/failure.txt or RUN/logs/stacks-N.txt; 130, it was stopped immediately by a second Ctrl-C.
"""

import os
import signal
import sys
from contextlib import nullcontext
from typing import NoReturn

from sivae_dist.process import startup
from sivae_dist.process.output import outlast_watchers
from sivae_dist.process.parents import end_with


def end_with_launcher() -> None:
    """Makes the kernel end this process with its launcher, which cannot do so itself when it is killed."""
    if launcher := os.environ.get("SIVAE_LAUNCHER"):
        end_with(int(launcher), signal.SIGKILL)


def process() -> NoReturn:
    """The main function of a worker process."""
    end_with_launcher()
    outlast_watchers()
    with startup.importing():
        from launch.work import main
        from sivae_dist.process.stopping import Stop

    stop = Stop()
    first = os.environ.get("RANK", "0") == "0"  # the output of the others goes to files
    with stop.listening(), startup.speaking("joining the other processes") if first else nullcontext():
        code = main(sys.argv[1:], stop)
        sys.stdout.flush()
        sys.stderr.flush()
        # All files are closed. Shutting the interpreter down could only change the exit code: threads of a process
        # group whose peers are gone may abort meanwhile, and signals would no longer be handled.
        os._exit(code)


if __name__ == "__main__":
    process()
