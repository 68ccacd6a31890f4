"""Supervises a background run on this machine, and restarts it as SLURM requeues a job.

`python -m launch.clusters.local.supervisor run RUN PROCESSES JOB` takes the role of SLURM's batch script and
supervises the run; `... sweep PROCESSES JOB SLOTS RUN...` starts one such supervisor for each run of a sweep.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from launch.record import JobRecord
from launch.verdict import judge
from sivae_dist.process.output import outlast_watchers
from sivae_dist.process.parents import end_with
from sivae_dist.process.signals import SIGNALS
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED


def sweep(processes: int, job: str, places: list[str | None], runs: list[Path]) -> int:
    """Trains runs, one at a time per place; returns the largest exit code."""
    free: SimpleQueue[str | None] = SimpleQueue()
    for place in places:
        free.put(place)

    def one(run: Path) -> int:
        record = JobRecord(run)
        if record.is_cancelled(job) or record.is_finished():
            return 0
        gpus = free.get()
        environment = os.environ | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
        parent = str(os.getpid())
        command = [
            sys.executable,
            "-m",
            "launch.clusters.local.supervisor",
            "run",
            str(run),
            str(processes),
            job,
            parent,
        ]
        try:
            with open(RunDirectory(run).logs.combined, "a") as output:
                return subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
                ).returncode
        finally:
            free.put(gpus)

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it cancels a single run, not all of them
    for run in runs:
        RunDirectory(run).logs.path.mkdir(exist_ok=True)
    with ThreadPoolExecutor(len(places)) as pool:
        return max(pool.map(one, runs))


def main(run: Path, processes: int, job: str) -> int:
    """Trains until the run has finished, is asked to stop, or is given up; returns an exit code."""
    record, logs = JobRecord(run), RunDirectory(run).logs
    child: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if child is not None and child.poll() is None and len(received) == 1:  # after the first it is already stopping
            child.send_signal(signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    restart, me = 0, str(os.getpid())
    while not record.is_cancelled(job):
        logs.forget_failure()  # an earlier start's, in case this one is refused before it does so itself
        record.started(job, restart, node=socket.gethostname(), processes=processes, process=os.getpid())
        logs.append(f"job {job}, start {restart + 1}: {processes} processes on {socket.gethostname()}")
        child = subprocess.Popen([sys.executable, "-m", "launch.launcher", str(run), str(processes), me])
        if received:  # before there was a process to forward it to
            child.send_signal(signal.SIGTERM)
        code = child.wait()
        if code >= 0:
            record.ended(job, restart, code)
        verdict = judge(run, job, restart)
        again = verdict.again and not received
        logs.append(f"job {job}, start {restart + 1}: {verdict.why}" + ("; started again" if again else ""))
        if not again:
            return code if code >= 0 else 1
        restart += 1
    return STOPPED


if __name__ == "__main__":
    outlast_watchers()
    what, *rest = sys.argv[1:]
    if what == "run":
        if rest[3:]:  # of a sweep
            end_with(int(rest[3]), signal.SIGTERM)
        sys.exit(main(Path(rest[0]), int(rest[1]), rest[2]))
    sys.exit(sweep(int(rest[0]), rest[1], json.loads(rest[2]), [Path(run) for run in rest[3:]]))
