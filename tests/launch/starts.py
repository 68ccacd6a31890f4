"""Starts of a run, as its jobs leave them."""

from pathlib import Path

from launch.record import JobRecord

JOB = "17"


def save(run: Path, images: int) -> None:
    (run / "checkpoints" / f"images-{images:012d}").mkdir(parents=True)


def started(run: Path, restart: int = 0, code: int | None = None) -> None:
    record = JobRecord(run)
    record.started(JOB, restart)
    if code is not None:
        record.ended(JOB, restart, code)
