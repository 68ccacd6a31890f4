"""Between two starts of a run: whether there is another, from what the last one left behind. Without torch."""

from pathlib import Path
from typing import NamedTuple

from launch.record import NO_PROGRESS, JobRecord
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED

FINISHED = "has finished"


class Verdict(NamedTuple):
    """Whether a run is started again, and why, as the rest of a sentence about the job."""

    again: bool
    why: str


def judge(run: Path, job: str, restart: int, late: bool = False) -> Verdict:
    """What follows from how the last start of a run ended, or from its being `late`, still there at the time limit."""
    record, logs = JobRecord(run), RunDirectory(run).logs
    if record.is_finished():
        return Verdict(False, FINISHED)
    code = record.end_of(job, restart)
    if record.is_cancelled(job):
        return Verdict(False, "was cancelled" + ("" if code == STOPPED else " and has not saved"))
    if (why := record.given_up(job)) is not None:
        return Verdict(False, why)
    start = record.start(job, restart)
    if start is None:
        return Verdict(True, "has not had its turn")
    if code == STOPPED:
        if record.is_stuck(job):
            return Verdict(
                False, f"was stopped {NO_PROGRESS} times without a new checkpoint: it needs longer time limits"
            )
        return Verdict(True, "was asked to stop and has saved")
    if late:
        why = "has not saved in time for its time limit"
        if record.is_stuck(job):
            return Verdict(
                False, f"{why}; given up after {NO_PROGRESS} starts without a new checkpoint: set a longer signal_delay"
            )
        return Verdict(True, why)
    unknown = "a process or its node was lost" if code is None else "the lines above say why"
    refused = start.get("failed")  # before it could leave word in the logs, which may be another's
    why = f"failed: {refused or logs.reason() or unknown}"
    if not refused and logs.is_final():
        return Verdict(False, f"{why} (see {logs.failure}); mend that and submit again")
    if record.is_stuck(job):
        return Verdict(False, f"{why}; given up after {NO_PROGRESS} starts without a new checkpoint ({logs.path})")
    return Verdict(True, why)
