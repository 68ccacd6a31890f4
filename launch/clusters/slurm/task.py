"""What each process of a SLURM job does: finds the others, trains, and leaves word of how it ended."""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from submitit.helpers import Checkpointable

from launch.clusters.slurm.place import SlurmPlace
from launch.clusters.slurm.plans import runs_of
from launch.environment import forget_launchers
from launch.record import JobRecord
from sivae_dist.process.output import lasting_log, outlast_watchers
from sivae_dist.run.atomic import write_text
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED, Logs
from sivae_dist.run.ownership import owned

_PATIENCE = 300.0
"""Seconds to wait for the first process's word of where it is; shared file systems take their time."""


class Task(Checkpointable):  # so that a signal before ours are listened to requeues the job as it is
    """Picklable; `plan` is a run, or a sweep's list of runs (plans.runs_of)."""

    def __init__(self, plan: Path) -> None:
        self.plan = plan

    def __call__(self) -> None:
        outlast_watchers()
        place = SlurmPlace.from_environment()
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", os.environ["OMP_NUM_THREADS"])
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from sivae_dist.process.stopping import Stop  # imports torch, which reads these only once

        stop, worst = Stop(), 0
        with stop.listening():
            for run in runs_of(self.plan, place.index):
                code = _train(run, place, stop)
                worst = max(worst, code)
                if code and (place.world_size > 1 or stop.requested):
                    break  # others may hang, and have to be ended
            sys.stdout.flush()
            sys.stderr.flush()
            if worst:  # srun ends the other tasks, unless all end anyway; submitit's own word would be read by nobody
                os._exit(0 if worst == STOPPED else worst)


def _train(run: Path, place: SlurmPlace, stop: Any) -> int:
    """An exit code of launch/worker.py; also 0 when the job goes on for another run's sake alone."""
    directory, record = RunDirectory(run), JobRecord(run)
    logs, meeting = directory.logs, directory.rendezvous(place.job, place.restart)
    with ExitStack() as stack:
        if place.rank == 0:
            if not record.is_due(place.job):
                _say(meeting, None)
                return 0
            try:
                note = stack.enter_context(owned(run))
            except ValueError as error:  # whose logs these are
                record.started(place.job, place.restart, node=place.node, processes=0, failed=str(error))
                raise
            logs.forget_failure()
            record.started(place.job, place.restart, node=place.node, processes=place.world_size)
            stack.enter_context(_copied(logs.combined))
            logs.tell(
                f"job {place.job}, start {place.restart + 1}: {place.world_size} processes, the first on {place.node}"
            )
            if note:
                print(note, flush=True)
        stack.enter_context(_noted(logs, place.rank))
        if not stack.enter_context(_met(meeting, place)):
            return 0
        from launch.worker import main

        code = main([str(run)], stop)
        stop.leave()
        if place.rank == 0:
            record.ended(place.job, place.restart, code)
    return code


@contextmanager
def _noted(logs: Logs, rank: int) -> Iterator[None]:
    """Where the processes do not come to train, the reason lies where it would else: a module that the image lacks, a
    first process that is not found. For what follows see worker.main."""
    try:
        yield
    except Exception:
        logs.note_failure(rank, traceback.format_exc(), final=False)
        raise


@contextmanager
def _met(meeting: Path, place: SlurmPlace) -> Iterator[bool]:
    """Tells torch where the processes find each other: at a port that the first one's system has chosen, so that
    neither another job nor an earlier start of this one can have it. False when the first leaves this run out."""
    forget_launchers()
    os.environ |= {
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "WORLD_SIZE": str(place.world_size),
    }
    if place.world_size == 1:
        del os.environ["RANK"]  # alone, with a log to print stacks to
        yield True
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

    store = None
    if place.rank == 0:
        store = TCPStore(place.node, 0, is_master=True, wait_for_workers=False)
        _say(meeting, [place.node, store.port])
    where = _read(meeting)
    if where is not None:
        host, port = where
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    yield where is not None
    del store


def _say(meeting: Path, where: list[Any] | None) -> None:
    """`where`: host and port; None when there is no meeting."""
    write_text(meeting, json.dumps(where))


def _read(meeting: Path) -> list[Any] | None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            os.listdir(meeting.parent)  # or a network file system may go on saying that it is not there
            where: list[Any] | None = json.loads(meeting.read_text())
            return where
        except (FileNotFoundError, ValueError):
            if time.monotonic() > end:
                raise OSError(
                    f"the first process did not say within {_PATIENCE:.0f} s where it is: {meeting}"
                ) from None
            time.sleep(0.05)


@contextmanager
def _copied(log: Path) -> Iterator[None]:
    """What this process prints goes to the log for people as well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = sys.stdout
    with lasting_log(log) as file:
        sys.stdout = _Both(before, file)
        try:
            yield
        finally:
            sys.stdout = before


class _Both:
    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._files = first, second

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        for file in self._files:
            file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files[0], name)
