"""What has become of jobs, of which SLURM tells, or a lock."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.cli.jobs import status
from launch.clusters import State
from launch.jobs import cancel, state_of, states_of
from launch.record import JobRecord, runs_in
from sivae_dist.run.directory import SweepFolder
from sivae_dist.run.ends import STOPPED, Logs
from sivae_dist.run.ownership import owned, owner_of
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


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like one that supervises job `local-1`."""
    with subprocess.Popen(["sh", "-c", "read line", "local-1"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_runs_of_a_sweep_on_this_machine(tmp_path: Path, supervisor: subprocess.Popen[bytes]) -> None:
    """A run is alive as long as its own supervisor is, and waits as long as the sweep's is."""
    names = ("now", "later", "unwanted", "saved", "broken", "killed")
    runs = {name: tmp_path / name for name in names}
    for run in runs.values():
        facts = {"kind": "local", "images": 400, "runs": 6, "host": socket.gethostname()}
        JobRecord(run).submitted(job="local-1", process=supervisor.pid, **facts)
    JobRecord(runs["unwanted"]).cancel("local-1")
    JobRecord(runs["now"]).started("local-1", 0, process=supervisor.pid)
    gone = subprocess.Popen(["true"])
    gone.wait(60)
    for name, code in {"saved": STOPPED, "broken": 1, "killed": None}.items():
        JobRecord(runs[name]).started("local-1", 0, process=gone.pid)
        if code is not None:
            JobRecord(runs[name]).ended("local-1", 0, code)
    Logs(runs["broken"] / "logs").note_failure(0, "ValueError: no", final=True)
    found = dict(zip(names, states_of([*runs.values()]), strict=True))
    assert {name: state.name for name, state in found.items()} == {
        "now": "running", "later": "waiting", "unwanted": "cancelled", "saved": "stopped", "broken": "failed",
        "killed": "killed",
    }  # fmt: skip
    assert found["broken"].detail.endswith("ValueError: no")
    supervisor.kill()
    supervisor.wait(60)
    found = dict(zip(names, states_of([*runs.values()]), strict=True))
    assert (found["now"].name, found["later"].name) == ("killed", "stopped")
    with owned(runs["now"]):  # until it has saved, as its supervisor's end has asked it to
        assert state_of(runs["now"]).name == "running" and "supervisor was killed" in state_of(runs["now"]).detail
        assert cancel([runs["now"]]) == ["job local-1 saves and ends"]


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
        "17_0 saves and ends", "17_1 is out of the queue", "17_2 is out of the queue"
    ]  # fmt: skip
    assert (tmp_path / "asked").read_text().splitlines() == ["17_1 17_2", "--signal=USR1 17_0"]
    squeue("true")
    assert {state.name for state in states_of(runs)} == {"cancelled"}
    with pytest.raises(ValueError, match="none of these 3 runs has a job that could be cancelled"):
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
