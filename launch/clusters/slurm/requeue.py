"""Requeues a job between two starts if one of its runs should resume.

`python -m launch.clusters.slurm.requeue RUN` is the last line of a batch script. It runs once per job, however many
processes survive, so that the job is requeued once. It does not touch jobs that SLURM requeues itself after the loss
of a node.

At the time limit, SLURM ends the batch script together with the processes, so nothing would be left to requeue a job
whose processes have not saved by then. Therefore `python -m launch.clusters.slurm.requeue RUN SECONDS` runs beside
them, and requeues the job when only that many seconds are left.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from launch.clusters.slurm.place import SlurmPlace
from launch.clusters.slurm.plans import runs_of
from launch.record import JobRecord
from launch.verdict import FINISHED, judge
from sivae_dist.run.directory import RunDirectory

_WAITS = (1.0, 5.0, 15.0, *[30.0] * 18)
"""Seconds before each further attempt to reach the controller, which may be restarting."""

_CONTINUES = {"RUNNING", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING", "CONFIGURING", "STAGE_OUT"}
"""States of a job that is not being ended; some are briefly shown in place of RUNNING."""

_LOOK = 300.0
"""Seconds between two checks of the time limit, which an administrator may change."""


def main(plan: Path, late: bool = False) -> int:
    """Requeues this job if any of its runs should resume; returns the batch script's exit code. `late`: the processes
    are still running."""
    place = SlurmPlace.from_environment()
    runs = runs_of(plan, place.index)
    _count_failed_start(runs, place)
    verdicts = {run: judge(run, place.job, place.restart, late) for run in runs}
    again = any(verdict.again for verdict in verdicts.values())
    try:
        state = _facts(place.job)["JobState"] if again else ""
    except subprocess.SubprocessError:
        for run in runs:
            _log(run, place, "SLURM does not answer; submit it again to continue")
        raise
    requeued = state in _CONTINUES
    for run, verdict in verdicts.items():
        after = ""
        if verdict.again:
            after = "; requeued" if requeued else f"; not requeued here, since SLURM reports it as {state}"
        elif verdict.why != FINISHED and JobRecord(run).given_up(place.job) is None:
            JobRecord(run).give_up(place.job, place.restart, verdict.why)
        _log(run, place, f"{verdict.why}{after}")
    if requeued:
        _scontrol("requeue", place.job)
    return 0 if all(verdict.again or verdict.why == FINISHED for verdict in verdicts.values()) else 1


def _log(run: Path, place: SlurmPlace, what: str) -> None:
    RunDirectory(run).logs.append(f"job {place.job}, start {place.restart + 1}: {what}")


def wait_for_limit(job: str, seconds: float) -> None:
    """Returns when a job has only that many seconds left; never for a job without a time limit."""
    end = "Unknown"
    while True:
        try:
            end = _facts(job, tries=1)["EndTime"]  # in seconds since 1970, or Unknown
        except subprocess.SubprocessError as error:
            print(f"warning: {error}; assuming that the time limit is unchanged", file=sys.stderr, flush=True)
        left = _LOOK if end == "Unknown" else float(end) - time.time() - seconds
        if left <= 0:
            return
        time.sleep(min(left, _LOOK))


def _count_failed_start(runs: list[Path], place: SlurmPlace) -> None:
    """Records a start that failed before any run began (a broken container, a missing module) as a start of the first
    remaining run; otherwise a job would be requeued forever."""
    records = [JobRecord(run) for run in runs]
    left = [record for record in records if not record.is_finished() and record.given_up(place.job) is None]
    if left and all(record.start(place.job, place.restart) is None for record in records):
        failed = "its processes could not start; see their output in logs/jobs"
        left[0].started(place.job, place.restart, node=place.node, processes=0, failed=failed)


def _facts(job: str, tries: int | None = None) -> dict[str, str]:
    """SLURM's facts about a job. `tries`: number of attempts; None to try for ten minutes."""
    words = _scontrol("--oneliner", "show", "job", job, tries=tries).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def _scontrol(*arguments: str, tries: int | None = None) -> str:
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}  # seconds since 1970, independent of the time zone
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
