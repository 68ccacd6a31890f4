"""What SLURM says of jobs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launch.clusters import State
from launch.jobs import state_of, states_of
from launch.record import JobRecord

Answer = Callable[[str], None]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    JobRecord(tmp_path / "run").submitted(job="17", kind="slurm", images=400)
    return tmp_path / "run"


@pytest.mark.parametrize("shown", ["RUNNING", "CONFIGURING", "STAGE_OUT", "RESIZING", "STOPPED"])
def test_a_job_that_runs_may_be_shown_in_other_states(run: Path, squeue: Answer, shown: str) -> None:
    # As squeue does: what is asked for by name has to be shown under that name.
    squeue(f'case "$*" in *--states*) ;; *) echo "17|{shown}|None|n1|1:00" ;; esac')
    state = state_of(run)
    assert state.name == "running" and state.is_alive
    assert shown == "RUNNING" or shown.lower() in state.detail


def test_one_that_slurm_has_forgotten(run: Path, squeue: Answer) -> None:
    squeue("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert state_of(run).name == "stopped"


@pytest.mark.parametrize(
    ("left", "said"), [("1-02:03:04", "1d02h"), ("5:06:07", "5h06m"), ("0:09", "9s"), ("UNLIMITED", "unlimited")]
)
def test_how_long_a_job_may_run(run: Path, squeue: Answer, left: str, said: str) -> None:
    squeue(f'echo "17|RUNNING|None|n1|{left}"')
    assert state_of(run) == State("running", f"on n1, {said} to its limit")


@pytest.mark.parametrize(
    ("reason", "detail"),
    [("JobArrayTaskLimit", "for a slot of its array"), ("Resources", "for free nodes"), ("QOSMaxGRES", "QOSMaxGRES")],
)
def test_why_a_job_waits(run: Path, squeue: Answer, reason: str, detail: str) -> None:
    squeue(f'echo "17|PENDING|{reason}||1:00"')
    assert state_of(run) == State("pending", detail)


def test_runs_of_one_task(tmp_path: Path, squeue: Answer) -> None:
    """That SLURM has the job running says nothing about those before and after the one that is trained."""
    runs = [tmp_path / name for name in ("done", "broken", "unwanted", "now", "later")]
    for run in runs:
        JobRecord(run).submitted(job="17_0", kind="slurm", images=400, runs=5)
    for run, code in {"done": 0, "broken": 1, "now": None}.items():
        JobRecord(tmp_path / run).started("17_0", 0)
        if code is not None:
            JobRecord(tmp_path / run).ended("17_0", 0, code)
    JobRecord(tmp_path / "broken").give_up("17_0", 0, "failed: process 0 on n1: ValueError: no")
    JobRecord(tmp_path / "unwanted").cancel("17_0")
    squeue('echo "17_0|RUNNING|None|n1|1:00"')
    states = states_of(runs)
    assert [state.name for state in states] == ["finished", "failed", "cancelled", "running", "waiting"]
    assert states[1].detail == "process 0 on n1: ValueError: no"
