"""What jobs leave in a run's directory."""

from pathlib import Path

import pytest

from launch.record import JobRecord
from sivae_dist.run.ends import STOPPED
from tests.launch.starts import JOB, save, started


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path


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
