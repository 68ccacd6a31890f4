"""Between two starts of a run: whether there is another.

`python -m launch.clusters.slurm.requeue RUN` is the last line of a batch script. There is one of it a job, whoever of
its processes is left, so that a job is requeued once. What SLURM requeues by itself, after the loss of a node, it
leaves alone.

At its time limit SLURM ends the batch script together with the processes, and nobody would be left to requeue a job
whose processes have not saved by then. So `python -m launch.clusters.slurm.requeue RUN SECONDS` waits beside them, and
does it when only so many seconds are left.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from launch.clusters.slurm.place import SlurmPlace
from launch.record import NO_PROGRESS, JobRecord
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED

FINISHED = "has finished"

_WAITS = (1.0, 5.0, 15.0, *[30.0] * 18)
"""Seconds before each further try to reach the controller, which may be started anew."""

_GOES_ON = {"RUNNING", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING", "CONFIGURING", "STAGE_OUT"}
"""States of a job that nobody is ending; some are shown for a moment in place of RUNNING."""

_LOOK = 300.0
"""Seconds between two looks at a time limit, which an administrator may change."""


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


def runs_of(plan: Path, index: int) -> list[Path]:
    """The runs of a job: its only one, or those at `index` of a sweep's plan, a JSON list of lists."""
    return [plan] if plan.is_dir() else [Path(run) for run in json.loads(plan.read_text())[index]]


def tell(run: Path, line: str) -> None:
    """Adds a line to the log for people; where that is not possible, to stderr. A run does not end for it."""
    log, line = RunDirectory(run).logs.combined, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            file.write(f"{line}\n")
    except OSError as error:
        print(f"{line} (not in the log: {error})", file=sys.stderr, flush=True)


def main(plan: Path, late: bool = False) -> int:
    """Requeues this job if any of its runs is to go on; returns the batch script's exit code. `late`: the processes are
    still there."""
    place = SlurmPlace.from_environment()
    runs = runs_of(plan, place.index)
    _count_failed_start(runs, place)
    verdicts = {run: judge(run, place.job, place.restart, late) for run in runs}
    again = any(verdict.again for verdict in verdicts.values())
    try:
        state = _facts(place.job)["JobState"] if again else ""
    except subprocess.SubprocessError:
        for run in runs:
            tell(run, f"job {place.job}, start {place.restart + 1}: SLURM does not answer; submit it again to go on")
        raise
    requeued = state in _GOES_ON
    for run, verdict in verdicts.items():
        after = ""
        if verdict.again:
            after = "; requeued" if requeued else f"; not requeued here, as SLURM has it as {state}"
        elif verdict.why != FINISHED and JobRecord(run).given_up(place.job) is None:
            JobRecord(run).give_up(place.job, place.restart, verdict.why)
        tell(run, f"job {place.job}, start {place.restart + 1}: {verdict.why}{after}")
    if requeued:
        _scontrol("requeue", place.job)
    return 0 if all(verdict.again or verdict.why == FINISHED for verdict in verdicts.values()) else 1


def wait_for_limit(job: str, seconds: float) -> None:
    """Returns when only so many are left to a job; never for one without a limit."""
    end = "Unknown"
    while True:
        try:
            end = _facts(job, tries=1)["EndTime"]  # in seconds since 1970, or Unknown
        except subprocess.SubprocessError as error:
            print(f"warning: {error}; the time limit is taken to be the one known last", file=sys.stderr, flush=True)
        left = _LOOK if end == "Unknown" else float(end) - time.time() - seconds
        if left <= 0:
            return
        time.sleep(min(left, _LOOK))


def _count_failed_start(runs: list[Path], place: SlurmPlace) -> None:
    """A start that came to nothing before any run's turn (a broken container, a missing module) is one all the same,
    of the first run that is left: or a job would be requeued for ever."""
    records = [JobRecord(run) for run in runs]
    left = [record for record in records if not record.is_finished() and record.given_up(place.job) is None]
    if left and all(record.start(place.job, place.restart) is None for record in records):
        failed = "its processes did not come to start; what they printed lies in logs/jobs"
        left[0].started(place.job, place.restart, node=place.node, processes=0, failed=failed)


def _facts(job: str, tries: int | None = None) -> dict[str, str]:
    """What SLURM knows of a job. `tries`: for ten minutes when None."""
    words = _scontrol("--oneliner", "show", "job", job, tries=tries).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def _scontrol(*arguments: str, tries: int | None = None) -> str:
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}  # seconds, which no time zone and no summer changes
    for wait in (*_WAITS, None)[-tries if tries else None :]:
        try:
            done = subprocess.run(
                ["scontrol", *arguments], capture_output=True, text=True, timeout=60, check=True, env=environment
            )
            return done.stdout
        except subprocess.SubprocessError:
            if wait is None:
                raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
    plan, *rest = sys.argv[1:]
    if rest:
        wait_for_limit(SlurmPlace.from_environment().job, float(rest[0]))
    sys.exit(main(Path(plan), late=bool(rest)))
