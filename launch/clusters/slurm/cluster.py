"""SLURM as a cluster: jobs and job arrays, submitted through submitit."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from launch.clusters.base import PARALLEL, Cluster, Job, Prepared, State
from launch.clusters.files import is_file_named
from launch.clusters.slurm.batch import Executor, check_sbatch, hand_in, make_executor
from launch.clusters.slurm.plans import write_plan
from launch.clusters.slurm.reading import load_settings, slurm_config
from launch.clusters.slurm.settings import SlurmSettings
from launch.clusters.slurm.squeue import alive, ask_to_save, dequeue
from launch.clusters.slurm.task import Task
from launch.code import describe, snapshot
from sivae_dist.run.directory import RunDirectory, SweepFolder

_MAX_ARRAY = 1001  # SLURM's own default


class Slurm(Cluster[SlurmSettings]):
    def resources(self, name: str, given: Mapping[str, Any]) -> SlurmSettings:
        return load_settings("auto" if name == self.kind and not is_file_named(name) else name, given)

    def check(self) -> None:
        check_sbatch()

    def script(self, run: Path, name: str, asked: SlurmSettings) -> str:
        place = RunDirectory(run.resolve())
        return make_executor(place.job_logs, place.path, name, asked, place.code / "001").script()

    def submit(self, run: Prepared, name: str, asked: SlurmSettings) -> str:
        run = Prepared(run.path.resolve(), run.images)
        code = snapshot(run.path)
        executor = make_executor(RunDirectory(run.path).job_logs, run.path, name, asked, code)
        job = str(hand_in(executor, lambda: executor.submit(Task(run.path))).job_id)
        self._record(run, job, **_facts(asked, code))
        return job

    def sweep(
        self,
        folder: Path,
        runs: Sequence[Prepared],
        name: str,
        asked: SlurmSettings,
        parallel: int | None,
        per_task: int,
    ) -> list[str]:
        """Submits job arrays. Each waits for the end of the one before it, as SLURM limits concurrency per array."""
        sweep = SweepFolder(folder.resolve())
        code = snapshot(sweep.path)
        facts = _facts(asked, code)
        runs = [Prepared(run.path.resolve(), run.images) for run in runs]
        tasks = [runs[first : first + per_task] for first in range(0, len(runs), per_task)]
        jobs: list[str] = []
        for number, part in enumerate(_arrays(tasks, asked)):
            plan = sweep.plans / f"{time.time_ns()}-{number}.json"
            write_plan(plan, [[run.path for run in task] for task in part])
            after = f"afterany:{jobs[-1]}" if jobs else None
            executor = make_executor(sweep.job_logs, plan, name, asked, code, parallel or PARALLEL, after)
            handed = hand_in(executor, partial(_submit_array, executor, plan, len(part)))
            for job, task in zip(handed, part, strict=True):
                for run in task:
                    self._record(run, job.job_id, runs=len(task), **facts)
            jobs.append(handed[0].job_id.split("_")[0])  # submitit makes no array of a single task
        return jobs

    def states(self, jobs: Sequence[Job]) -> list[State | None]:
        found = alive([job.name for job in jobs])
        return [_of_task(job, found.get(job.name)) for job in jobs]

    def cancel(self, jobs: Sequence[tuple[Job, State]]) -> list[str]:
        dequeue([job.name for job, state in jobs if _is_only_queued(job, state)])
        return [_cancelled(job, state) for job, state in jobs]


def _facts(asked: SlurmSettings, code: Path | None) -> dict[str, Any]:
    """The facts recorded about a submission."""
    return {
        "cluster": slurm_config().get("ClusterName"),
        "nodes": asked.nodes,
        "processes": asked.processes,
        "code": describe(code),
    }


def _arrays(tasks: list[list[Prepared]], asked: SlurmSettings) -> Iterator[list[list[Prepared]]]:
    """Splits tasks into arrays of at most the cluster's maximum size."""
    largest = asked.max_array_size or int(slurm_config().get("MaxArraySize", _MAX_ARRAY))
    for first in range(0, len(tasks), largest):
        yield tasks[first : first + largest]


def _submit_array(executor: Executor, plan: Path, count: int) -> list[submitit.Job[None]]:
    with executor.batch():
        return [executor.submit(Task(plan)) for _ in range(count)]


def _of_task(job: Job, state: State | None) -> State | None:
    """State of a run whose job is in this state; it may be one of several that a task trains in turn."""
    if state is None or not job.is_shared or job.record.is_running(job.name):
        return state
    if not job.record.is_due(job.name):
        return None
    return state if state.name == "pending" else State("waiting", "for the runs before it in its task")


def _is_only_queued(job: Job, state: State) -> bool:
    return state.name == "pending" and not job.is_shared


def _cancelled(job: Job, state: State) -> str:
    """Asks a job to save and stop if it is running; returns a line about it."""
    if _is_only_queued(job, state):
        return f"job {job.name} was removed from the queue"
    if job.is_shared and not job.record.is_running(job.name):
        return f"job {job.name} will not start it"  # a job checks before each start
    ask_to_save(job.name)
    return f"job {job.name} was asked to save and stop"
