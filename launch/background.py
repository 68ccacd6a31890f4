"""The local twin of a cluster: a run in the background of this machine, started again like a job that is requeued.

`python -m launch.background run RUN PROCESSES JOB` stands where SLURM's batch script would.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from launch.clusters import ClusterSettings
from launch.code import describe, importing, snapshot
from launch.record import JobRecord
from launch.requeue import judge, tell
from sivae_dist.ends import STOPPED, Logs
from sivae_dist.output import outlast_watchers
from sivae_dist.signals import SIGNALS


def submit(run: Path, images: int, name: str, cluster: ClusterSettings) -> str:
    """Starts a prepared run directory, which will see so many images, in the background; returns the job's name."""
    run, job = run.resolve(), _new_name()
    code = _snapshot(run)
    process = _detached(run, code, "run", str(run), str(cluster.processes), job)
    _record(run, job, process, images, cluster, code)
    return job


def submit_all(folder: Path, runs: list[Path], totals: list[int], cluster: ClusterSettings, parallel: int) -> list[str]:
    """The same for many, of which at most `parallel` are trained at once, in one job."""
    folder, job = folder.resolve(), _new_name()
    code = _snapshot(folder)
    paths = [str(run.resolve()) for run in runs]
    process = _detached(folder, code, "sweep", str(cluster.processes), job, str(parallel), *paths)
    for run, images in zip(runs, totals, strict=True):
        _record(run.resolve(), job, process, images, cluster, code)
    return [job]


def _new_name() -> str:
    return f"local-{os.getpid()}-{time.time_ns() // 10**6}"


def _snapshot(place: Path) -> Path | None:
    """Where none can be taken, on a machine without rsync say, a job imports the checkout as it is by then."""
    try:
        return snapshot(place)
    except ValueError as error:
        tell(place, f"warning: {error}; until then do not edit the checkout while this job is not done")
        return None


def _detached(place: Path, code: Path | None, *arguments: str) -> int:
    log = Logs(place / "logs").combined
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.background", *arguments]
    with open(log, "a") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ | importing(code),
        )
    return process.pid


def _record(run: Path, job: str, process: int, images: int, cluster: ClusterSettings, code: Path | None) -> None:
    JobRecord(run).submitted(
        job=job,
        kind="local",
        images=images,
        host=socket.gethostname(),
        process=process,
        nodes=1,
        processes=cluster.processes,
        code=describe(code),
    )


def sweep(processes: int, job: str, parallel: int, runs: list[Path]) -> int:
    """Trains runs, some at once; returns the largest exit code."""

    def one(run: Path) -> int:
        record = JobRecord(run)
        if record.is_cancelled(job) or record.is_finished():
            return 0
        with open(Logs(run / "logs").combined, "a") as output:
            command = [sys.executable, "-m", "launch.background", "run", str(run), str(processes), job]
            return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a run is cancelled, not all of them
    for run in runs:
        (run / "logs").mkdir(exist_ok=True)
    with ThreadPoolExecutor(parallel) as pool:
        return max(pool.map(one, runs))


def main(run: Path, processes: int, job: str) -> int:
    """Trains until the run is at its end, is asked to stop, or is given up; returns an exit code."""
    record = JobRecord(run)
    child: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    restart = 0
    while not record.is_cancelled(job):
        Logs(run / "logs").forget_failure()  # of an earlier start, if this one is refused before it does so itself
        record.started(job, restart, node=socket.gethostname(), processes=processes, process=os.getpid())
        tell(run, f"job {job}, start {restart + 1}: {processes} processes on {socket.gethostname()}")
        child = subprocess.Popen([sys.executable, "-m", "launch.local", str(run), str(processes)])
        if told:  # before there was anybody to hand it on to
            child.send_signal(signal.SIGTERM)
        code = child.wait()
        if code >= 0:
            record.ended(job, restart, code)
        verdict = judge(run, job, restart)
        again = verdict.again and not told
        tell(run, f"job {job}, start {restart + 1}: {verdict.why}" + ("; started again" if again else ""))
        if not again:
            return code if code >= 0 else 1
        restart += 1
    return STOPPED


if __name__ == "__main__":
    outlast_watchers()
    what, *rest = sys.argv[1:]
    if what == "run":
        sys.exit(main(Path(rest[0]), int(rest[1]), rest[2]))
    sys.exit(sweep(int(rest[0]), rest[1], int(rest[2]), [Path(run) for run in rest[3:]]))
