"""Whether a run is started again, from how it ended."""

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.clusters.slurm import requeue
from launch.clusters.slurm.plans import runs_of
from launch.record import NO_PROGRESS, JobRecord
from launch.verdict import FINISHED, judge
from sivae_dist.run.ends import STOPPED, Logs

JOB = "17"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path


def save(run: Path, images: int) -> None:
    (run / "checkpoints" / f"images-{images:012d}").mkdir(parents=True)


def started(run: Path, restart: int = 0, code: int | None = None) -> None:
    record = JobRecord(run)
    record.started(JOB, restart)
    if code is not None:
        record.ended(JOB, restart, code)


@pytest.mark.parametrize(
    ("code", "again", "why"),
    [
        (0, False, "has finished"),
        (STOPPED, True, "was asked to stop and has saved"),
        (1, True, "failed: the lines above say why"),
        (None, True, "failed: a process or its node was lost"),
    ],
)
def test_how_it_ended(run: Path, code: int | None, again: bool, why: str) -> None:
    started(run, code=code)
    assert judge(run, JOB, 0) == (again, why)


def test_only_the_start_in_question_counts(run: Path) -> None:
    started(run, 0, STOPPED)
    started(run, 1)
    assert judge(run, JOB, 1).why.startswith("failed")
    assert JobRecord(run).end_of("18", 0) is None
    assert [row["restart"] for row in JobRecord(run).starts_of(JOB)] == [0, 1]


@pytest.mark.parametrize(("final", "again"), [(True, False), (False, True)])
def test_a_failure_is_told_and_tried_again_only_where_that_may_help(run: Path, final: bool, again: bool) -> None:
    started(run, code=1)
    Logs(run / "logs").note_failure(3, "Traceback ...\nValueError: the set is damaged", final)
    verdict = judge(run, JOB, 0)
    assert verdict.again == again
    assert verdict.why.startswith("failed: process 3 on ") and ": ValueError: the set is damaged" in verdict.why
    assert ("mend that and submit again" in verdict.why) == final


@pytest.mark.parametrize("code", [STOPPED, None])
def test_without_progress_it_is_given_up(run: Path, code: int | None) -> None:
    save(run, 400)
    for restart in range(NO_PROGRESS):
        started(run, restart, code)
        assert judge(run, JOB, restart).again == (restart < NO_PROGRESS - 1)
    assert f"{NO_PROGRESS} " in judge(run, JOB, NO_PROGRESS - 1).why
    save(run, 800)  # it got somewhere after all
    assert judge(run, JOB, NO_PROGRESS - 1).again


def test_late_for_the_time_limit(run: Path) -> None:
    for restart in range(NO_PROGRESS):
        started(run, restart)
        again, why = judge(run, JOB, restart, late=True)
        assert why.startswith("has not saved in time for its time limit") and again == (restart < NO_PROGRESS - 1)
    assert why.endswith("set a longer signal_delay")
    started(run, NO_PROGRESS, STOPPED)  # it has saved after all
    save(run, 400)
    assert judge(run, JOB, NO_PROGRESS, late=True).why == "was asked to stop and has saved"


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


def test_progress_in_between_counts(run: Path) -> None:
    for restart in range(4 * NO_PROGRESS):
        if restart % (NO_PROGRESS - 1) == 0:
            save(run, 100 * (restart + 1))
        started(run, restart)
        assert judge(run, JOB, restart).again


def test_a_cancelled_job_is_not_started_again(run: Path) -> None:
    record = JobRecord(run)
    started(run, code=STOPPED)
    record.cancel(JOB)
    assert judge(run, JOB, 0) == (False, "was cancelled")
    assert not record.is_cancelled("18")
    record.submitted(job="18")
    assert record.is_cancelled(JOB)  # which may be saving still


def test_lines_that_were_cut_are_not_there(run: Path) -> None:
    started(run, 0, STOPPED)
    with open(run / "starts.jsonl", "a") as file:
        file.write('{"job": "17", "resta')
    assert JobRecord(run).end_of(JOB, 0) == STOPPED


def test_what_is_no_checkpoint_is_no_progress(run: Path) -> None:
    assert JobRecord(run).saved() == 0
    save(run, 400)
    (run / "checkpoints" / ".tmp-images-000000000800").mkdir()
    (run / "checkpoints" / "damaged").mkdir()
    assert JobRecord(run).saved() == 400


def test_a_run_of_a_job_with_several(run: Path) -> None:
    """It is finished, given up or waits for its turn, and none of these is a failure."""
    assert judge(run, JOB, 0) == (True, "has not had its turn")
    started(run, 0, 0)
    assert judge(run, JOB, 1) == (False, FINISHED)  # which the start after it left out
    started(run, 2)  # after all
    assert not JobRecord(run).is_finished() and judge(run, JOB, 2).again
    JobRecord(run).give_up(JOB, 2, "failed: it is damaged")
    assert judge(run, JOB, 3) == (False, "failed: it is damaged")
    assert JobRecord(run).given_up("18") is None


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
    assert text.count("its processes did not come to start; what they printed lies in logs/jobs") == NO_PROGRESS
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
    assert (run / "logs" / "log.txt").read_text().endswith("SLURM does not answer; submit it again to go on\n")


def test_of_a_start_that_was_refused_only_its_own_reason_counts(run: Path) -> None:
    """What the owner of the run left of a failure is not this job's."""
    Logs(run / "logs").note_failure(0, "ValueError: of somebody else", final=True)
    JobRecord(run).started(JOB, 0, failed="it is being trained by process 5")
    assert judge(run, JOB, 0) == (True, "failed: it is being trained by process 5")


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "NODE_FAIL"])
def test_what_slurm_ends_itself_is_left_to_it(run: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    asked = answers(monkeypatch, state)
    started(run, 0, STOPPED)
    requeue.main(run)
    assert "requeue" not in asked
    assert f"not requeued here, as SLURM has it as {state}" in (run / "logs" / "log.txt").read_text()


def test_an_earlier_failure_says_nothing_of_a_new_job(run: Path) -> None:
    Logs(run / "logs").note_failure(0, "ValueError: the set is damaged", final=True)
    JobRecord(run).submitted(job=JOB)
    started(run)
    assert judge(run, JOB, 0).again


def test_whose_turn_it_is(run: Path) -> None:
    record = JobRecord(run)
    assert record.is_due(JOB) and not record.is_running(JOB)
    started(run, 0)
    assert record.is_due(JOB) and record.is_running(JOB)
    record.ended(JOB, 0, 0)
    assert not record.is_due(JOB) and not record.is_running(JOB)
    assert record.is_due("18")  # which was submitted to go on, with a longer schedule
    started(run, 1)
    assert record.is_due(JOB)
    record.cancel(JOB)
    assert not record.is_due(JOB) and record.is_due("18")
    record.give_up("18", 0, "failed")
    assert not record.is_due("18")


def test_plans(run: Path) -> None:
    assert runs_of(run, 0) == [run]
    (run / "plan.json").write_text('[["a"], ["b", "c"]]')
    assert runs_of(run / "plan.json", 1) == [Path("b"), Path("c")]
