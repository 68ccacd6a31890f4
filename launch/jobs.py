"""What has become of a run's job: its state, and asking it to end."""

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launch.record import JobRecord, Row
from sivae_dist.ownership import owner_of

_LIMIT = 60


@dataclass(frozen=True)
class State:
    name: str
    """`pending`, `running`, `finished`, `cancelled`, `ended` or `unknown`; `not submitted` when there is no job."""
    detail: str = ""

    @property
    def is_alive(self) -> bool:
        """As far as is known."""
        return self.name in ("pending", "running", "unknown")


def state_of(run: Path) -> State:
    """Of the job that was submitted last. Changes nothing."""
    return states_of([run])[0]


def states_of(runs: list[Path], certain: bool = False) -> list[State]:
    """The same for many, of which SLURM is asked once. `certain`: ValueError when it does not answer."""
    jobs = [JobRecord(run).last_job() for run in runs]
    queued = [job["job"] for run, job in zip(runs, jobs, strict=True) if job and _may_wait(run, job)]
    alive = _slurm(queued) if queued else {}
    states = [_state(run, job, alive) for run, job in zip(runs, jobs, strict=True)]
    if certain and (unknown := [state.detail for state in states if state.name == "unknown"]):
        raise ValueError(f"whether there is a job already cannot be told: {unknown[0]}; try again later")
    return states


def _may_wait(run: Path, job: Row) -> bool:
    """Whether only SLURM knows what a job does."""
    return job["kind"] == "slurm" and not JobRecord(run).is_finished()


def _state(run: Path, job: Row | None, alive: dict[str, State]) -> State:
    record = JobRecord(run)
    if job is None:
        return State("running", f"by {owner}") if (owner := owner_of(run)) else State("not submitted")
    if record.is_finished():
        return State("finished")
    if (found := _local(job) if job["kind"] == "local" else alive.get(job["job"])) is not None:
        return found
    if record.is_cancelled(job["job"]):
        return State("cancelled", "submit it again to continue")
    return State("ended", f"the last lines of {run / 'logs' / 'log.txt'} say why")


def _local(job: Row) -> State | None:
    if job["host"] != socket.gethostname():
        return State("running", f"on {job['host']}, as far as can be seen from here")
    command = Path(f"/proc/{job['process']}/cmdline")
    try:
        return State("running", f"on {job['host']}") if job["job"].encode() in command.read_bytes() else None
    except OSError:
        return None


def _slurm(jobs: list[str]) -> dict[str, State]:
    """Of those that SLURM has, or of all when it does not answer."""
    # Of arrays, whose elements wait in one line unless --array is given. Without --states it lists all that have not
    # ended, which no list of states would: one that runs may have another one shown (CONFIGURING, STAGE_OUT, ...).
    numbers = sorted({job.split("_")[0] for job in jobs})
    command = ["squeue", "--noheader", "--array", f"--jobs={','.join(numbers)}", "--format=%i|%T|%r|%N|%L"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(jobs, State("unknown", f"squeue does not answer: {error}"))
    if done.returncode and "Invalid job id" not in done.stderr:
        return dict.fromkeys(jobs, State("unknown", f"squeue does not answer: {done.stderr.strip()}"))
    found = {}
    for line in done.stdout.splitlines():
        job, name, reason, nodes, left = line.split("|")
        waits = State("pending", reason)
        runs = State("running", f"on {nodes}, {left} left" + ("" if name == "RUNNING" else f", {name.lower()}"))
        found[job] = waits if name == "PENDING" else runs
    return found


def cancel(run: Path) -> str:
    """Asks a run's job to save and end, or takes it out of the queue; returns what was done. ValueError when there is
    no such job."""
    record = JobRecord(run)
    job, state = record.last_job(), state_of(run)
    if job is None or not state.is_alive:
        raise ValueError(f"{run} has no job that could be cancelled: {state.name} {state.detail}".rstrip())
    if job["kind"] == "local" and job["host"] != socket.gethostname():
        raise ValueError(
            f"{run} is trained on {job['host']}: cancel it there (if that machine is gone, remove {record.jobs})"
        )
    record.cancel(job["job"])
    alone = job.get("runs", 1) == 1
    if alone and state.name == "pending":
        _run("scancel", job["job"])
        return f"job {job['job']} is out of the queue"
    if not record.is_running(job["job"]) and not (alone and job["kind"] == "slurm"):
        return f"job {job['job']} will not start it"  # which looks before it does
    if job["kind"] == "local":
        os.kill(record.starts_of(job["job"])[-1]["process"], signal.SIGUSR1)
    else:
        _run("scancel", "--signal=USR1", job["job"])
    return f"job {job['job']} saves and ends"


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
