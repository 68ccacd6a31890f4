"""One process of a run, `python -m launch.worker RUN`, started by any launcher that sets RANK and WORLD_SIZE.

Exit codes: 0 the run is at its end; 75 it was asked to stop, saved, and can be continued; 1 it failed, and
RUN/logs/failure.txt or RUN/logs/stacks-N.txt says why; 130 stopped at once by a second Ctrl-C.
"""

import ctypes
import os
import signal
import sys
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from sivae_dist import watchdog
from sivae_dist.config import RunSettings
from sivae_dist.guard import NonFiniteError
from sivae_dist.processes import PeerError, join, leave, pick_device, rank
from sivae_dist.run import RunDirectory
from sivae_dist.stopping import STOPPED, Stop
from sivae_dist.trainer import Trainer

_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """A launcher that is killed cannot end its processes; the kernel does it instead, so that none is left behind."""
    launcher = os.environ.get("SIVAE_LAUNCHER")
    if launcher and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(launcher):  # it was gone before we asked
            os.kill(os.getpid(), signal.SIGKILL)


def tell_of_threads(arguments: threading.ExceptHookArgs) -> None:
    """A thread that cannot write is no news worth a traceback: whoever uses it tells what follows."""
    if isinstance(arguments.exc_value, OSError):
        print(f"warning: {arguments.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(arguments)


def main(path: Path, stop: Stop) -> int:
    """Trains the run at `path` until its end, or until asked to stop; returns an exit code."""
    threading.excepthook = tell_of_threads
    run = RunDirectory(path)
    try:
        settings = run.settings()
        process = os.environ.get("RANK")  # one alone has a terminal to tell where it hangs
        watchdog.start(settings.watchdog, run.stacks(int(process)) if process else None)
        finished = _train(run, settings, stop)
    except PeerError as error:
        print(f"process {rank()} ends: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        name = "" if isinstance(error, ValueError | OSError | NonFiniteError) else f"{type(error).__name__}: "
        line = f"{name}{' '.join(str(error).split())}"
        try:
            get_error_handler().record_exception(error)  # where torch's own tools look
            first = run.note_failure(rank(), traceback.format_exc())
        except OSError:  # no byte is free to note it in; torch takes an empty file for a fault of its own
            if torchs := os.environ.get("TORCHELASTIC_ERROR_FILE"):
                Path(torchs).unlink(missing_ok=True)
            run.failure.unlink(missing_ok=True)
            print(f"error: {line}", file=sys.stderr)
            return 1
        if not first:
            print(f"process {rank()} ends, as another did before it: {line}", file=sys.stderr)
        elif "SIVAE_LAUNCHER" not in os.environ:  # which tells it otherwise
            print(f"error: {line}", file=sys.stderr)
        return 1
    finally:
        watchdog.stop()
    leave()
    return 0 if finished else STOPPED


def _train(run: RunDirectory, settings: RunSettings, stop: Stop) -> bool:
    device = pick_device(settings.device)
    # Who hangs is found by the watchdog, which tells where; the others' waiting should not end before.
    join(device, timedelta(seconds=2 * settings.watchdog.slow_seconds))
    trainer = Trainer(settings, run, device, stop)
    try:
        return trainer.train()
    finally:
        trainer.close()


def process() -> NoReturn:
    """All that a process of its own does."""
    end_with_launcher()
    stop = Stop()
    with stop.listening():
        code = main(Path(sys.argv[1]), stop)
        sys.stdout.flush()
        sys.stderr.flush()
        # All files are closed. Taking the interpreter down could only change the code: threads of a process group whose
        # other side is gone may abort meanwhile, and a signal would find nobody listening.
        os._exit(code)


if __name__ == "__main__":
    process()
