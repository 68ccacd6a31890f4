"""This machine as a cluster: background jobs, each with a supervisor that restarts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_pipelines.problems import problems
from launch.clusters.base import PARALLEL, Cluster, Job, Prepared, Resources, State
from launch.clusters.counts import Count, Gpus, gpu_count
from launch.code import describe, importing, snapshot
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ownership import owner_of


class LocalResources(Resources):
    gpus_per_node: Gpus = 1
    """GPUs per run, with one process per GPU; 0 trains on CPUs. If it is not given, the machine decides."""
    tasks_per_node: Count | None = None
    """Processes per run; None for one per GPU."""

    @property
    def gpus(self) -> int:
        return gpu_count(self.gpus_per_node)

    @property
    def processes_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus)

    @property
    def processes(self) -> int:
        return self.processes_per_node

    @property
    def leaves_device_open(self) -> bool:
        return "gpus_per_node" not in self.model_fields_set


class Local(Cluster[LocalResources]):
    here = True
    has_tasks = False
    patience = 0.0

    def resources(self, name: str, given: Mapping[str, Any]) -> LocalResources:
        if others := [f"--{key.replace('_', '-')}" for key in given if key not in LocalResources.model_fields]:
            raise ValueError(f"{', '.join(others)}: only for SLURM; omit with --cluster {self.kind}")
        try:
            return LocalResources.model_validate(given)
        except ValidationError as error:
            found = problems(error, LocalResources, dict(given))
            raise ValueError("\n".join(f"options: {problem}" for problem in found)) from None

    def check(self) -> None:
        pass

    def submit(self, run: Prepared, name: str, asked: LocalResources) -> str:
        run, job = Prepared(run.path.resolve(), run.images), self._new_name()
        code = _snapshot(run.path)
        process = _detached(run.path, code, "run", str(run.path), str(asked.processes), job)
        self._record(run, job, **_facts(process, asked, code), runs=1)
        return job

    def sweep(
        self,
        folder: Path,
        runs: Sequence[Prepared],
        name: str,
        asked: LocalResources,
        parallel: int | None,
        per_task: int,
    ) -> list[str]:
        """Submits all runs as one job, each run on its own GPUs. ValueError if there are too few GPUs for a run."""
        places = slots(parallel, visible_gpus() if asked.gpus else [], asked.processes)
        folder, job = folder.resolve(), self._new_name()
        code = _snapshot(folder)
        runs = [Prepared(run.path.resolve(), run.images) for run in runs]
        paths = [str(run.path) for run in runs]
        process = _detached(folder, code, "sweep", str(asked.processes), job, json.dumps(places), *paths)
        for run in runs:
            self._record(run, job, **_facts(process, asked, code), runs=len(runs))
        return [job]

    def states(self, jobs: Sequence[Job]) -> list[State | None]:
        return [_state(job) for job in jobs]

    def check_cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.row["host"] != socket.gethostname():
                raise ValueError(
                    f"{job.run} is being trained on {job.row['host']}: cancel it there (if that machine is gone, "
                    f"remove {job.record.jobs})"
                )

    def cancel(self, jobs: Sequence[tuple[Job, State]]) -> list[str]:
        return [_cancelled(job) for job, _ in jobs]

    def log(self, job: Job, rank: int) -> Path | None:
        """The first process prints to the run's log."""
        return super().log(job, rank) if rank else RunDirectory(job.run).logs.combined

    def _new_name(self) -> str:
        return f"{self.kind}-{os.getpid()}-{time.time_ns() // 10**6}"


def visible_gpus() -> list[str]:
    """The GPUs that this process can use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def slots(parallel: int | None, gpus: list[str], each: int) -> list[str | None]:
    """Slots for concurrent runs: the value of CUDA_VISIBLE_DEVICES for each, or None without GPUs.

    There is one slot per `each` GPUs, or `parallel` slots, which share GPUs if there are too few. ValueError when there
    are fewer than `each` GPUs.
    """
    if not gpus:
        return [None] * (parallel or PARALLEL)
    groups = [",".join(gpus[first : first + each]) for first in range(0, len(gpus) - each + 1, each)]
    if not groups:
        raise ValueError(f"each run requests {each} GPUs, but only {len(gpus)} are visible: set --gpus-per-node")
    return [groups[number % len(groups)] for number in range(parallel or len(groups))]


def _snapshot(place: Path) -> Path | None:
    """A snapshot of the code; if none can be taken, as without rsync, the job imports the checkout itself."""
    try:
        return snapshot(place)
    except ValueError as error:
        RunDirectory(place).logs.append(
            f"warning: {error}; without a snapshot, do not edit the checkout until this job has ended"
        )
        return None


def _detached(place: Path, code: Path | None, *arguments: str) -> int:
    log = RunDirectory(place).logs.combined
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.clusters.local.supervisor", *arguments]
    with open(log, "a") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | importing(code),
        )
    return process.pid


def _facts(process: int, asked: LocalResources, code: Path | None) -> dict[str, Any]:
    """The facts recorded about a submission."""
    return {
        "host": socket.gethostname(),
        "process": process,
        "nodes": 1,
        "processes": asked.processes,
        "code": describe(code),
    }


def _state(job: Job) -> State | None:
    record, host = job.record, job.row["host"]
    starts = record.starts_of(job.name)
    if host != socket.gethostname():
        if record.is_running(job.name) or not starts:
            return State("running" if starts else "waiting", f"on {host}, as far as this machine can see")
        return None
    if not starts:  # a sweep's supervisor has not reached it yet
        waits = _is_alive(job.row["process"], job.name) and record.is_due(job.name)
        return State("waiting", "for a slot" if job.is_shared else "to start") if waits else None
    if _is_alive(starts[-1]["process"], job.name):
        return State("running", f"on {host}")
    if (owner := owner_of(job.run)) is not None:
        return State("running", f"by {owner}, which is saving and stopping because its supervisor was killed")
    return None


def _is_alive(process: int, job: str) -> bool:
    """Whether a process exists and supervises this job; process ids are reused."""
    try:
        return job.encode() in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _cancelled(job: Job) -> str:
    """Asks a job to save and stop if it is running; returns a line about it."""
    if not job.record.is_running(job.name):
        return f"job {job.name} will not start it"  # a job checks before each start
    try:
        os.kill(job.record.starts_of(job.name)[-1]["process"], signal.SIGUSR1)
    except ProcessLookupError:
        pass  # its supervisor was killed, so it is stopping anyway
    return f"job {job.name} was asked to save and stop"
