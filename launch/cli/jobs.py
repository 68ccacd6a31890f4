"""`sivae status`, `logs` and `cancel`: the jobs of runs."""

import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from launch.cli.errors import one_line_errors
from sivae_dist.process.durations import duration
from sivae_dist.run.directory import RunDirectory, runs_below
from sivae_dist.run.jsonl import last_row
from sivae_dist.run.terms import HEADLINES

if TYPE_CHECKING:
    from launch.clusters import State

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs, or folders of sweeps.")]

_POLL = 0.5
"""Seconds between two reads of a growing log."""

_LINES = 10
"""Last lines shown of each log when there are several."""


def status(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Runs, or folders of sweeps; all runs below runs/ by default."),
    ] = None,
) -> None:
    """Show the progress of runs: job state, images, rate, time left, last metrics, restarts. Changes nothing."""
    with one_line_errors():
        from launch.cli.tables import TableRow, show
        from launch.jobs import states_of

        if not runs and not runs_below(Path("runs")):
            raise ValueError("there are no runs below runs/: give the path of one")
        found = _all_of(runs or [Path("runs")])
        states = states_of(found)
        parents = {run.parent for run in found}
        together = len(found) > 1 and len(parents) == 1
        if together:
            typer.echo(f"{found[0].parent}:")
        rows = [
            TableRow(run.name if together else str(run), str(state), _values(run, state))
            for run, state in zip(found, states, strict=True)
        ]
        show(["images", "rate", "left", *HEADLINES, "restarts"], rows)
        if len(rows) > 1:
            counts = Counter(state.name for state in states)
            typer.echo(f"{len(rows)} runs: {', '.join(f'{count} {name}' for name, count in counts.most_common())}")


def _all_of(paths: list[Path]) -> list[Path]:
    """The runs in these directories, without duplicates. ValueError for a directory without runs."""
    from launch.record import runs_in

    return list(dict.fromkeys(run for path in paths for run in runs_in(path)))


def _values(run: Path, state: "State") -> list[str]:
    from launch.record import JobRecord

    record = JobRecord(run)
    metrics = last_row(RunDirectory(run).metrics) or {}
    speed = last_row(RunDirectory(run).speed, lambda row: "speed/images_per_second" in row) or {}
    total, rate = record.total(), speed.get("speed/images_per_second")
    images = metrics.get("images", 0)
    if total:  # the last step may overshoot
        images = min(images, total)
    left = ""
    if total and rate and state.name == "running":
        left = duration((total - images) / rate)
    job = record.last_job()
    restarts = max(len(record.starts_of(job["job"])) - 1, 0) if job else 0
    values = [metrics.get(tag) for tag in HEADLINES.values()]
    return [
        f"{images:,}" + (f" / {total:,}" if total else ""),
        f"{rate:.1f}/s" if rate else "",
        left,
        *("" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in values),
        str(restarts or ""),
    ]


def cancel(runs: Runs) -> None:
    """Stop the jobs of runs after they save a checkpoint. To continue, submit them again."""
    with one_line_errors():
        from launch.jobs import cancel as end

        for line in end(_all_of(runs)):
            typer.echo(line)


def logs(
    runs: Runs,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Show the output of this process instead of the run's log.")
    ] = None,
    lines: Annotated[
        int | None, typer.Option(min=0, help=f"Show only the last lines; default {_LINES} per run for several runs.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Print new lines as they appear, until the jobs end.")
    ] = False,
) -> None:
    """Print the logs of runs."""
    with one_line_errors():
        found = _all_of(runs)
        several = len(found) > 1
        logs = [_Log(run, rank, _LINES if several and lines is None else lines) for run in found]
        if not several and not follow:
            logs[0].open()
        last: _Log | None = None
        alive, asked, every = follow, -math.inf, max(log.patience for log in logs)
        while True:
            if follow and time.monotonic() >= asked + every:
                alive, asked = _any_alive(found), time.monotonic()
            for log in logs:
                for text in log.news():
                    if several and log is not last:
                        typer.echo(f"==> {log.run} <==")
                    last = log
                    typer.echo(text, nl=False)
                if not follow:
                    log.close()
            if not alive:
                break
            time.sleep(_POLL)
        silent = [str(log.run) for log in logs if not log.is_open]
        if silent:
            typer.echo(f"no log yet, as no job has started: {', '.join(silent)}", err=True)


def _any_alive(runs: list[Path]) -> bool:
    from launch.jobs import states_of

    return any(state.is_alive for state in states_of(runs))


class _Log:
    """A growing log, which may not exist yet."""

    def __init__(self, run: Path, rank: int | None, lines: int | None) -> None:
        from launch.jobs import patience

        self.run, self._rank, self._lines = run, rank, lines
        self.patience = patience(run)
        self._file: TextIO | None = None

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def open(self) -> None:
        """ValueError when there is none yet."""
        self._file = _log(self.run, self._rank).open(errors="replace")
        self._first = "" if self._lines is None else "".join(deque(self._file, self._lines))

    def news(self) -> Iterator[str]:
        """The text that has not been printed yet."""
        if self._file is None:
            try:
                self.open()
            except ValueError:
                return
        assert self._file is not None
        if self._first:
            yield self._first
            self._first = ""
        while text := self._file.read(1 << 16):
            yield text

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _log(run: Path, rank: int | None) -> Path:
    """The run's log, or that of one process of the last job. ValueError when there is none yet."""
    from launch.jobs import log_of

    combined = RunDirectory(run).logs.combined
    path = combined if rank is None else log_of(run, rank)
    if path is None:
        raise ValueError(f"{run} has no log of process {rank}")
    if path == combined and not path.is_file():
        raise ValueError(f"{run} has no log yet: none of its jobs has started")
    return path
