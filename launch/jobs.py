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
    """`pending`, `running`, `finished`, `cancelled`, `failed` or `ended`; `not submitted` when there is no job."""
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
    alive = _local(job) if job["kind"] == "local" else _slurm(job["job"])
    if alive is not None:
        return alive
    if record.end_of_run() == 0:
        return State("finished")
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
    done = subprocess.run(
        [
            "squeue",
            "--noheader",
            "--states=PENDING,RUNNING,COMPLETING,SUSPENDED,REQUEUED",
            f"--jobs={job}",
            "--format=%T|%r|%N|%L",
        ],
        capture_output=True,
        text=True,
        timeout=_LIMIT,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:  # it is so long gone that SLURM has forgotten it
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
    record.cancel(job["job"])
    if job["kind"] == "local":
        if job["host"] != socket.gethostname():
            raise ValueError(f"{run} is trained on {job['host']}: cancel it there")
        os.kill(job["process"], signal.SIGUSR1)
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
