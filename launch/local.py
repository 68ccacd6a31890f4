"""Starts the processes of a run on this machine, through torch's own launcher."""

import logging
import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from sivae_dist.run import RunDirectory


def default_processes(device: str) -> int:
    """One a GPU; one when the run is on the CPU."""
    import torch

    return torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 1


def launch(run: Path, processes: int) -> int:
    """Runs the worker of a prepared run directory on `processes` processes; returns an exit code.

    ValueError when the run is being trained already.
    """
    try:
        with FileLock(run / ".lock", timeout=0):
            return _launch(run, processes)
    except Timeout:
        raise ValueError(f"{run} is being trained by another command") from None


def _launch(run: Path, processes: int) -> int:
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow each other down on shared cores
    if processes == 1:
        from launch.worker import main

        return main(run)
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The first process owns the terminal; what the others print goes to files.
    logs = RunDirectory(run).logs
    redirects = {rank: Std.ALL for rank in range(1, processes)}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        run_id=run.name,
        max_restarts=0,
        monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=redirects),
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say ourselves what failed
    os.environ["SIVAE_LAUNCHER"] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)("-m", "launch.worker", str(run))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(_cause(logs, processes) or f"error: process {rank} ended with code {failure.exitcode}", file=sys.stderr)
        return 1
    except (SignalException, KeyboardInterrupt):
        raise KeyboardInterrupt from None
    return 0


def _cause(logs: Path, processes: int) -> str | None:
    """What the processes without a terminal gave as the reason, in the newest of the logs.

    The launcher's own idea of who failed first does not help: a process that loses its partner ends at the same moment.
    """
    for rank in range(1, processes):
        newest = max(logs.glob(f"*/attempt_*/{rank}/stderr.log"), key=lambda path: path.stat().st_mtime, default=None)
        for line in newest.read_text(errors="replace").splitlines() if newest else ():
            if line.startswith("error: "):
                return f"{line} (process {rank}; {newest})"
    return None
