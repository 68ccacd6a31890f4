"""What has become of jobs, of which SLURM tells, or a lock."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.jobs import state_of, states_of
from launch.record import JobRecord
from sivae_dist.ownership import owned, owner_of
from tests.command import ENVIRONMENT, ROOT, sivae

Answer = Callable[[str], None]


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Makes squeue print what a real one rarely does."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def answer(text: str) -> None:
        command = folder / "squeue"
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)

    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setitem(ENVIRONMENT, "PATH", os.environ["PATH"])
    return answer


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


def test_who_does_not_answer_is_not_taken_for_no(run: Path, squeue: Answer) -> None:
    squeue("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert state_of(run).name == "unknown"
    with pytest.raises(ValueError, match=r"cannot be told: squeue does not answer: .*Unable to contact.*; try again"):
        states_of([run], certain=True)
    said = sivae("submit", "tiny", "--data", "nowhere", "--run-dir", run, code=1).stderr
    assert "whether there is a job already cannot be told" in said


def test_one_that_slurm_has_forgotten(run: Path, squeue: Answer) -> None:
    squeue("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert state_of(run).name == "ended"


def test_what_a_killed_owner_leaves_is_no_owner(tmp_path: Path) -> None:
    holds = "import sys, time; from pathlib import Path; from sivae_dist.ownership import owned\n"
    holds += "with owned(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holds, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None and process.stdout.readline()
        assert owner_of(tmp_path) and state_of(tmp_path).name == "running"
        with pytest.raises(ValueError, match=f"is being trained by process {process.pid} on "), owned(tmp_path):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert (tmp_path / ".owner").exists()
    assert owner_of(tmp_path) is None and state_of(tmp_path).name == "not submitted"
    with owned(tmp_path) as note:
        assert note is not None and f"process {process.pid}" in note


def test_a_sweep_with_two_mistakes_tells_each_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps({"confg": "tiny", "grdi": {}}))
    lines = sivae("sweep", file, "--cluster", "local", code=1).stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") and str(file) in line for line in lines)
