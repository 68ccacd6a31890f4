"""The record that jobs keep in a run's directory, for the next job and for `sivae status`.

RUN/jobs.jsonl has a line for each submission. RUN/starts.jsonl has a line for each start of the run's processes, one
when they end by themselves, and one when a job gives up on the run. A job does not restart a run that `sivae cancel`
has stopped (RUN/.cancel-JOB).

Does not import torch, since it is read between two starts.
"""

import json
import time
from pathlib import Path
from typing import Any

from sivae_dist.run.directory import RunDirectory, SweepFolder, runs_below
from sivae_dist.run.jsonl import Row, append_rows, read_rows
from sivae_dist.run.progress import saved_images

NO_PROGRESS = 3
"""Number of consecutive starts without progress after which a job gives up on a run."""


def load_index(folder: Path) -> list[Row]:
    """The runs of a sweep's folder; empty if none has been submitted yet."""
    try:
        rows: list[Row] = json.loads(SweepFolder(folder).index.read_text())
    except FileNotFoundError:
        return []
    return rows


def runs_in(path: Path) -> list[Path]:
    """The run in this directory, the runs of a sweep's folder, or all runs below it. ValueError when there is none."""
    if RunDirectory(path).exists:
        return [path]
    found = [path / row["run"] for row in load_index(path)]
    found = found or runs_below(path)
    if not found:
        raise ValueError(f"{path} is not a run: it has no config.yaml, and there is no run below it")
    return found


class JobRecord:
    def __init__(self, run: Path) -> None:
        self.run = run
        self._directory = RunDirectory(run)
        self.jobs = self._directory.jobs
        self.starts = self._directory.starts

    def submitted(self, **facts: Any) -> None:
        self._directory.logs.forget_failure()  # an earlier job's, which has been fixed
        append_rows(self.jobs, [facts | {"time": time.time()}])

    def total(self) -> int | None:
        """Images of the whole run, as recorded at submission."""
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
        """Records that a start ended by itself, with an exit code of launch/worker.py."""
        append_rows(self.starts, [{"job": job, "restart": restart, "code": code, "time": time.time()}])

    def end_of(self, job: str, restart: int) -> int | None:
        """The exit code of a start; None when it did not end by itself."""
        ends = [
            row for row in read_rows(self.starts) if "code" in row and (row["job"], row["restart"]) == (job, restart)
        ]
        return ends[-1]["code"] if ends else None

    def is_finished(self) -> bool:
        """Whether the run has finished, and has not been started again since."""
        rows = read_rows(self.starts)
        return bool(rows) and rows[-1].get("code") == 0

    def is_due(self, job: str) -> bool:
        """Whether a start of this job should train the run; a job of several runs may restart only for the others."""
        rows = read_rows(self.starts)
        done = bool(rows) and rows[-1].get("code") == 0 and rows[-1]["job"] == job
        return not (done or self.is_cancelled(job) or self.given_up(job))

    def give_up(self, job: str, restart: int, why: str) -> None:
        append_rows(self.starts, [{"job": job, "restart": restart, "given_up": why, "time": time.time()}])

    def given_up(self, job: str) -> str | None:
        """Why a job has given up on this run, although it may continue with others; None when it has not."""
        found = [row["given_up"] for row in read_rows(self.starts) if row["job"] == job and "given_up" in row]
        return found[-1] if found else None

    def start(self, job: str, restart: int) -> Row | None:
        """The record of a start; it has a reason `failed` if training did not begin."""
        return next((row for row in self.starts_of(job) if row["restart"] == restart), None)

    def is_running(self, job: str) -> bool:
        """Whether the last start of this job has not recorded its end; it may have been killed."""
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
        """Whether the last NO_PROGRESS starts of a job saved no new checkpoint."""
        last = [row["images"] for row in self.starts_of(job)][-NO_PROGRESS:]
        return len(last) == NO_PROGRESS and {*last, self.saved()} == {last[0]}
