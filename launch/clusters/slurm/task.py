"""A process of a SLURM job: finds the others, trains, and records how it ended."""

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
"""Seconds to wait for the first process's address; shared file systems may be slow."""


class Task(Checkpointable):  # so that a signal before our handlers are installed requeues the job
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
                    break  # other processes may hang and must be ended
            sys.stdout.flush()
            sys.stderr.flush()
            if worst:  # srun ends the other tasks, unless all are stopping; nothing reads submitit's own result
                os._exit(0 if worst == STOPPED else worst)


def _train(run: Path, place: SlurmPlace, stop: Any) -> int:
    """Returns an exit code of launch/worker.py; also 0 if the job continues only for other runs."""
    directory, record = RunDirectory(run), JobRecord(run)
    logs, meeting = directory.logs, directory.rendezvous(place.job, place.restart)
    with ExitStack() as stack:
        if place.rank == 0:
            if not record.is_due(place.job):
                _publish(meeting, None)
                return 0
            try:
                note = stack.enter_context(owned(run))
            except ValueError as error:  # another process owns the run and its logs
                record.started(place.job, place.restart, node=place.node, processes=0, failed=str(error))
                raise
            logs.forget_failure()
            record.started(place.job, place.restart, node=place.node, processes=place.world_size)
            stack.enter_context(_copied(logs.combined))
            logs.append(
                f"job {place.job}, start {place.restart + 1}: {place.world_size} processes, the first on {place.node}"
            )
            if note:
                print(note, flush=True)
        stack.enter_context(_noted(logs, place.rank))
        if not stack.enter_context(_met(meeting, place)):
            return 0
        from launch.work import main

        code = main([str(run)], stop)
        stop.leave()
        if place.rank == 0:
            record.ended(place.job, place.restart, code)
    return code


@contextmanager
def _noted(logs: Logs, rank: int) -> Iterator[None]:
    """Records failures before training begins (a module missing from the image, no contact to the first process) in
    the usual place. Later ones are recorded by work.main."""
    try:
        yield
    except Exception:
        logs.note_failure(rank, traceback.format_exc(), final=False)
        raise


@contextmanager
def _met(meeting: Path, place: SlurmPlace) -> Iterator[bool]:
    """Sets torch's rendezvous: a port chosen by the first process's system, so that no other job or earlier start of
    this one can have it. Yields False when the first process skips this run."""
    forget_launchers()
    os.environ |= {
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "WORLD_SIZE": str(place.world_size),
    }
    if place.world_size == 1:
        del os.environ["RANK"]  # a single process prints its stacks to the job's log
        yield True
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

    store = None
    if place.rank == 0:
        store = TCPStore(place.node, 0, is_master=True, wait_for_workers=False)
        _publish(meeting, [place.node, store.port])
    where = _read(meeting)
    if where is not None:
        host, port = where
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    yield where is not None
    del store


def _publish(meeting: Path, where: list[Any] | None) -> None:
    """`where`: host and port of the rendezvous; None to skip this run."""
    write_text(meeting, json.dumps(where))


def _read(meeting: Path) -> list[Any] | None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            os.listdir(meeting.parent)  # or a network file system may keep reporting that it does not exist
            where: list[Any] | None = json.loads(meeting.read_text())
            return where
        except (FileNotFoundError, ValueError):
            if time.monotonic() > end:
                raise OSError(
                    f"the first process did not publish its address within {_PATIENCE:.0f} s: {meeting}"
                ) from None
            time.sleep(0.05)


@contextmanager
def _copied(log: Path) -> Iterator[None]:
    """Copies this process's output to the run's log."""
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
