"""The end of a command's processes: exit codes, and files that say why they ended."""

import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

STOPPED = 75
"""Exit code of a run that was saved and ended on request before its end (sysexits.h: EX_TEMPFAIL, try again later)."""

INTERRUPTED = 130
"""Exit code after a second Ctrl-C."""

_FINAL = "another attempt would end the same way"


@dataclass(frozen=True)
class Logs:
    """The files in which the processes of one command record how they ended."""

    path: Path

    @property
    def failure(self) -> Path:
        return self.path / "failure.txt"

    @property
    def combined(self) -> Path:
        """For people: what the first process printed, and what became of each start."""
        return self.path / "log.txt"

    def stacks(self, rank: int) -> Path:
        return self.path / f"stacks-{rank}.txt"

    def forget_failure(self) -> None:
        """Removes the records of a failure, before another attempt."""
        for path in (self.failure, *self.path.glob("stacks-*.txt")):
            path.unlink(missing_ok=True)

    def note_failure(self, rank: int, text: str, final: bool) -> bool:
        """Records why a process failed, unless another has failed before it; returns whether this was the first.

        `final`: another attempt would end the same way.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        facts = [f"process {rank} on {socket.gethostname()}", time.strftime("%Y-%m-%d %H:%M:%S"), *[_FINAL] * final]
        try:
            with open(self.failure, "x") as file:
                file.write(f"{', '.join(facts)}\n{text}")
        except FileExistsError:
            return False
        return True

    def append(self, line: str) -> None:
        """Adds a line to the log for people; if that fails, prints it to stderr. Never raises OSError."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.combined, "a") as file:
                file.write(f"{line}\n")
        except OSError as error:
            print(f"{line} (not in the log: {error})", file=sys.stderr, flush=True)

    def hangs(self) -> list[Path]:
        """The files with the stacks of processes that made no progress."""
        return [path for path in sorted(self.path.glob("stacks-*.txt")) if path.stat().st_size]

    def reason(self) -> str | None:
        """Why the first process failed, in one line."""
        if stacks := self.hangs():
            return f"a process made no progress; where its threads were: {', '.join(map(str, stacks))}"
        if not self.failure.exists():
            return None
        first, *rest = self.failure.read_text().splitlines() or [""]
        return f"{first.split(',')[0]}: {rest[-1] if rest else 'failed'}"

    def is_final(self) -> bool:
        """Whether another attempt would end the same way."""
        return self.failure.exists() and _FINAL in self.failure.read_text().partition("\n")[0]
