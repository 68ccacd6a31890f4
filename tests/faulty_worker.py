"""A worker in which one process comes to grief, as the variable FAULT says: `KIND:RANK:STEP`."""

import atexit
import os
import signal
import time
from typing import Any, NoReturn

from launch.worker import process
from sivae_dist.checkpoint import saver
from sivae_dist.train.iteration import Iteration


def hang_here() -> NoReturn:
    while True:
        time.sleep(1)


FAULTS = {
    "hang": hang_here,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def arm(kind: str, rank: int, step: int) -> None:
    take, write = Iteration.take, saver.write
    taken = 0

    if kind == "at-exit" and int(os.environ["RANK"]) == rank:
        atexit.register(os.abort)  # as threads of a process group may
        atexit.register(os.kill, os.getpid(), signal.SIGTERM)

    def strike() -> None:
        if kind == "raise":
            raise KeyError("an injected fault")
        FAULTS[kind.removeprefix("save-")]()

    def faulty(self: Iteration, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == step and not kind.startswith("save-"):
            strike()
        return take(self, *arguments)

    def write_badly(*arguments: Any) -> int:
        strike()
        return write(*arguments)

    if int(os.environ["RANK"]) == rank:
        Iteration.take = faulty  # type: ignore[method-assign]
        if kind.startswith("save-"):
            saver.write = write_badly  # type: ignore[assignment]


if __name__ == "__main__":
    name, who, when = os.environ["FAULT"].split(":")
    arm(name, int(who), int(when))
    process()
