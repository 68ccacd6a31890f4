"""The report of `sivae doctor`: lines on the terminal as they are found, and a JSON file that can be shared."""

import getpass
import json
import re
import shutil
import socket
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import typer

Level = Literal["ok", "warn", "fail"]

_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
_NAME = 13
"""Width of a finding's name."""
_INDENT = " " * (6 + _NAME)
_WIDEST = 100
_HEARTBEAT = 4.0
"""Seconds between reports that a check is still running."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    name: str
    detail: str
    """The result."""
    todo: str = ""
    """The remedy."""


Check = Callable[[], Iterable[Finding]]


class Report:
    """Prints findings as they are made, and keeps them together with their facts."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        """Facts by section, for the JSON only."""
        self._lock = threading.Lock()

    def check(self, name: str, check: Check) -> list[Finding]:
        """Runs a check and prints its findings. Any error in it becomes a finding and does not end the command."""
        found: list[Finding] = []
        with self._heartbeat(name):
            try:
                for finding in check():
                    found.append(finding)
                    self.add(finding)
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                failed = Finding(
                    "fail", name, f"could not be checked: {type(error).__name__}: {reason}", "report it with the JSON"
                )
                found.append(failed)
                self.add(failed)
        return found

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        mark = typer.style(f"{finding.level:<4}", fg=_COLOURS[finding.level])
        first, *more = self._wrapped(finding.detail)
        lines = [f"{mark}  {finding.name:<{_NAME}}{first}", *(_INDENT + line for line in more)]
        if finding.todo:
            first, *more = self._wrapped(finding.todo, less=3)
            lines += [f"{_INDENT}-> {first}", *(f"{_INDENT}   {line}" for line in more)]
        self._print("\n".join(lines))

    def title(self, text: str) -> None:
        self._print(typer.style(f"\n{text}", bold=True))

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)

    def write(self, path: Path, versions: dict[str, Any]) -> Path:
        """Writes the JSON to `path`, or to the system's temporary folder if that fails; returns its path."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            self.add(Finding("warn", "report", f"{path} cannot be written ({error.strerror})"))
            path = Path(tempfile.gettempdir()) / f"sivae-{path.name}"
        content = {
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **versions,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": self.facts,
        }
        path.write_text(json.dumps(without_secrets(content), indent=1, default=str) + "\n")
        return path

    def _wrapped(self, text: str, less: int = 0) -> list[str]:
        columns = min(shutil.get_terminal_size().columns, _WIDEST) if sys.stdout.isatty() else 80
        width = max(30, columns - len(_INDENT) - less)
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]

    def _print(self, text: str) -> None:
        with self._lock:
            typer.echo(text)

    @contextmanager
    def _heartbeat(self, name: str) -> Iterator[None]:
        """Reports every few seconds that the check is still running."""
        done, start = threading.Event(), time.monotonic()

        def beat() -> None:
            while not done.wait(_HEARTBEAT):
                self._print(f"...   {name}: running for {time.monotonic() - start:.0f} s")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def without_secrets(value: Any) -> Any:
    """The value without the home directory's path, user and host names, and passwords in URLs."""
    words = {socket.gethostname(): "HOST"}
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, in a container
        user = ""
    if len(user) > 2 and user != "root":
        words[user] = "USER"
    home = str(Path.home())

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {clean(str(key)): clean(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [clean(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if len(home) > 1:
            value = re.sub(rf"{re.escape(home)}(?![\w-])", "~", value)
        value = re.sub(r"://[^/@\s]+@", "://***@", value)
        for word, shown in words.items():
            value = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown, value)
        return value

    return clean(value)
