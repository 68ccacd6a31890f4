"""What has become of runs' jobs: their states, and asking them to end."""

import os
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launch.record import JobRecord
from sivae_dist.process.durations import duration
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED
from sivae_dist.run.jsonl import Row
from sivae_dist.run.ownership import owner_of

_LIMIT = 60
_AT_ONCE = 500
"""Jobs in one command."""

_REASONS = {
    "JobArrayTaskLimit": "for a slot of its array",
    "Resources": "for free nodes",
    "Priority": "behind jobs of higher priority",
    "Dependency": "for the end of another job",
    "BeginTime": "for the time from which it may start",
    "JobHeldUser": "held by its user",
    "JobHeldAdmin": "held by an administrator",
    "None": "",
}
"""Why a job waits, in SLURM's word and as the rest of a sentence; others are shown as they are."""

_EXPLAINED = ("failed", "unknown")
"""States whose detail is a sentence of its own."""

_AGAIN = "submit it again to continue"


@dataclass(frozen=True)
class State:
    name: str
    """`pending`: in SLURM's queue; `waiting`: for other runs of the same job; `running`; `finished`; `stopped`: saved
    on request or not begun; `cancelled`: the same by `sivae cancel`; `failed`; `killed`: gone without a word;
    `unknown`: SLURM does not answer; `not submitted`: there is no job."""
    detail: str = ""

    def __str__(self) -> str:
        """As a table and a sentence have it."""
        if not self.detail:
            return self.name
        return f"{self.name}{': ' if self.name in _EXPLAINED else ' '}{self.detail}"

    @property
    def is_alive(self) -> bool:
        """As far as is known."""
        return self.name in ("pending", "waiting", "running", "unknown")


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
    found = _local(run, job) if job["kind"] == "local" else _of_task(run, job, alive.get(job["job"]))
    return found or _end(run, job["job"])


def _of_task(run: Path, job: Row, state: State | None) -> State | None:
    """A run whose job is in this state: it may be one of several that a task trains one after the other."""
    record = JobRecord(run)
    if state is None or job.get("runs", 1) == 1 or record.is_running(job["job"]):
        return state
    if not record.is_due(job["job"]):
        return None
    return state if state.name == "pending" else State("waiting", "for the runs before it in its task")


def _local(run: Path, job: Row) -> State | None:
    record, host = JobRecord(run), job["host"]
    starts = record.starts_of(job["job"])
    if host != socket.gethostname():
        if record.is_running(job["job"]) or not starts:
            return State("running" if starts else "waiting", f"on {host}, as far as can be seen from here")
        return None
    if not starts:  # a sweep's supervisor has not come to it
        waits = _is_alive(job["process"], job["job"]) and record.is_due(job["job"])
        return State("waiting", "for a slot" if job.get("runs", 1) > 1 else "to start") if waits else None
    if _is_alive(starts[-1]["process"], job["job"]):
        return State("running", f"on {host}")
    if (owner := owner_of(run)) is not None:
        return State("running", f"by {owner}, which saves and ends, since its supervisor was killed")
    return None


def _is_alive(process: int, job: str) -> bool:
    """Whether a process is there, and is the one that supervises this job; a number may be given anew."""
    try:
        return job.encode() in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _end(run: Path, job: str) -> State:
    """How a job ended that is gone, from what it left of itself."""
    record, logs = JobRecord(run), RunDirectory(run).logs
    if record.is_cancelled(job):
        return State("cancelled", f"on request; {_AGAIN}")
    if (why := record.given_up(job)) is not None:
        return State("failed", why.removeprefix("failed: "))
    starts = record.starts_of(job)
    if not starts:
        return State("stopped", f"before it started; {_AGAIN}")
    code = record.end_of(job, starts[-1]["restart"])
    if code == STOPPED:
        return State("stopped", f"and saved; {_AGAIN}")
    if code is None:
        return State("killed", f"and left no reason; {_AGAIN}")
    return State("failed", starts[-1].get("failed") or logs.reason() or f"see {logs.combined}")


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
        waits = State("pending", _REASONS.get(reason, reason))
        runs = State(
            "running", f"on {nodes}, {_time(left)} to its limit" + ("" if name == "RUNNING" else f", {name.lower()}")
        )
        found[job] = waits if name == "PENDING" else runs
    return found


def _time(text: str) -> str:
    """SLURM's `1-02:03:04` as times are written everywhere; words (UNLIMITED) as they are."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return text.lower()
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return duration(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def cancel(runs: list[Path]) -> list[str]:
    """Asks the jobs of runs to save and end, or takes them out of the queue; returns what was done, in a line for each
    run that had a job. ValueError when none had."""
    jobs, states = [JobRecord(run).last_job() for run in runs], states_of(runs)
    found = [(run, job, state) for run, job, state in zip(runs, jobs, states, strict=True) if job and state.is_alive]
    if not found:
        if len(runs) > 1:
            raise ValueError(f"none of these {len(runs)} runs has a job that could be cancelled")
        raise ValueError(f"{runs[0]} has no job that could be cancelled: it is {states[0]}")
    for run, job, _ in found:
        if job["kind"] == "local" and job["host"] != socket.gethostname():
            raise ValueError(
                f"{run} is trained on {job['host']}: cancel it there (if that machine is gone, remove "
                f"{JobRecord(run).jobs})"
            )
    for run, job, _ in found:  # before any of them ends and another takes its place
        JobRecord(run).cancel(job["job"])
    queued = [job["job"] for _, job, state in found if _is_only_queued(job, state)]
    for first in range(0, len(queued), _AT_ONCE):
        _run("scancel", *queued[first : first + _AT_ONCE])
    lines = [_cancelled(run, job, state) for run, job, state in found]
    return lines if len(runs) == 1 else [f"{run}: {line}" for (run, _, _), line in zip(found, lines, strict=True)]


def _is_only_queued(job: Row, state: State) -> bool:
    return state.name == "pending" and job.get("runs", 1) == 1


def _cancelled(run: Path, job: Row, state: State) -> str:
    """Asks one job to save and end, if it has to be asked; returns what was done."""
    name, record = job["job"], JobRecord(run)
    if _is_only_queued(job, state):
        return f"job {name} is out of the queue"
    alone = job["kind"] == "slurm" and job.get("runs", 1) == 1
    if not record.is_running(name) and not alone:
        return f"job {name} will not start it"  # which looks before it does
    if job["kind"] == "slurm":
        _run("scancel", "--signal=USR1", name)
    else:
        try:
            os.kill(record.starts_of(name)[-1]["process"], signal.SIGUSR1)
        except ProcessLookupError:
            pass  # its supervisor was killed, and it ends for that reason
    return f"job {name} saves and ends"


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{command[0]} failed: {' '.join(error.stderr.split())}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{command[0]} does not answer: {error}") from None
