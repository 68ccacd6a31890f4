"""What happened: one event a fault, kept as JSON lines, and the table of all of them."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[2]

_COLUMNS = ("fault", "tried", "survived", "work lost (images, max)", "message to the user")
_TOLD_FIRST = ("error:", "warning:", "note:", "stopped", "interrupted", "continuing", "starting")


@dataclass
class Event:
    """One fault that was done to a run."""

    fault: str
    processes: int
    images: int = 0
    """Images seen when it came."""
    lost: int = 0
    """Of these, images that had to be seen again."""
    told: str = ""
    """The line on the user's terminal that speaks of it."""
    evidence: list[str] = field(default_factory=list)
    """What was found afterwards of the moment it hit."""
    problems: list[str] = field(default_factory=list)
    """Everything that should have been true and was not."""
    skipped: bool = False
    """It cannot be tried here; `told` says why."""
    sequence: str = ""


def line_told(text: str, run: Path, first: Iterable[str] = _TOLD_FIRST) -> str:
    """The line of a terminal's text that says most, by how it begins."""
    lines = [line.strip().replace(str(run), "RUN") for line in text.splitlines()]
    return next((line for beginning in first for line in lines if line.startswith(beginning)), "")


def tracebacks(text: str) -> list[str]:
    """What is wrong with a terminal's text: users are told in lines, not in tracebacks."""
    last = re.findall(r"^Traceback .*\n(?:[ ].*\n|\n)*(.*)", text, re.MULTILINE)
    return [f"a traceback on the terminal, of {error}" for error in dict.fromkeys(last)]


class Results:
    """The events of all sequences that are done, in a file that a later start continues."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        self.events = [Event(**json.loads(line)) for line in lines if line.endswith("\n")]

    def has(self, sequence: str) -> bool:
        return any(event.sequence == sequence for event in self.events)

    def add(self, sequence: str, events: list[Event]) -> None:
        """In one write, so that a sequence is there as a whole or not at all."""
        for event in events:
            event.sequence = sequence
        with open(self.path, "a") as file:
            file.write("".join(json.dumps(asdict(event)) + "\n" for event in events))
        self.events += events


def rows(events: list[Event]) -> list[tuple[str, str, str, str, str]]:
    """One row a kind of fault; what is told is what was told most often."""
    kinds: dict[str, list[Event]] = {}
    for event in events:
        kinds.setdefault(event.fault, []).append(event)
    found = []
    for fault in sorted(kinds):
        tried = [event for event in kinds[fault] if not event.skipped]
        if not tried:
            found.append((fault, "0", "-", "-", kinds[fault][0].told))
            continue
        told = _most_often([event.told for event in tried])
        survived = sum(not event.problems for event in tried)
        found.append((fault, str(len(tried)), str(survived), str(max(event.lost for event in tried)), told))
    return found


def _most_often(lines: list[str]) -> str:
    """The first of those that are told most often; numbers in them do not tell them apart."""
    alike = Counter(re.sub(r"\d+", "N", line) for line in lines)
    return next(line for line in lines if re.sub(r"\d+", "N", line) == alike.most_common(1)[0][0])


def counts(events: list[Event]) -> str:
    """How many of the kills hit what, by what was found afterwards."""
    kills = [event for event in events if event.fault.startswith("kill -9")]
    found = Counter(evidence for event in kills for evidence in event.evidence)
    sizes = Counter(event.processes for event in events if not event.skipped)
    return (
        f"{len(kills)} kills" + "".join(f", {count} {name}" for name, count in sorted(found.items())) + "; "
        + ", ".join(f"{count} faults on {size} process{'es' * (size > 1)}" for size, count in sorted(sizes.items()))
    )  # fmt: skip


def show(events: list[Event]) -> None:
    """The table, and every problem below it."""
    table = Table(*_COLUMNS, box=SIMPLE)
    for row in rows(events):
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    console.print(table, markup=False)
    console.print(counts(events), highlight=False)
    for event in events:
        for problem in event.problems:
            console.print(f"{event.sequence}: {event.fault}: {_short(problem)}", markup=False, highlight=False)


def markdown(events: list[Event], seed: int, title: str) -> str:
    """The same for the documentation, with what the figures depend on."""
    table = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    table += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows(events)]
    problems = [f"* {e.sequence}: {e.fault}: {_short(problem)}" for e in events for problem in e.problems]
    about = f"{time.strftime('%Y-%m-%d')}, commit {_commit()}, seed {seed}, {machine()}, torch {torch.__version__}."
    return "\n".join([f"# {title}", "", about, "", f"{counts(events)}.", "", *table, "", *problems]).rstrip() + "\n"


def _short(text: str) -> str:
    """In one line, of a long text its beginning and its end."""
    line = " ".join(text.split())
    return line if len(line) < 500 else f"{line[:150]} ... {line[-350:]}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with local changes" if git("status", "-s") else "")
