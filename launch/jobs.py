"""What has become of runs' jobs, whichever cluster has them: their states, and asking them to end."""

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
    """Of the job that was submitted last. Changes nothing."""
    return states_of([run])[0]


def states_of(runs: Sequence[Path], certain: bool = False) -> list[State]:
    """The same for many, of which each cluster is asked once. `certain`: ValueError when one does not answer."""
    jobs = [last_job(run) for run in runs]
    found = {job.run: State("finished") for job in jobs if job is not None and job.record.is_finished()}
    found |= _strange([job for job in jobs if job is not None and job.run not in found])
    for cluster, part in _by_cluster([job for job in jobs if job is not None and job.run not in found]):
        told = zip(part, cluster.states(part), strict=True)
        found |= {job.run: _end(job) if state is None else state for job, state in told}
    states = [found.get(run) or _without_job(run) for run in runs]
    if certain and (unknown := [state.detail for state in states if state.name == "unknown"]):
        raise ValueError(f"whether there is a job already cannot be told: {unknown[0]}; try again later")
    return states


def last_job(run: Path) -> Job | None:
    """The job that a run was submitted as last; None when it never was."""
    row = JobRecord(run).last_job()
    return None if row is None else Job(run, row)


def _by_cluster(jobs: Sequence[Job]) -> Iterator[tuple[Cluster[Any], list[Job]]]:
    """ValueError for a job of a cluster that is not known."""
    for kind in dict.fromkeys(job.kind for job in jobs):
        yield _cluster(next(job for job in jobs if job.kind == kind)), [job for job in jobs if job.kind == kind]


def _cluster(job: Job) -> Cluster[Any]:
    """ValueError when it is not known, even with what the run imports."""
    if job.kind not in CLUSTERS and (config := RunDirectory(job.run).config).is_file():
        import_all(read_yaml(config).get("imports", ()))
    return cluster_of(job.kind)


def _strange(jobs: Sequence[Job]) -> dict[Path, State]:
    """Those of clusters that are not known here."""
    found = {}
    for job in jobs:
        try:
            _cluster(job)
        except ValueError as error:
            found[job.run] = State("unknown", f"it is a job of {job.kind}, which is not known here: {error}")
    return found


def _without_job(run: Path) -> State:
    return State("running", f"by {owner}") if (owner := owner_of(run)) else State("not submitted")


def _end(job: Job) -> State:
    """How a job ended that is gone, from what it left of itself."""
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
    """Asks the jobs of runs to save and end, or takes them out of the queue; returns what was done, in a line for each
    run that had a job. ValueError when none had."""
    states = dict(zip(runs, states_of(runs), strict=True))
    jobs = [job for run, state in states.items() if state.is_alive and (job := last_job(run))]
    if not jobs:
        if len(runs) > 1:
            raise ValueError(f"none of these {len(runs)} runs has a job that could be cancelled")
        raise ValueError(f"{runs[0]} has no job that could be cancelled: it is {states[runs[0]]}")
    for cluster, part in _by_cluster(jobs):
        cluster.check_cancel(part)
    for job in jobs:  # before any of them ends and another takes its place
        job.record.cancel(job.name)
    lines: dict[Path, str] = {}
    for cluster, part in _by_cluster(jobs):
        done = cluster.cancel([(job, states[job.run]) for job in part])
        lines |= dict(zip([job.run for job in part], done, strict=True))
    return [lines[job.run] if len(runs) == 1 else f"{job.run}: {lines[job.run]}" for job in jobs]


def log_of(run: Path, rank: int) -> Path | None:
    """What process `rank` of the last job printed; None when nothing is there."""
    job = last_job(run)
    return newest(RunDirectory(run).process_logs("", rank)) if job is None else _cluster(job).log(job, rank)


def patience(run: Path) -> float:
    """Seconds between two questions for a run's state."""
    job = last_job(run)
    return 0.0 if job is None else _cluster(job).patience
