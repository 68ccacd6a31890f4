"""One start of a run's processes, by the `sivae` command or forked from a server, and what can be done to it."""

import os
import random
import runpy
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from sivae_dist.config.opening import prepare_run
from sivae_dist.config.run_settings import load_config
from sivae_dist.run.directory import RunDirectory
from tests.command import started, worker_ids
from tests.helpers import start_process

ALL, ONE, LAUNCHER = "all processes", "one process", "the launcher"
POLL_SECONDS = 0.002
PATIENCE = 240.0
"""Seconds after which waiting for anything that must come is a failure; generous, for machines under load."""


class Attempt(ABC):
    """A start of a run, as seen from outside."""

    def __init__(self, run: Path, log: Path) -> None:
        self.run = run
        self.log = log

    @abstractmethod
    def ranks(self) -> list[int]:
        """Ids of the living processes that train."""

    @abstractmethod
    def code(self) -> int | None:
        """How it ended; None while it has not."""

    def launcher(self) -> int | None:
        """Id of the process that started the others, if there is one."""
        return None

    def send(self, number: int, target: str, rng: random.Random, known: list[int]) -> list[int]:
        """Sends a signal to whom `target` says, in random order; returns who got it.

        `known` are ids found before, as looking for them takes a while; those that came since are included.
        """
        launcher = self.launcher()
        chosen = [launcher] if launcher is not None else []
        if target == ONE:
            chosen = [rng.choice(known or self.ranks())]
        elif target == ALL:
            chosen = list(dict.fromkeys([*chosen, *(known or self.ranks())]))
            rng.shuffle(chosen)
        reached = [process for process in chosen if _signal(process, number)]
        if target == ALL and number == signal.SIGKILL:
            reached += [process for process in self.ranks() if process not in reached and _signal(process, number)]
        return reached

    def end(self, limit: float = PATIENCE) -> int:
        """Waits for its end and returns the exit code. AssertionError when it takes longer than `limit` seconds."""
        wait_until(lambda: self.code() is not None, limit, self.explanation)
        code = self.code()
        assert code is not None
        return code

    def text(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def explanation(self) -> str:
        """How it ended, for whoever reads the test's report: the end of what it printed, and the failure it noted."""
        failure = RunDirectory(self.run).logs.failure
        noted = failure.read_text()[-2000:] if failure.exists() else ""
        return f"ended with {self.code()}:\n{self.text()[-2000:]}\n{noted}"


Start = Callable[[Path, tuple[str, ...], int, Path], AbstractContextManager[Attempt]]
"""Starts the run at a path with overrides, a number of processes and a log; nothing is left of it afterwards."""


def wait_until(condition: Callable[[], bool], limit: float, problem: Callable[[], str]) -> None:
    """Returns as soon as the condition holds. AssertionError after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"after {limit:g} s: {problem()}"
        time.sleep(POLL_SECONDS)


def _signal(process: int, number: int) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


# By the command.


class CommandAttempt(Attempt):
    def __init__(self, process: Popen[bytes], run: Path, processes: int, log: Path) -> None:
        super().__init__(run, log)
        self.process = process
        self.processes = processes

    def launcher(self) -> int | None:
        return self.process.pid

    def ranks(self) -> list[int]:
        """A single process trains in the launcher itself."""
        if self.processes > 1:
            return worker_ids(self.run)
        return [self.process.pid] if self.process.poll() is None else []

    def code(self) -> int | None:
        """That of the launcher, who may be gone before the others are."""
        return self.process.poll()


@contextmanager
def by_command(run: Path, overrides: tuple[str, ...], processes: int, log: Path) -> Iterator[Attempt]:
    """`sivae train`, as a user starts it."""
    with started("train", "tiny", *overrides, "--nproc", processes, "--run-dir", run, log=log) as process:
        try:
            yield CommandAttempt(process, run, processes, log)
        finally:
            if process.poll() is None:
                process.kill()
            for worker in worker_ids(run):
                _signal(worker, signal.SIGKILL)


# Forked: torch is imported once, for all starts.


class ForkedAttempt(Attempt):
    def __init__(self, run: Path, processes: list[Any], log: Path) -> None:
        super().__init__(run, log)
        self.processes = processes

    def ranks(self) -> list[int]:
        return [process.pid for process in self.processes if process.exitcode is None]

    def code(self) -> int | None:
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else next((code for code in codes if code), 0)


@contextmanager
def forked(run: Path, overrides: tuple[str, ...], processes: int, log: Path) -> Iterator[Attempt]:
    """The processes of launch.worker without their launcher: for kills of training itself, in a tenth of the time."""
    directory = RunDirectory(run)
    prepare_run(directory, load_config("tiny", list(overrides)))
    directory.logs.forget_failure()
    _new_second(run)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as launch.launcher does
    forks = [start_process(_train, run, rank, processes, store.port, log) for rank in range(processes)]
    attempt = ForkedAttempt(run, forks, log)
    try:
        yield attempt
    finally:
        for process in attempt.processes:
            process.kill()
            process.join()


def _train(run: Path, rank: int, processes: int, port: int, log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["SIVAE_LAUNCHER"] = str(os.getppid())  # ended with the server, should the test be killed
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        }  # fmt: skip
    sys.argv = ["launch.worker", str(run)]
    runpy.run_module("launch.worker", run_name="__main__")  # which ends with the exit code


def _new_second(run: Path) -> None:
    """Event files of two starts are told apart, and put in order, by the second of their beginning."""
    named = [int(path.name.split(".")[3]) for path in (run / "tensorboard").glob("events.out.tfevents.*")]
    while named and time.time() < max(named) + 1:
        time.sleep(POLL_SECONDS)
