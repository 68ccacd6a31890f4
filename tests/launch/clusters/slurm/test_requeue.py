"""Whether a job of SLURM is requeued, and by whom."""

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.clusters.slurm import requeue
from launch.clusters.slurm.plans import runs_of
from launch.record import NO_PROGRESS
from sivae_dist.run.ends import STOPPED
from tests.launch.starts import JOB, started


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path


def test_waits_for_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And looks again, since it may be changed meanwhile; also when the controller was away."""
    now = time.time()
    away = subprocess.CalledProcessError(1, "scontrol")
    ends = iter(["Unknown", now + 4, now + 1000, away, now + 1000])
    waits: list[float] = []

    def facts(job: str, tries: int) -> dict[str, str]:
        assert job == JOB and tries == 1
        end = next(ends)
        if isinstance(end, Exception):
            raise end
        return {"EndTime": str(end)}

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 4:
            raise StopIteration

    monkeypatch.setattr(requeue, "_facts", facts)
    monkeypatch.setattr(requeue.time, "sleep", sleep)
    with pytest.raises(StopIteration):
        requeue.wait_for_limit(JOB, 2)
    assert waits[0] == 300 and 0 < waits[1] <= 2 and waits[2:] == [300, 300, 300]
    ends = iter([now + 2])
    requeue.wait_for_limit(JOB, 5)


def test_a_job_that_comes_to_nothing_is_given_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose container is missing: its processes never come to leave word."""
    asked: list[str] = []

    def scontrol(*arguments: str, tries: int | None = None) -> str:
        asked.append(arguments[0])
        return "JobId=17 JobState=RUNNING Reason=None"

    monkeypatch.setattr(requeue, "_scontrol", scontrol)
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    for restart in range(NO_PROGRESS):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        assert requeue.main(run) == (0 if restart < NO_PROGRESS - 1 else 1)
    assert asked.count("requeue") == NO_PROGRESS - 1
    text = (run / "logs" / "log.txt").read_text()
    assert text.count("its processes could not start; see their output in logs/jobs") == NO_PROGRESS
    assert text.count("; requeued") == NO_PROGRESS - 1 and f"given up after {NO_PROGRESS} starts" in text


def answers(monkeypatch: pytest.MonkeyPatch, state: str) -> list[str]:
    """What scontrol is asked, which tells this state of the job."""
    asked: list[str] = []

    def scontrol(*arguments: str, tries: int | None = None) -> str:
        asked.append(arguments[0])
        return f"JobState={state} X=1"

    monkeypatch.setattr(requeue, "_scontrol", scontrol)
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    return asked


@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING", "STOPPED"])
def test_a_job_that_nobody_ends_is_requeued(run: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    asked = answers(monkeypatch, state)
    started(run, 0, STOPPED)
    assert requeue.main(run) == 0
    assert asked.count("requeue") == 1


def test_a_controller_that_is_away(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for; where it stays away, the log says what to do."""
    commands, calls = tmp_path / "bin", tmp_path / "calls"
    commands.mkdir()
    stand_in = commands / "scontrol"
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    waits: list[float] = []
    # Not time.sleep itself, which subprocess calls too while a command takes its time.
    monkeypatch.setattr(requeue, "time", SimpleNamespace(sleep=waits.append, strftime=time.strftime))
    started(run, 0, STOPPED)
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {calls}; [ $(wc -l < {calls}) -gt 3 ] && echo JobState=RUNNING')
    stand_in.chmod(0o755)
    assert requeue.main(run) == 0
    assert waits == [1, 5, 15] and calls.read_text().splitlines()[-1] == f"requeue {JOB}"
    stand_in.write_text("#!/bin/sh\nexit 1")
    with pytest.raises(subprocess.CalledProcessError):
        requeue.main(run)
    assert sum(waits) > 500
    assert (run / "logs" / "log.txt").read_text().endswith("SLURM does not answer; submit it again to continue\n")


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "NODE_FAIL"])
def test_what_slurm_ends_itself_is_left_to_it(run: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    asked = answers(monkeypatch, state)
    started(run, 0, STOPPED)
    requeue.main(run)
    assert "requeue" not in asked
    assert f"not requeued here, since SLURM reports it as {state}" in (run / "logs" / "log.txt").read_text()


def test_plans(run: Path) -> None:
    assert runs_of(run, 0) == [run]
    (run / "plan.json").write_text('[["a"], ["b", "c"]]')
    assert runs_of(run / "plan.json", 1) == [Path("b"), Path("c")]
