"""What has become of a run's job: its state, and asking it to end."""

import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launch.record import JobRecord, Row

_LIMIT = 60


@dataclass(frozen=True)
class State:
    name: str
    """`pending`, `running`, `finished`, `cancelled`, `ended` or `unknown`; `not submitted` when there is no job."""
    detail: str = ""

    @property
    def is_alive(self) -> bool:
        return self.name in ("pending", "running")


def state_of(run: Path) -> State:
    """Of the job that was submitted last. Changes nothing."""
    record = JobRecord(run)
    job = record.last_job()
    if job is None:
        owner = run / ".owner"
        return State("running", f"by {owner.read_text()}") if owner.exists() else State("not submitted")
    if record.is_finished():
        return State("finished")
    alive = _local(job) if job["kind"] == "local" else _slurm(job["job"])
    if alive is not None:
        return alive
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


def _slurm(job: str) -> State | None:
    states = "--states=PENDING,RUNNING,COMPLETING,SUSPENDED,REQUEUED,SIGNALING"
    try:
        done = subprocess.run(
            ["squeue", "--noheader", states, f"--jobs={job}", "--format=%T|%r|%N|%L"],
            capture_output=True,
            text=True,
            timeout=_LIMIT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return State("unknown", f"squeue does not answer: {error}")
    lines = done.stdout.splitlines()
    if done.returncode and "Invalid job id" not in done.stderr:
        return State("unknown", f"squeue does not answer: {done.stderr.strip()}")
    if not lines:
        return None
    name, reason, nodes, left = lines[0].split("|")
    if name == "PENDING":
        return State("pending", reason)
    return State("running", f"on {nodes}, {left} left" + ("" if name == "RUNNING" else f", {name.lower()}"))


def cancel(run: Path) -> str:
    """Asks a run's job to save and end, or takes it out of the queue; returns what was done. ValueError when there is
    no such job."""
    record = JobRecord(run)
    job, state = record.last_job(), state_of(run)
    if job is None or not state.is_alive:
        raise ValueError(f"{run} has no job that could be cancelled: {state.name}")
    if job["kind"] == "local" and job["host"] != socket.gethostname():
        raise ValueError(f"{run} is trained on {job['host']}: cancel it there")
    record.cancel(job["job"])
    if job["kind"] == "local":
        starts = record.starts_of(job["job"])
        if not starts:  # it waits for its turn, or has just been begun, and looks before it starts
            return f"job {job['job']} will not start it"
        os.kill(starts[-1]["process"], signal.SIGUSR1)
        return f"job {job['job']} saves and ends"
    if state.name == "pending":
        _run("scancel", job["job"])
        return f"job {job['job']} is out of the queue"
    _run("scancel", "--signal=USR1", job["job"])
    return f"job {job['job']} saves and ends"


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
