"""Whether a run is started again, from how it ended."""

from pathlib import Path

import pytest

from launch.record import NO_PROGRESS, JobRecord
from launch.verdict import FINISHED, judge
from sivae_dist.run.ends import STOPPED, Logs
from tests.launch.starts import JOB, save, started


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize(
    ("code", "again", "why"),
    [
        (0, False, "has finished"),
        (STOPPED, True, "was asked to stop and saved a checkpoint"),
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
    assert ("fix that and submit again" in verdict.why) == final


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
        assert why.startswith("did not save before its time limit") and again == (restart < NO_PROGRESS - 1)
    assert why.endswith("set a longer signal_delay")
    started(run, NO_PROGRESS, STOPPED)  # it has saved after all
    save(run, 400)
    assert judge(run, JOB, NO_PROGRESS, late=True).why == "was asked to stop and saved a checkpoint"


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


def test_a_run_of_a_job_with_several(run: Path) -> None:
    """It is finished, given up or waits for its turn, and none of these is a failure."""
    assert judge(run, JOB, 0) == (True, "has not started yet")
    started(run, 0, 0)
    assert judge(run, JOB, 1) == (False, FINISHED)  # which the start after it left out
    started(run, 2)  # after all
    assert not JobRecord(run).is_finished() and judge(run, JOB, 2).again
    JobRecord(run).give_up(JOB, 2, "failed: it is damaged")
    assert judge(run, JOB, 3) == (False, "failed: it is damaged")
    assert JobRecord(run).given_up("18") is None


def test_of_a_start_that_was_refused_only_its_own_reason_counts(run: Path) -> None:
    """What the owner of the run left of a failure is not this job's."""
    Logs(run / "logs").note_failure(0, "ValueError: of somebody else", final=True)
    JobRecord(run).started(JOB, 0, failed="it is being trained by process 5")
    assert judge(run, JOB, 0) == (True, "failed: it is being trained by process 5")


def test_an_earlier_failure_says_nothing_of_a_new_job(run: Path) -> None:
    Logs(run / "logs").note_failure(0, "ValueError: the set is damaged", final=True)
    JobRecord(run).submitted(job=JOB)
    started(run)
    assert judge(run, JOB, 0).again
