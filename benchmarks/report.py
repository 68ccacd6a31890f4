"""Where the results of a benchmark go, and what belongs beside them."""

import importlib.metadata
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import machine


@contextmanager
def report(out: Path | None, title: str, packages: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Gives a function that prints a line; at the end all lines are also written to `out`, if there is one."""
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say(f"# {title}\n")
    say(f"- {machine()}; load average at the start {os.getloadavg()[0]:.1f}")
    say(f"- commit {commit()}, {time.strftime('%Y-%m-%d')}, Python {sys.version.split()[0]}")
    say("- " + ", ".join(f"{name} {_version(name)}" for name in packages))
    say(f"- `python -m {_module()} {shlex.join(sys.argv[1:])}".rstrip() + "`")
    try:
        yield say
        say(f"\nLoad average at the end {os.getloadavg()[0]:.1f}.")
    finally:  # what was measured before an interruption is kept, without that last line
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def commit(clone: Path = Path(__file__).parent) -> str:
    """Of a clone, with `-dirty` where it has changes; unknown where it is none."""
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"
