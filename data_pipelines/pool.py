"""Work on several processes: with progress, an end on Ctrl-C, and none left behind by a killed parent."""

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_process
from typing import Any, Protocol, TypeVar

import cv2

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")


class Tick(Protocol):
    def __call__(self, parts: int = 1) -> None:
        """Called by a task after each of its parts, or after several."""


class WorkerKilledError(ValueError):
    """A worker process was killed."""


class _StoppedError(Exception):
    pass


def run_tasks(
    function: Callable[[Context, Task, Tick], Result],
    context: Context,
    tasks: Sequence[Task],
    workers: int,
    report: Callable[[int], None],
) -> list[Result]:
    """`function(context, task, tick)` of every task, in their order; an error of any task is raised at once.

    `function` is one of a module's own; it, `context`, tasks and results are pickled, `context` once per worker. A
    single worker is this process. `report` gets the number of parts so far, now and then. Raises WorkerKilledError.
    """
    if workers > 1 and len(tasks) > 1:
        return _run_pool(function, context, tasks, min(workers, len(tasks)), report)
    done = 0

    def tick(parts: int = 1) -> None:
        nonlocal done
        done += parts
        report(done)

    return [function(context, task, tick) for task in tasks]


def _run_pool(
    function: Callable[[Context, Task, Tick], Result],
    context: Context,
    tasks: Sequence[Task],
    workers: int,
    report: Callable[[int], None],
) -> list[Result]:
    spawn = mp.get_context("spawn")
    done, stop = spawn.Value("q", 0), spawn.Value("b", 0, lock=False)
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, (function, context, done, stop))
    try:
        # Workers inherit the blocked signal: Ctrl-C is for this process, which then tells them to stop.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures = [pool.submit(_run_task, task) for task in tasks]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            report(done.value)
            for future in finished:
                future.result()
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise WorkerKilledError(
            "a worker process was killed, perhaps for lack of memory: run again with fewer workers"
        ) from None
    finally:
        stop.value = 1
        pool.shutdown(cancel_futures=True)


_worker: tuple[Callable[..., Any], Any, Any, Any]


def _start_worker(function: Callable[..., Any], context: Any, done: Any, stop: Any) -> None:
    global _worker
    _worker = (function, context, done, stop)
    cv2.setNumThreads(1)
    parent = mp.parent_process()
    assert parent is not None
    # A pool's workers would otherwise wait forever for a parent that was killed.
    threading.Thread(target=lambda: (wait_for_process([parent.sentinel]), os._exit(1)), daemon=True).start()


def _run_task(task: Any) -> Any:
    function, context, done, stop = _worker

    def tick(parts: int = 1) -> None:
        with done.get_lock():
            done.value += parts
        if stop.value:
            raise _StoppedError

    return function(context, task, tick)
