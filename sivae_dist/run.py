"""A run's directory, the contract between training and everything that looks at it.

RUN/config.yaml        the settings as resolved
RUN/checkpoints/       see sivae_dist/checkpoint
RUN/tensorboard/       events
RUN/metrics.jsonl      what follows from settings and seed
RUN/speed.jsonl        what follows from the machine
RUN/figures/           pictures
RUN/trace.jsonl        what stood at every position (monitoring.trace)
RUN/logs/              what each process printed
RUN/logs/failure.txt   how the last attempt failed: the traceback of the process that failed first
RUN/logs/stacks-N.txt  where the threads of process N were when it was found hanging
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sivae_dist.config import RunSettings, changes_the_past, differences, read_yaml, validate


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def speed(self) -> Path:
        return self.path / "speed.jsonl"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def trace(self) -> Path:
        return self.path / "trace.jsonl"

    @property
    def failure(self) -> Path:
        return self.logs / "failure.txt"

    def stacks(self, rank: int) -> Path:
        return self.logs / f"stacks-{rank}.txt"

    def forget_failure(self) -> None:
        """Before another attempt."""
        for path in (self.failure, *self.logs.glob("stacks-*.txt")):
            path.unlink(missing_ok=True)

    def note_failure(self, rank: int, text: str) -> bool:
        """Records why a process failed, unless another has failed before it; returns whether this was the first."""
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.failure, "x") as file:
                file.write(f"process {rank} on {socket.gethostname()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}")
        except FileExistsError:
            return False
        return True

    @contextmanager
    def owned(self) -> Iterator[str | None]:
        """Keeps other commands from training this run; gives a line to tell when the last owner died in office.

        ValueError naming host and process when the run has a living owner.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock, owner = FileLock(self.path / ".lock", timeout=0), self.path / ".owner"
        try:
            lock.acquire()
        except Timeout:
            name = owner.read_text() if owner.exists() else "another command"
            raise ValueError(f"{self.path} is being trained by {name}") from None
        try:
            dead = owner.read_text() if owner.exists() else None
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            yield f"note: {dead}, which trained this run, is gone; taking over" if dead else None
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def settings(self) -> RunSettings:
        """The settings of the run. ValueError when this is no run."""
        if not self.config.is_file():
            raise ValueError(f"{self.path} is not a run: it has no config.yaml")
        return validate(read_yaml(self.config), str(self.config))

    def open(self, settings: RunSettings) -> list[str]:
        """Begins or continues a run with these settings and records them; returns the keys that changed meanwhile.

        ValueError naming the keys when a change would contradict what the run has already done.
        """
        changed: list[str] = []
        if self.config.exists():
            changed = differences(self.settings().plain(), settings.plain())
            refused = [key for key in changed if changes_the_past(key)]
            if refused and any(self.checkpoints.glob("images-*")):
                raise ValueError(
                    f"{self.path} was begun with other settings ({', '.join(refused)}); "
                    "continue it with the same, or choose another --run-dir"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / ".config.yaml.partial"
        partial.write_text(settings.to_yaml())
        partial.rename(self.config)
        return changed
