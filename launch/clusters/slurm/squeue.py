"""Queries SLURM for the states of jobs, and cancels them."""

import re
import subprocess
from collections.abc import Sequence

from launch.clusters.base import State
from sivae_dist.process.durations import duration

_LIMIT = 60
"""Timeout of SLURM's commands in seconds."""

_AT_ONCE = 500
"""Maximum number of jobs in one command."""

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
"""SLURM's reasons why a job waits, as they follow `pending`; others are shown unchanged."""


def alive(jobs: Sequence[str]) -> dict[str, State]:
    """States of those jobs that SLURM has, or of all when it does not answer."""
    # --array lists pending elements of an array separately. Without --states, squeue lists all jobs that have not
    # ended; a list of states would miss some, since a running job may show another state (CONFIGURING, STAGE_OUT, ...).
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
    """SLURM's `1-02:03:04` in sivae's format for durations; words (UNLIMITED) in lower case."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return text.lower()
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return duration(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def dequeue(jobs: Sequence[str]) -> None:
    """Removes jobs from the queue. ValueError when SLURM fails to."""
    for first in range(0, len(jobs), _AT_ONCE):
        _scancel(*jobs[first : first + _AT_ONCE])


def ask_to_save(job: str) -> None:
    """Sends a job's processes the signal to save and stop. ValueError when SLURM fails to."""
    _scancel("--signal=USR1", job)


def _scancel(*arguments: str) -> None:
    try:
        subprocess.run(["scancel", *arguments], capture_output=True, text=True, timeout=_LIMIT, check=True)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"scancel failed: {' '.join(error.stderr.split())}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"scancel does not answer: {error}") from None
