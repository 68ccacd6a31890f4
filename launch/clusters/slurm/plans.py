"""Which runs a job trains: its only one, or those that a sweep's plan has for each task of an array."""

import json
from collections.abc import Sequence
from pathlib import Path

from sivae_dist.run.atomic import write_text


def write_plan(plan: Path, tasks: Sequence[Sequence[Path]]) -> None:
    """A JSON list of lists."""
    write_text(plan, json.dumps([[str(run) for run in task] for task in tasks]))


def runs_of(plan: Path, index: int) -> list[Path]:
    """The runs of a job: its only one, where `plan` is a run's directory, or those at `index` of a sweep's plan."""
    return [plan] if plan.is_dir() else [Path(run) for run in json.loads(plan.read_text())[index]]
