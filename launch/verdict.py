"""Decides, from the record of a run's last start, whether to start it again. Does not import torch."""

from pathlib import Path
from typing import NamedTuple

from launch.record import NO_PROGRESS, JobRecord
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED

FINISHED = "has finished"


class Verdict(NamedTuple):
    """Whether to start a run again, and the reason as a predicate whose subject is the job."""

    again: bool
    why: str


def judge(run: Path, job: str, restart: int, late: bool = False) -> Verdict:
    """The verdict on the last start of a run. `late`: its processes are still running at the time limit."""
    record, logs = JobRecord(run), RunDirectory(run).logs
    if record.is_finished():
        return Verdict(False, FINISHED)
    code = record.end_of(job, restart)
    if record.is_cancelled(job):
        return Verdict(False, "was cancelled" + ("" if code == STOPPED else " and did not save"))
    if (why := record.given_up(job)) is not None:
        return Verdict(False, why)
    start = record.start(job, restart)
    if start is None:
        return Verdict(True, "has not started yet")
    if code == STOPPED:
        if record.is_stuck(job):
            return Verdict(
                False, f"was stopped {NO_PROGRESS} times without a new checkpoint: it needs longer time limits"
            )
        return Verdict(True, "was asked to stop and saved a checkpoint")
    if late:
        why = "did not save before its time limit"
        if record.is_stuck(job):
            return Verdict(
                False, f"{why}; given up after {NO_PROGRESS} starts without a new checkpoint: set a longer signal_delay"
            )
        return Verdict(True, why)
    unknown = "a process or its node was lost" if code is None else "the lines above say why"
    refused = start.get("failed")  # before it could log anything; the logs may be another process's
    why = f"failed: {refused or logs.reason() or unknown}"
    if not refused and logs.is_final():
        return Verdict(False, f"{why} (see {logs.failure}); fix that and submit again")
    if record.is_stuck(job):
        return Verdict(False, f"{why}; given up after {NO_PROGRESS} starts without a new checkpoint ({logs.path})")
    return Verdict(True, why)
