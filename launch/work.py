"""What a process of a command does: it trains a run, or evaluates it, and says by its exit code how that ended."""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from sivae_dist.config.opening import settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.process import watchdog
from sivae_dist.process.devices import pick_device
from sivae_dist.process.numerics import configure, set_environment
from sivae_dist.process.processes import PeerError, is_of_lost_peer, join, leave, rank
from sivae_dist.process.stopping import Stop
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED, Logs
from sivae_dist.step.guard import NonFiniteError
from sivae_dist.train.trainer import Trainer


def report_thread_error(arguments: threading.ExceptHookArgs) -> None:
    """Prints no traceback for a thread that cannot write; its user reports the consequences."""
    if isinstance(arguments.exc_value, OSError):
        print(f"warning: {arguments.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(arguments)


def main(arguments: list[str], stop: Stop) -> int:
    """Trains or evaluates as `arguments` say, until finished or asked to stop; returns an exit code."""
    run = RunDirectory(Path(arguments[0]))
    if len(arguments) == 1:
        return _work(run.logs, lambda: _train(run, stop))
    return _work(run.evaluation_logs, lambda: _evaluate(run, arguments[1], stop))


def _work(logs: Logs, action: Callable[[], bool]) -> int:
    """Runs `action` and returns an exit code; on failure it records the reason."""
    threading.excepthook = report_thread_error
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
            text += line  # at the end, where readers look for the reason
        try:
            get_error_handler().record_exception(error)  # for torch's own tools
            final = isinstance(error, ValueError | NonFiniteError)
            first = logs.note_failure(rank(), text, final)
        except OSError:  # the disk is full; torch would mistake an empty file for an error of its own
            if torchs := os.environ.get("TORCHELASTIC_ERROR_FILE"):
                Path(torchs).unlink(missing_ok=True)
            logs.failure.unlink(missing_ok=True)
            print(f"error: {line}", file=sys.stderr)
            return 1
        if not first:
            print(f"process {rank()} ends because another one failed first: {line}", file=sys.stderr)
        elif "SIVAE_LAUNCHER" not in os.environ:  # otherwise the launcher prints it
            print(f"error: {line}", file=sys.stderr)
        return 1
    finally:
        watchdog.stop()
    leave()
    return 0 if finished else STOPPED


def _begin(settings: RunSettings, logs: Logs) -> torch.device:
    process = os.environ.get("RANK")  # a single process prints its stacks to the terminal
    watchdog.start(settings.watchdog, logs.stacks(int(process)) if process else None)
    set_environment(settings.engine.deterministic)
    device = pick_device(settings.device)
    configure(settings.engine.precision, settings.engine.deterministic, device)
    # The watchdog finds the hanging process and reports where it hangs; the others must not time out before that.
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
