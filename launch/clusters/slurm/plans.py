"""The runs of a job: its only one, or those that a sweep's plan assigns to each task of an array."""

import json
from collections.abc import Sequence
from pathlib import Path

from sivae_dist.run.atomic import write_text


def write_plan(plan: Path, tasks: Sequence[Sequence[Path]]) -> None:
    """Writes a JSON list with a list of runs per task."""
    write_text(plan, json.dumps([[str(run) for run in task] for task in tasks]))


def runs_of(plan: Path, index: int) -> list[Path]:
    """The runs of a job: `plan` itself if it is a run's directory, or else those at `index` of a sweep's plan."""
    return [plan] if plan.is_dir() else [Path(run) for run in json.loads(plan.read_text())[index]]
