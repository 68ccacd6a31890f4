"""What has become of jobs, of which SLURM tells, or a lock."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cli.jobs import status
from launch.jobs import cancel, state_of, states_of
from launch.record import JobRecord, runs_in
from sivae_dist.run.directory import SweepFolder
from sivae_dist.run.ownership import owned, owner_of
from tests.command import ROOT, sivae

Answer = Callable[[str], None]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    JobRecord(tmp_path / "run").submitted(job="17", kind="slurm", images=400)
    return tmp_path / "run"


@pytest.mark.slow
def test_who_does_not_answer_is_not_taken_for_no(run: Path, squeue: Answer) -> None:
    squeue("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert state_of(run).name == "unknown"
    with pytest.raises(ValueError, match=r"is a job already: squeue does not answer: .*Unable to contact.*; try again"):
        states_of([run], certain=True)
    said = sivae("submit", "tiny", "--data", "nowhere", "--run-dir", run, code=1).stderr
    assert "cannot determine whether there is a job already" in said


def test_a_sweep_is_cancelled_by_its_folder(tmp_path: Path, squeue: Answer) -> None:
    runs = [tmp_path / name for name in ("a", "b", "c")]
    SweepFolder(tmp_path).index.write_text(json.dumps([{"run": run.name} for run in runs]))
    assert runs_in(tmp_path) == runs
    for number, run in enumerate(runs):
        JobRecord(run).submitted(job=f"17_{number}", kind="slurm", images=400)
    squeue('echo "17_0|RUNNING|None|n1|1:00"; echo "17_1|PENDING|JobArrayTaskLimit||"; echo "17_2|PENDING|x||"')
    scancel = tmp_path / "bin" / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n')
    scancel.chmod(0o755)
    assert [line.partition(": job ")[2] for line in cancel(runs_in(tmp_path))] == [
        "17_0 was asked to save and stop", "17_1 was removed from the queue", "17_2 was removed from the queue"
    ]  # fmt: skip
    assert (tmp_path / "asked").read_text().splitlines() == ["17_1 17_2", "--signal=USR1 17_0"]
    squeue("true")
    assert {state.name for state in states_of(runs)} == {"cancelled"}
    with pytest.raises(ValueError, match="none of these 3 runs has a job to cancel"):
        cancel(runs)


def test_what_a_killed_owner_leaves_is_no_owner(tmp_path: Path) -> None:
    holds = "import sys, time; from pathlib import Path; from sivae_dist.run.ownership import owned\n"
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


@pytest.mark.slow
def test_a_sweep_with_two_mistakes_tells_each_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps({"confg": "tiny", "grdi": {}}))
    lines = sivae("sweep", file, "--cluster", "local", code=1).stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") and str(file) in line for line in lines)


def test_status_of_a_last_step_that_reaches_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], squeue: Answer
) -> None:
    """No 1,216 of 1,200, and no time left that is less than none."""
    monkeypatch.setenv("COLUMNS", "80")
    run = tmp_path / "run"
    JobRecord(run).submitted(job="17", kind="slurm", images=1200)
    JobRecord(run).started("17", 0)
    (run / "config.yaml").touch()
    row = {"images": 1216, "reconstruction/per_value": 0.0123, "kl/real": 7.89, "kl/fake": 2345.6}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run / "speed.jsonl").write_text('{"speed/images_per_second": 10}\n')
    squeue('echo "17|RUNNING|None|n1|5:00"')
    status([run])
    printed = capsys.readouterr().out
    assert "images 1,200 / 1,200  rate 10.0/s  left 0s  rec 0.0123  KL 7.89  fake 2,346\n" in printed
    assert max(map(len, printed.splitlines())) <= 80
