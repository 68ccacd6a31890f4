"""The local twin of a cluster: a run in the background of this machine, started again like a job that is requeued.

`python -m launch.clusters.local.supervisor run RUN PROCESSES JOB` stands where SLURM's batch script would, and
supervises the run; `... sweep PROCESSES JOB SLOTS RUN...` starts one of these for each run of a sweep.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from launch.clusters.slurm.requeue import judge, tell
from launch.clusters.slurm.settings import PARALLEL, ClusterSettings
from launch.code import describe, importing, snapshot
from launch.parents import end_with
from launch.record import JobRecord
from sivae_dist.process.output import outlast_watchers
from sivae_dist.process.signals import SIGNALS
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import STOPPED


def submit(run: Path, images: int, name: str, cluster: ClusterSettings) -> str:
    """Starts a prepared run directory, which will see so many images, in the background; returns the job's name."""
    run, job = run.resolve(), _new_name()
    code = _snapshot(run)
    process = _detached(run, code, "run", str(run), str(cluster.processes), job)
    _record(run, job, process, images, cluster, code)
    return job


def submit_all(
    folder: Path, runs: list[Path], totals: list[int], cluster: ClusterSettings, parallel: int | None
) -> list[str]:
    """The same for many in one job, of which at most `parallel` are trained at once, each on GPUs of its own.

    ValueError when there are too few GPUs for one of them.
    """
    places = slots(parallel, visible_gpus() if cluster.gpus else [], cluster.processes)
    folder, job = folder.resolve(), _new_name()
    code = _snapshot(folder)
    paths = [str(run.resolve()) for run in runs]
    process = _detached(folder, code, "sweep", str(cluster.processes), job, json.dumps(places), *paths)
    for run, images in zip(runs, totals, strict=True):
        _record(run.resolve(), job, process, images, cluster, code, len(runs))
    return [job]


def visible_gpus() -> list[str]:
    """The GPUs that this process can use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def slots(parallel: int | None, gpus: list[str], each: int) -> list[str | None]:
    """Places for runs at once: the GPUs that each sees, as CUDA_VISIBLE_DEVICES names them, or None without GPUs.

    One for every `each` GPUs; `parallel` asks for another number, whose runs share GPUs when there are more than
    these. ValueError when there are fewer than `each` GPUs.
    """
    if not gpus:
        return [None] * (parallel or PARALLEL)
    groups = [",".join(gpus[first : first + each]) for first in range(0, len(gpus) - each + 1, each)]
    if not groups:
        raise ValueError(f"each run asks for {each} GPUs, and only {len(gpus)} can be seen here: set --gpus-per-node")
    return [groups[number % len(groups)] for number in range(parallel or len(groups))]


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
    log = RunDirectory(place).logs.combined
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.clusters.local.supervisor", *arguments]
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


def _record(
    run: Path, job: str, process: int, images: int, cluster: ClusterSettings, code: Path | None, runs: int = 1
) -> None:
    JobRecord(run).submitted(
        job=job,
        kind="local",
        images=images,
        runs=runs,
        host=socket.gethostname(),
        process=process,
        nodes=1,
        processes=cluster.processes,
        code=describe(code),
    )


def sweep(processes: int, job: str, places: list[str | None], runs: list[Path]) -> int:
    """Trains runs, as many at once as there are places; returns the largest exit code."""
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

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a run is cancelled, not all of them
    for run in runs:
        RunDirectory(run).logs.path.mkdir(exist_ok=True)
    with ThreadPoolExecutor(len(places)) as pool:
        return max(pool.map(one, runs))


def main(run: Path, processes: int, job: str) -> int:
    """Trains until the run is at its end, is asked to stop, or is given up; returns an exit code."""
    record = JobRecord(run)
    child: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if child is not None and child.poll() is None and len(told) == 1:  # another would find it on its way out
            child.send_signal(signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, forward)
    restart, me = 0, str(os.getpid())
    while not record.is_cancelled(job):
        RunDirectory(run).logs.forget_failure()  # of an earlier start, if this one is refused before it does so itself
        record.started(job, restart, node=socket.gethostname(), processes=processes, process=os.getpid())
        tell(run, f"job {job}, start {restart + 1}: {processes} processes on {socket.gethostname()}")
        child = subprocess.Popen([sys.executable, "-m", "launch.launcher", str(run), str(processes), me])
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
        if rest[3:]:  # of a sweep
            end_with(int(rest[3]), signal.SIGTERM)
        sys.exit(main(Path(rest[0]), int(rest[1]), rest[2]))
    sys.exit(sweep(int(rest[0]), rest[1], json.loads(rest[2]), [Path(run) for run in rest[3:]]))
