"""What a run's jobs leave in its directory, so that the next one, and `sivae status`, know what happened.

RUN/jobs.jsonl has a line for each submission; RUN/starts.jsonl one for each start of the run's processes, one when they
end by themselves, and one when a job gives the run up. A run that `sivae cancel` has ended (RUN/.cancel-JOB) is not
started again by that job.

No torch here: this is read between two starts.
"""

import json
import time
from pathlib import Path
from typing import Any

from sivae_dist.run.directory import RunDirectory, SweepFolder, runs_below
from sivae_dist.run.jsonl import Row, append_rows, read_rows
from sivae_dist.run.progress import saved_images

NO_PROGRESS = 3
"""Starts in a row that end where they began, after which a run is given up."""


def load_index(folder: Path) -> list[Row]:
    """The runs of a sweep's folder; none where none was submitted yet."""
    try:
        rows: list[Row] = json.loads(SweepFolder(folder).index.read_text())
    except FileNotFoundError:
        return []
    return rows


def runs_in(path: Path) -> list[Path]:
    """The run that lies in this directory, those of a sweep's folder, or all below it.

    ValueError when there is none.
    """
    if RunDirectory(path).exists:
        return [path]
    found = [path / row["run"] for row in load_index(path)]
    found = found or runs_below(path)
    if not found:
        raise ValueError(f"{path} is not a run: it has no config.yaml, nor is there a run below it")
    return found


class JobRecord:
    def __init__(self, run: Path) -> None:
        self.run = run
        self._directory = RunDirectory(run)
        self.jobs = self._directory.jobs
        self.starts = self._directory.starts

    def submitted(self, **facts: Any) -> None:
        self._directory.logs.forget_failure()  # of an earlier job, which was mended
        append_rows(self.jobs, [facts | {"time": time.time()}])

    def total(self) -> int | None:
        """Images of the whole run, as it was submitted."""
        job = self.last_job()
        return None if job is None else job.get("images")

    def last_job(self) -> Row | None:
        rows = read_rows(self.jobs)
        return rows[-1] if rows else None

    def started(self, job: str, restart: int, **facts: Any) -> None:
        append_rows(
            self.starts, [{"job": job, "restart": restart, "images": self.saved(), "time": time.time(), **facts}]
        )

    def ended(self, job: str, restart: int, code: int) -> None:
        """By itself, with an exit code of launch/worker.py."""
        append_rows(self.starts, [{"job": job, "restart": restart, "code": code, "time": time.time()}])

    def end_of(self, job: str, restart: int) -> int | None:
        """The code with which a start ended; None when it did not end by itself."""
        ends = [
            row for row in read_rows(self.starts) if "code" in row and (row["job"], row["restart"]) == (job, restart)
        ]
        return ends[-1]["code"] if ends else None

    def is_finished(self) -> bool:
        """Whether the run is at its end, and has not been started again since."""
        rows = read_rows(self.starts)
        return bool(rows) and rows[-1].get("code") == 0

    def is_due(self, job: str) -> bool:
        """Whether a start of this job is to train the run: it may be there for another's sake alone."""
        rows = read_rows(self.starts)
        done = bool(rows) and rows[-1].get("code") == 0 and rows[-1]["job"] == job
        return not (done or self.is_cancelled(job) or self.given_up(job))

    def give_up(self, job: str, restart: int, why: str) -> None:
        append_rows(self.starts, [{"job": job, "restart": restart, "given_up": why, "time": time.time()}])

    def given_up(self, job: str) -> str | None:
        """Why a job does not start this run again, although it may go on with others."""
        found = [row["given_up"] for row in read_rows(self.starts) if row["job"] == job and "given_up" in row]
        return found[-1] if found else None

    def start(self, job: str, restart: int) -> Row | None:
        """With `failed`, the reason, when it came to nothing."""
        return next((row for row in self.starts_of(job) if row["restart"] == restart), None)

    def is_running(self, job: str) -> bool:
        """Whether a start of this job has not left word of its end; it may have been killed."""
        rows = [row for row in read_rows(self.starts) if row["job"] == job]
        return bool(rows) and "images" in rows[-1]

    def starts_of(self, job: str) -> list[Row]:
        return [row for row in read_rows(self.starts) if row["job"] == job and "images" in row]

    def cancel(self, job: str) -> None:
        self._directory.cancelled(job).touch()

    def is_cancelled(self, job: str) -> bool:
        return self._directory.cancelled(job).exists()

    def saved(self) -> int:
        """Images at the newest complete checkpoint; 0 when there is none."""
        return saved_images(self.run)

    def is_stuck(self, job: str) -> bool:
        """Whether the last starts of a job all ended where they began."""
        last = [row["images"] for row in self.starts_of(job)][-NO_PROGRESS:]
        return len(last) == NO_PROGRESS and {*last, self.saved()} == {last[0]}
