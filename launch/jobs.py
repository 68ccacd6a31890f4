"""Jobs of runs on any cluster: their states, their logs, and cancelling them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.clusters import CLUSTERS, Cluster, Job, State, cluster_of
from launch.clusters.base import newest
from launch.record import JobRecord
from sivae_dist.config.imports import import_all
from sivae_dist.config.yaml_reading import read_yaml
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED
from sivae_dist.run.ownership import owner_of

_AGAIN = "submit it again to continue"


def state_of(run: Path) -> State:
    """The state of a run's latest job. Changes nothing."""
    return states_of([run])[0]


def states_of(runs: Sequence[Path], certain: bool = False) -> list[State]:
    """The same for several runs, with one query per cluster. `certain`: ValueError when a cluster does not answer."""
    jobs = [last_job(run) for run in runs]
    found = {job.run: State("finished") for job in jobs if job is not None and job.record.is_finished()}
    found |= _strange([job for job in jobs if job is not None and job.run not in found])
    for cluster, part in _by_cluster([job for job in jobs if job is not None and job.run not in found]):
        pairs = zip(part, cluster.states(part), strict=True)
        found |= {job.run: _end(job) if state is None else state for job, state in pairs}
    states = [found.get(run) or _without_job(run) for run in runs]
    if certain and (unknown := [state.detail for state in states if state.name == "unknown"]):
        raise ValueError(f"cannot determine whether there is a job already: {unknown[0]}; try again later")
    return states


def last_job(run: Path) -> Job | None:
    """The latest job of a run; None when it was never submitted."""
    row = JobRecord(run).last_job()
    return None if row is None else Job(run, row)


def _by_cluster(jobs: Sequence[Job]) -> Iterator[tuple[Cluster[Any], list[Job]]]:
    """The jobs by cluster. ValueError for a job of an unknown cluster."""
    for kind in dict.fromkeys(job.kind for job in jobs):
        yield _cluster(next(job for job in jobs if job.kind == kind)), [job for job in jobs if job.kind == kind]


def _cluster(job: Job) -> Cluster[Any]:
    """The cluster of a job. ValueError when it is unknown even after the run's imports."""
    if job.kind not in CLUSTERS and (config := RunDirectory(job.run).config).is_file():
        import_all(read_yaml(config).get("imports", ()))
    return cluster_of(job.kind)


def _strange(jobs: Sequence[Job]) -> dict[Path, State]:
    """States of the jobs of unknown clusters."""
    found = {}
    for job in jobs:
        try:
            _cluster(job)
        except ValueError as error:
            found[job.run] = State("unknown", f"its cluster {job.kind} is not known here: {error}")
    return found


def _without_job(run: Path) -> State:
    return State("running", f"by {owner}") if (owner := owner_of(run)) else State("not submitted")


def _end(job: Job) -> State:
    """The state of a job that the cluster no longer has, from its record."""
    record, logs = job.record, RunDirectory(job.run).logs
    if record.is_cancelled(job.name):
        return State("cancelled", f"on request; {_AGAIN}")
    if (why := record.given_up(job.name)) is not None:
        return State("failed", why.removeprefix("failed: "))
    starts = record.starts_of(job.name)
    if not starts:
        return State("stopped", f"before it started; {_AGAIN}")
    code = record.end_of(job.name, starts[-1]["restart"])
    if code == STOPPED:
        return State("stopped", f"and saved; {_AGAIN}")
    if code is None:
        return State("killed", f"and left no reason; {_AGAIN}")
    return State("failed", starts[-1].get("failed") or logs.reason() or f"see {logs.combined}")


def cancel(runs: Sequence[Path]) -> list[str]:
    """Asks the jobs of runs to save and stop, or removes them from the queue. Returns one line for each run that had a
    job. ValueError when none had one."""
    states = dict(zip(runs, states_of(runs), strict=True))
    jobs = [job for run, state in states.items() if state.is_alive and (job := last_job(run))]
    if not jobs:
        if len(runs) > 1:
            raise ValueError(f"none of these {len(runs)} runs has a job to cancel")
        raise ValueError(f"{runs[0]} has no job to cancel: it is {states[runs[0]]}")
    for cluster, part in _by_cluster(jobs):
        cluster.check_cancel(part)
    for job in jobs:  # all of them before any ends and another run takes its place
        job.record.cancel(job.name)
    lines: dict[Path, str] = {}
    for cluster, part in _by_cluster(jobs):
        done = cluster.cancel([(job, states[job.run]) for job in part])
        lines |= dict(zip([job.run for job in part], done, strict=True))
    return [lines[job.run] if len(runs) == 1 else f"{job.run}: {lines[job.run]}" for job in jobs]


def log_of(run: Path, rank: int) -> Path | None:
    """The log of process `rank` of the latest job; None when there is none."""
    job = last_job(run)
    return newest(RunDirectory(run).process_logs("", rank)) if job is None else _cluster(job).log(job, rank)


def patience(run: Path) -> float:
    """Seconds between two queries of a run's state."""
    job = last_job(run)
    return 0.0 if job is None else _cluster(job).patience
