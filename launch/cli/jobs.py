"""`sivae status`, `logs` and `cancel`: the jobs of runs."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.errors import one_line_errors
from sivae_dist.durations import duration

if TYPE_CHECKING:
    from launch.jobs import State

Run = Annotated[Path, typer.Argument(help="The directory of a run.")]

_POLL = 0.5
_ASK = 30.0
"""Seconds between two looks at a file that grows, and between two questions to SLURM, whom many ask."""


def status(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs; all below runs/ by default.")
    ] = None,
) -> None:
    """Show where runs stand: state of the job, images, rate, time left, last metrics, restarts. Touches nothing."""
    with one_line_errors():
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table

        from launch.jobs import states_of

        found = runs or sorted({path.parent for path in Path("runs").rglob("config.yaml")})
        if not found:
            raise ValueError("there are no runs below runs/: name one")
        table = Table("run", "state", "images", "rate", "left", "rec / KL / fake", "restarts", box=SIMPLE)
        for run in found:
            if not (run / "config.yaml").is_file():
                raise ValueError(f"{run} is not a run: it has no config.yaml")
        for run, state in zip(found, states_of(found), strict=True):
            table.add_row(str(run), *_line(run, state))
        Console().print(table)


def _line(run: Path, state: "State") -> list[str]:
    from launch.record import JobRecord

    record = JobRecord(run)
    metrics = last_row(run / "metrics.jsonl") or {}
    speed = last_row(run / "speed.jsonl", lambda row: "speed/images_per_second" in row) or {}
    total = record.total()
    images, rate = metrics.get("images", 0), speed.get("speed/images_per_second")
    left = ""
    if total and rate and state.name == "running":
        left = duration((total - images) / rate)
    job = record.last_job()
    restarts = max(len(record.starts_of(job["job"])) - 1, 0) if job else 0
    values = [metrics.get(tag) for tag in ("reconstruction/per_value", "kl/real", "kl/fake")]
    return [
        f"{state.name} {state.detail}".strip(),
        f"{images:,}" + (f" / {total:,}" if total else ""),
        f"{rate:.1f}/s" if rate else "",
        left,
        " / ".join(f"{value:.3g}" for value in values if value is not None),
        str(restarts),
    ]


def last_row(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda row: True) -> dict[str, Any] | None:
    """The last complete row that is `wanted`; looked for from the end, since the file may be long."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # cut, at either end
            continue
        if wanted(row):
            return dict(row)
    return None


def cancel(run: Run) -> None:
    """End a run's job with a checkpoint. Submit it again to continue."""
    with one_line_errors():
        from launch.jobs import cancel as end

        typer.echo(end(run))


def logs(
    run: Run,
    rank: Annotated[int | None, typer.Option(min=0, help="What this process printed; else the log for people.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come, until the job ends.")] = False,
) -> None:
    """Print a run's log."""
    with one_line_errors():
        from launch.jobs import state_of
        from launch.record import JobRecord

        path = _log(run, rank)
        job = JobRecord(run).last_job() or {}
        every, asked, alive = (_ASK if job.get("kind") == "slurm" else 0.0), -math.inf, follow
        with path.open(errors="replace") as file:
            while True:
                if follow and time.monotonic() >= asked + every:
                    alive, asked = state_of(run).is_alive, time.monotonic()
                while text := file.read(1 << 16):
                    typer.echo(text, nl=False)
                if not alive:
                    return
                time.sleep(_POLL)


def _log(run: Path, rank: int | None) -> Path:
    """The log for people, or that of one process of the last job."""
    from launch.record import JobRecord

    if rank is None:
        path = run / "logs" / "log.txt"
        if not path.is_file():
            raise ValueError(f"{run} has no log yet: no job of it has started")
        return path
    job = JobRecord(run).last_job()
    name = job["job"] if job else ""
    if job and job["kind"] == "local" and rank == 0:  # it prints into the log for people
        return _log(run, None)
    of_job = [folder / "jobs" / f"{name}_{rank}_log.out" for folder in (run / "logs", run.parent)]  # alone; of a sweep
    found = [path for path in (*of_job, *(run / "logs").glob(f"**/{rank}/std*.log")) if path.is_file()]
    if not found:
        raise ValueError(f"{run} has no log of process {rank}")
    return max(found, key=lambda path: (path.stat().st_size > 0, path.stat().st_mtime))
