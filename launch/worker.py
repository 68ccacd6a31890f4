"""One process of a command, started by any launcher that sets RANK and WORLD_SIZE.

    python -m launch.worker RUN            trains it
    python -m launch.worker RUN REQUEST    evaluates it (sivae_dist/evaluation/command.py)

Exit codes: 0 the run is at its end; 75 it was asked to stop, saved, and can be continued; 1 it failed, and
RUN/logs/failure.txt or RUN/logs/stacks-N.txt says why; 130 stopped at once by a second Ctrl-C.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from launch.parents import end_with
from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.process import startup, watchdog
from sivae_dist.process.devices import pick_device
from sivae_dist.process.numerics import configure, set_environment
from sivae_dist.process.output import outlast_watchers
from sivae_dist.process.processes import PeerError, is_of_lost_peer, join, leave, rank
from sivae_dist.process.stopping import Stop
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED, Logs
from sivae_dist.step.guard import NonFiniteError
from sivae_dist.train.trainer import Trainer


def end_with_launcher() -> None:
    """A launcher that is killed cannot end its processes; the kernel does it instead, so that none is left behind."""
    if launcher := os.environ.get("SIVAE_LAUNCHER"):
        end_with(int(launcher), signal.SIGKILL)


def tell_of_threads(arguments: threading.ExceptHookArgs) -> None:
    """A thread that cannot write is no news worth a traceback: whoever uses it tells what follows."""
    if isinstance(arguments.exc_value, OSError):
        print(f"warning: {arguments.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(arguments)


def main(arguments: list[str], stop: Stop) -> int:
    """Does what `arguments` say until its end, or until asked to stop; returns an exit code."""
    run = RunDirectory(Path(arguments[0]))
    if len(arguments) == 1:
        return _work(run.logs, lambda: _train(run, stop))
    return _work(run.evaluation_logs, lambda: _evaluate(run, arguments[1], stop))


def _work(logs: Logs, action: Callable[[], bool]) -> int:
    """What `action` does; when it fails, all that others need to know about it."""
    threading.excepthook = tell_of_threads
    try:
        finished = action()
    except PeerError as error:
        print(f"process {rank()} ends: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        name = "" if isinstance(error, ValueError | OSError | NonFiniteError) else f"{type(error).__name__}: "
        line, text = f"{name}{' '.join(str(error).split())}", traceback.format_exc()
        if is_of_lost_peer(error):
            line = "another process is gone: it was killed, or its node was lost"
            text += line  # at the end, where the reason is looked for
        try:
            get_error_handler().record_exception(error)  # where torch's own tools look
            final = isinstance(error, ValueError | NonFiniteError)
            first = logs.note_failure(rank(), text, final)
        except OSError:  # no byte is free to note it in; torch takes an empty file for a fault of its own
            if torchs := os.environ.get("TORCHELASTIC_ERROR_FILE"):
                Path(torchs).unlink(missing_ok=True)
            logs.failure.unlink(missing_ok=True)
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


def _begin(settings: RunSettings, logs: Logs) -> torch.device:
    process = os.environ.get("RANK")  # one alone has a terminal to tell where it hangs
    watchdog.start(settings.watchdog, logs.stacks(int(process)) if process else None)
    set_environment(settings.engine.deterministic)
    device = pick_device(settings.device)
    configure(settings.engine.precision, settings.engine.deterministic, device)
    # Who hangs is found by the watchdog, which tells where; the others' waiting should not end before.
    join(device, timedelta(seconds=2 * settings.watchdog.slow_seconds))
    return device


def _train(run: RunDirectory, stop: Stop) -> bool:
    settings = settings_of(run)
    device = _begin(settings, run.logs)
    trainer = Trainer(settings, run, device, stop)
    try:
        return trainer.train()
    finally:
        trainer.close()


def _evaluate(run: RunDirectory, text: str, stop: Stop) -> bool:
    from sivae_dist.evaluation.command import evaluate  # takes seconds
    from sivae_dist.evaluation.request import Request

    request = Request.model_validate_json(text)
    settings = request.settings(run)
    return evaluate(run, request.checkpoint, settings, _begin(settings, run.evaluation_logs), stop)


def process() -> NoReturn:
    """All that a process of its own does."""
    end_with_launcher()
    outlast_watchers()
    stop = Stop()
    first = os.environ.get("RANK", "0") == "0"  # what others print is for files
    with stop.listening(), startup.speaking("joining the other processes") if first else nullcontext():
        code = main(sys.argv[1:], stop)
        sys.stdout.flush()
        sys.stderr.flush()
        # All files are closed. Taking the interpreter down could only change the code: threads of a process group whose
        # other side is gone may abort meanwhile, and a signal would find nobody listening.
        os._exit(code)


if __name__ == "__main__":
    process()
