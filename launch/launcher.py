"""Starts the processes of a command on this machine, through torch's own process contexts."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from launch.environment import forget_launchers
from sivae_dist.process import startup
from sivae_dist.process.output import outlast_watchers
from sivae_dist.process.parents import end_with
from sivae_dist.process.signals import handling
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.ends import INTERRUPTED, STOPPED, Logs
from sivae_dist.run.ownership import owned

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

WORKER = "launch.worker"
"""The module that each process runs."""

_POLL_SECONDS = 0.1
_PATIENCE = 25.0
"""Seconds after which torch's context loses patience (at 30) with processes that outlive another's failure."""


def launch(path: Path, processes: int) -> int:
    """Trains a prepared run directory on `processes` processes; returns an exit code (launch/worker.py).

    ValueError when the run is being trained already.
    """
    run = RunDirectory(path)
    with owned(path) as note:
        if note:
            print(note, flush=True)
        return start([str(path)], run.logs, processes)


def start(arguments: list[str], logs: Logs, processes: int) -> int:
    """Runs a worker with these arguments on `processes` processes; returns an exit code (launch/worker.py)."""
    stale = forget_launchers()
    if stale.get("WORLD_SIZE", "1") != "1":
        print(
            f"note: ignoring WORLD_SIZE={stale['WORLD_SIZE']} in the environment, which is another launcher's: "
            f"this command starts {processes} processes, as --nproc says",
            file=sys.stderr,
        )
    logs.forget_failure()
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // processes))
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", threads)  # torch's default is up to 32 per process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow each other down on shared cores
    if processes == 1:
        from launch.work import main
        from sivae_dist.process.stopping import Stop

        stop = Stop()
        with stop.listening():
            return main(arguments, stop)
    return _start(arguments, logs, processes)


def _start(arguments: list[str], logs: Logs, processes: int) -> int:
    ids: list[int] = []
    with _forwarding(ids) as received:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes

        # The rendezvous: the system chooses a free port, which the open store keeps others from taking.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_RUN_ID": "sivae",
            "SIVAE_LAUNCHER": str(os.getpid()),
        }
        # The first process owns the terminal; the output of the others goes to files.
        logs.path.mkdir(parents=True, exist_ok=True)
        specs = DefaultLogsSpecs(log_dir=str(logs.path), redirects={rank: Std.ALL for rank in range(1, processes)})
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we report failures ourselves
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # and forward signals ourselves
        startup.doing(f"starting {processes} processes")
        context = start_processes(
            name="sivae",
            entrypoint=sys.executable,
            args={rank: ("-m", WORKER, *arguments) for rank in range(processes)},
            envs={rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)},
            logs_specs=specs,
        )
        ids += context.pids().values()
        if received:  # before there was a process to forward it to
            _send(ids, signal.SIGTERM)
        silent_from = monotonic() + 2 * startup.SECONDS  # by then the first process reports its own progress
        while True:
            start = monotonic()
            if start > silent_from:
                startup.done()
            if (result := context.wait(_POLL_SECONDS, period=_POLL_SECONDS)) is not None:
                break
    codes = {failure.exitcode for failure in result.failures.values()}
    if received.count(signal.SIGINT) > 1:
        return INTERRUPTED
    killed_late = monotonic() - start > _PATIENCE
    asked = {STOPPED}
    if received:  # a process without handlers yet ends immediately, while others wait for it; none has work to save
        asked |= {-signal.SIGTERM, -signal.SIGKILL} if killed_late else {-signal.SIGTERM}
    if codes <= asked:
        return STOPPED if codes else 0
    print(f"error: {_cause(logs, result.failures, killed_late)}", file=sys.stderr)
    return 1


@contextmanager
def _forwarding(ids: list[int]) -> Iterator[list[int]]:
    """Forwards signals to the processes `ids`, which have their own sessions; yields the signals received.

    A second Ctrl-C kills the processes. The first is forwarded as TERM, so that it does not count twice in processes
    that also received it themselves.
    """
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        kill = number == signal.SIGINT and received.count(number) > 1
        _send(ids, signal.SIGKILL if kill else signal.SIGTERM)

    with handling(forward):
        yield received


def _send(ids: list[int], number: int) -> None:
    for process in ids:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass  # it has ended


_USUAL_REASONS = {
    "SIGKILL": " (out of memory?)",
    "SIGBUS": " (a mapped file could no longer be read: check that its file system is mounted and its disk is healthy)",
}


def _cause(logs: Logs, failures: "dict[int, ProcessFailure]", killed_late: bool) -> str:
    """Why the processes ended, in one line. `killed_late`: the survivors of the first failure had to be killed."""
    for rank, failure in list(failures.items())[: 1 if killed_late else None]:
        if failure.exitcode in (1, STOPPED, -signal.SIGTERM):
            continue  # it has recorded its reason, or ended because of another
        if failure.exitcode > 0:
            return f"process {rank} ended with code {failure.exitcode}; see {logs.path}"
        name = signal.Signals(-failure.exitcode).name
        return f"process {rank} was killed by {name}{_USUAL_REASONS.get(name, '')}"
    if reason := logs.reason():
        return reason if logs.hangs() else f"{reason} (its traceback: {logs.failure})"
    rank, failure = next(iter(failures.items()))
    return f"process {rank} ended with code {failure.exitcode}; see {logs.path}"


if __name__ == "__main__":
    run, processes, *parent = sys.argv[1:]
    if parent:  # a supervisor: if it ends, the run saves and stops
        end_with(int(parent[0]), signal.SIGTERM)
    outlast_watchers()
    sys.exit(launch(Path(run), int(processes)))
